"""Bytes of weights and of decode state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.spec.costs import StateSpec
    from vitruvius.spec.graph import Graph

BYTES_PER_VALUE = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
"""Number formats that weights and caches can be held in."""


def bytes_per_value(dtype: str) -> int:
    """Bytes of one number. Raises UsageError naming the formats there are."""
    if dtype not in BYTES_PER_VALUE:
        raise UsageError(f"there is no number format {dtype!r}", fix=f"use one of {', '.join(BYTES_PER_VALUE)}")
    return BYTES_PER_VALUE[dtype]


def weights_bytes(graph: Graph, dtype: str, mode: str = "inference") -> int:
    """Bytes of all parameters held in one format; multi-token prediction's while training only."""
    apart = graph.mtp_tensors() if mode == "inference" else {}
    counted = (tensor for name, tensor in graph.tensors().items() if name not in apart)
    return sum(tensor.count for tensor in counted) * bytes_per_value(dtype)


def state_tensor_bytes(spec: StateSpec, dtype: str) -> int:
    """Bytes of one tensor of decode state for one sequence, when the model computes in `dtype`."""
    at_least = 4 if spec.dtype == "fp32" else 0
    return spec.count * max(bytes_per_value(dtype), at_least)


def kv_cache_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Bytes of keys and values that `model.cache(batch, capacity=capacity)` allocates: exact, no growth slack.

    A window keeps no more than its reach, a dilated layer one ring of every * (W - 1) + 1 slots, keys of
    `global(every=N)` one in N beyond the window.
    """
    return _bytes(graph, capacity, dtype, "keys") * batch


def state_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Bytes of decode state of one size (recurrences, convolutions, running sums) in the same cache, exact."""
    return _bytes(graph, capacity, dtype, "state") * batch


def _bytes(graph: Graph, capacity: int, dtype: str, role: str) -> int:
    layers = graph.states(capacity)
    return sum(state_tensor_bytes(spec, dtype) for layer in layers for spec in layer.values() if spec.role == role)
