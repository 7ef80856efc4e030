"""What others say about an architecture, held against the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.sizing.memory import kv_cache_bytes, weights_bytes
from vitruvius.sizing.parameters import count_parameters
from vitruvius.units import exact, format_bytes, format_count, parse_quoted

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A claim and what the arithmetic says."""

    about: str
    says: str
    source: str
    holds: bool
    """Whether the true number rounds to the quoted one at the quoted precision."""
    actual: int
    shown: str
    """The true number, rounded for reading and exact."""


def judge(claim: Claim, graph: Graph) -> Verdict:
    """Hold one claim against the architecture. Raises UsageError when its number cannot be read."""
    in_bytes = claim.is_about_bytes
    quoted = parse_quoted(claim.says, "bytes" if in_bytes else "count")
    actual = measured(claim.about, graph, dtype=claim.dtype, context=claim.context)
    readable = format_bytes(actual) if in_bytes else format_count(actual)
    return Verdict(
        about=_topic(claim),
        says=claim.says,
        source=claim.source,
        holds=quoted.low <= actual < quoted.high,
        actual=actual,
        shown=f"{readable} ({exact(actual)}{' bytes' if in_bytes else ''})",
    )


def measured(
    about: Literal["parameters", "active_parameters", "weights", "kv_cache"],
    graph: Graph,
    *,
    dtype: str = "bf16",
    context: int | None = None,
    batch: int = 1,
) -> int:
    """The true number of what a claim may be about: parameters, or bytes in a format."""
    match about:
        case "parameters":
            return count_parameters(graph).total
        case "active_parameters":
            return count_parameters(graph).active
        case "weights":
            return weights_bytes(graph, dtype)
        case "kv_cache":
            return kv_cache_bytes(graph, context or graph.scope.context, batch, dtype)


def _topic(claim: Claim) -> str:
    match claim.about:
        case "weights":
            return f"weights in {claim.dtype}"
        case "kv_cache":
            tokens = f" of {claim.context:,} tokens" if claim.context else ""
            return f"KV cache{tokens} in {claim.dtype}"
        case _:
            return claim.about.replace("_", " ")
