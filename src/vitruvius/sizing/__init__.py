"""What an architecture costs, from its spec alone: parameters, memory, FLOPs."""

from vitruvius.sizing.bill import Bill, LayerBill, size
from vitruvius.sizing.claims import Verdict, judge
from vitruvius.sizing.memory import kv_cache_bytes, state_bytes, weights_bytes
from vitruvius.sizing.parameters import Parameters, count_parameters

__all__ = [
    "Bill",
    "LayerBill",
    "Parameters",
    "Verdict",
    "count_parameters",
    "judge",
    "kv_cache_bytes",
    "size",
    "state_bytes",
    "weights_bytes",
]
