"""Bytes of weights and of decode state."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

BYTES_PER_VALUE = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
"""Number formats that weights and caches can be held in."""


def bytes_per_value(dtype: str) -> int:
    """Bytes of one number. Raises UsageError naming the formats there are."""
    if dtype not in BYTES_PER_VALUE:
        raise UsageError(f"there is no number format {dtype!r}", fix=f"use one of {', '.join(BYTES_PER_VALUE)}")
    return BYTES_PER_VALUE[dtype]


def weights_bytes(graph: Graph, dtype: str) -> int:
    """Bytes of all parameters held in one format."""
    return sum(tensor.count for tensor in graph.tensors().values()) * bytes_per_value(dtype)


def kv_cache_bytes(graph: Graph, capacity: int, batch: int, dtype: str) -> int:
    """Bytes of what `model.cache(batch, capacity=capacity)` allocates in tensors: exact, no growth slack.

    A window keeps no more than its reach, a dilated layer one ring of every * (W - 1) + 1 slots, keys of
    `global(every=N)` one in N beyond the window.
    """
    values = sum(prod(shape) for layer in graph.cache_shapes(capacity) for shape in layer.values())
    return values * batch * bytes_per_value(dtype)
