"""How many parameters, where, and how many of them one token uses.

Counting rules: tied weights once; weights that layers share once; `active` counts the embedding tables whole and is
also given without them; router-balance buffers are no parameters; multi-token prediction is counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.node import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Exact parameter counts of an architecture."""

    total: int
    """Stored."""
    active: int
    """Taking part in one token: of a mixture, top_k of the experts; embedding tables counted whole."""
    active_without_embedding: int
    """`active` less the token and position tables (a tied head's matrix counts as the table)."""
    embedding: int
    """Token and learned-position tables; an untied head is not among them."""
    by_component: dict[str, int]
    """Stored parameters of embedding tables, positions (what the embedding has besides), mixers, cross-attention, ffns,
    routers, norms, streams and head."""
    mtp: int = 0
    """Of multi-token prediction, which takes part in training alone; in no other number here."""
    buffers: int = 0
    """Numbers saved beside the parameters, in fp32 whatever the format: balancing biases; in no other number here."""


def count_parameters(graph: Graph) -> Parameters:
    """Count every tensor of the graph."""
    apart = graph.mtp_tensors()
    tensors = {name: tensor for name, tensor in graph.tensors().items() if name not in apart}
    tables = sum(t.count for name, t in tensors.items() if name.startswith("embedding.") and t.role == "table")
    active = sum(t.active for t in tensors.values())
    by_component: dict[str, int] = {}
    for name, tensor in tensors.items():
        component = _component(name, tensor)
        by_component[component] = by_component.get(component, 0) + tensor.count
    return Parameters(
        total=sum(t.count for t in tensors.values()),
        active=active,
        active_without_embedding=active - tables,
        embedding=tables,
        by_component=by_component,
        mtp=sum(t.count for t in apart.values()),
        buffers=sum(t.count for t in graph.buffers().values()),
    )


_NAMES = {"mixer": "mixers", "cross": "cross-attention", "ffn": "ffns"}


def _component(name: str, tensor: TensorSpec) -> str:
    """Which part of the bill a tensor belongs to."""
    parts = name.split(".")
    if any(part.endswith("norm") for part in parts):
        return "norms"
    if parts[0] == "embedding" and tensor.role != "table":
        return "positions"
    if "layers" not in parts:
        return parts[0]
    sublayer = parts[parts.index("layers") + 2]
    return _NAMES[sublayer] if "router" not in parts else "routers"
