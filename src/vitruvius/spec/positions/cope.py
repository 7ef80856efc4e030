"""Positions that count what a query chooses to count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import Heads, Position, PositiveInt, Scope, TensorSpec, Twin, register
from vitruvius.spec.tracing.attending_cope import attend_cope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.patterns import Pattern
    from vitruvius.spec.tracing.tape import Tape, Value

MOST_POSITIONS = 65_536


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ContextualPosition(Position):
    """A key's position is how many keys since it the query finds relevant (Golovneva et al., 2024: CoPE)."""

    acts_on = "scores"
    has_kernel: ClassVar[bool] = True
    causal_only: ClassVar[str] = "counts the keys between an earlier key and the query"

    kind: Literal["cope"] = "cope"
    positions: PositiveInt = 64
    """Positions with a vector of their own; whatever is counted further has the last."""
    table: Literal["shared", "per-head"] = "shared"
    """Whether all query heads of a layer read one table of vectors or each its own."""

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """The vectors of the positions, which queries are multiplied with."""
        del scope
        shape = (self.positions, heads.width)
        return {"weight": TensorSpec(shape=shape if self.table == "shared" else (heads.queries, *shape), role="table")}

    def trace_attended(
        self, tape: Tape, q: Value, k: Value, v: Value, x: Value, pattern: Pattern, scope: Scope
    ) -> Value:
        """Block after block of queries, over the keys that each may see."""
        del tape, x, scope
        return attend_cope(q, k, v, pattern=pattern, positions=self.positions, per_head=self.table == "per-head")

    def token_flops_for_heads(self, heads: Heads) -> int:
        """Each query times the vector of each position."""
        return 2 * heads.queries * heads.width * self.positions

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """No more positions than the twin has tokens."""
        return {"positions": min(self.positions, twin.context)}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Tables of no use."""
        del scope
        if self.positions == 1:
            what = "one position is the same for every key, and says nothing"
            yield Finding(path="positions", what=what, fix="use 2 or more; 64 is common")
        if self.positions > MOST_POSITIONS:
            what = f"every query would be multiplied with {self.positions:,} vectors"
            yield Finding(path="positions", what=what, fix=f"use at most {MOST_POSITIONS:,}; 64 is common")
