"""What an architecture costs, from its spec alone: parameters, memory, FLOPs."""

from vitruvius.sizing.bill import Bill, LayerBill, size
from vitruvius.sizing.claims import Verdict, judge
from vitruvius.sizing.memory import Memory, kv_cache_bytes, memory_of, state_bytes, weights_bytes
from vitruvius.sizing.parameters import Parameters, count_parameters
from vitruvius.sizing.workload import Adapters, Workload

__all__ = [
    "Adapters",
    "Bill",
    "LayerBill",
    "Memory",
    "Parameters",
    "Verdict",
    "Workload",
    "count_parameters",
    "judge",
    "kv_cache_bytes",
    "memory_of",
    "size",
    "state_bytes",
    "weights_bytes",
]
