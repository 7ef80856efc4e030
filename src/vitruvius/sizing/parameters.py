"""How many parameters, where, and how many of them one token uses.

Counting rules: tied weights once; weights repeated with `^` once; `active` counts the embedding tables whole and is
also given without them; router-balance buffers are no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph


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
    """Stored parameters of embedding, mixers, ffns, routers, norms and head."""


def count_parameters(graph: Graph) -> Parameters:
    """Count every tensor of the graph."""
    tensors = graph.tensors()
    tables = sum(t.count for name, t in tensors.items() if name.startswith("embedding.") and t.role == "table")
    active = sum(t.active for t in tensors.values())
    by_component: dict[str, int] = {}
    for name, tensor in tensors.items():
        component = _component(name)
        by_component[component] = by_component.get(component, 0) + tensor.count
    return Parameters(
        total=sum(t.count for t in tensors.values()),
        active=active,
        active_without_embedding=active - tables,
        embedding=tables,
        by_component=by_component,
    )


def _component(name: str) -> str:
    """Which part of the bill a tensor belongs to."""
    parts = name.split(".")
    if parts[0] == "final_norm" or any(part.endswith("norm") for part in parts[1:]):
        return "norms"
    if parts[0] != "layers":
        return parts[0]
    return {"mixer": "mixers", "ffn": "ffns"}[parts[2]] if "router" not in parts else "routers"
