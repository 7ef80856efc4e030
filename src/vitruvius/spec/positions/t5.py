"""A learned bias for each class of distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import Heads, Position, PositiveInt, Scope, TensorSpec, register
from vitruvius.spec.tracing.attending import Scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

MOST_BUCKETS = 1024
"""Far beyond any published table."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class T5Position(Position):
    """A learned term on each score, one per head and class of distance; near distances have classes of their own.

    Raffel et al., 2020 (T5). There one table serves a whole stack; here each layer has its own.
    """

    acts_on = "scores"

    kind: Literal["t5"] = "t5"
    buckets: PositiveInt = 32
    """Classes of distance, both directions together."""
    farthest: PositiveInt = 128
    """Distances from here on share the last class of their direction."""
    direction: Literal["causal", "both"] = "causal"
    """`causal` gives all classes to earlier keys (decoders), `both` half of them to later ones (encoders)."""

    @property
    def classes(self) -> int:
        """Classes of one direction."""
        return self.buckets if self.direction == "causal" else self.buckets // 2

    def starts(self) -> tuple[int, ...]:
        """The first distance of each class of one direction but the first, which starts at 0; none falls.

        The first half of the classes hold one distance each, the others grow geometrically up to `farthest`.
        """
        return _starts(self.classes, self.farthest)

    def details(self, scope: Scope) -> tuple[str]:
        """How many classes, and how far they reach."""
        del scope
        return (f"t5, {self.buckets} classes up to {self.farthest:,}",)

    def trace_scores(self, tape: Tape, heads: Heads, x: Value, scope: Scope) -> Scores:
        """A learned term for each score."""
        del tape, heads, x, scope
        return Scores(table_rows=self.buckets)

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """A row per class, a column per query head."""
        del scope
        return {"weight": TensorSpec(shape=(self.buckets, heads.queries), role="table")}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Too few classes, too many, or none that could be far."""
        del scope
        least = 2 if self.direction == "causal" else 4
        if self.buckets > MOST_BUCKETS:
            what = f"{self.buckets:,} classes of distance are more than anyone trains"
            yield Finding(path="buckets", what=what, fix=f"use at most {MOST_BUCKETS:,}; T5 has 32")
        elif self.buckets < least or (self.direction == "both" and self.buckets % 2):
            what = f"{self.buckets} classes cannot be divided over {_DIRECTIONS[self.direction]}"
            even = ", an even number" if self.direction == "both" else ""
            yield Finding(path="buckets", what=what, fix=f"use {least} or more{even}; T5 has 32")
        elif self.farthest <= self.classes // 2:
            exact = self.classes // 2
            what = (
                f"the first {exact} distances have classes of their own, and the last class starts at {self.farthest}"
            )
            yield Finding(path="farthest", what=what, fix=f"use more than {exact}; T5 has 128")


_DIRECTIONS = {"causal": "near and far keys", "both": "near and far keys, earlier and later"}


@lru_cache(maxsize=64)
def _starts(classes: int, farthest: int) -> tuple[int, ...]:
    """The least distances d with e + floor(ln(d/e) / ln(farthest/e) * (classes - e)) >= c, e = classes // 2."""
    exact = classes // 2
    wide = classes - exact
    starts = list(range(1, exact + 1))
    for step in range(1, wide):
        guess = max(exact, ceil(exact * (farthest / exact) ** (step / wide)) - 1)
        # In whole numbers, because logarithms miss the powers: (d/e)^wide >= (farthest/e)^step.
        while (guess**wide) * exact**step < farthest**step * exact**wide:
            guess += 1
        starts.append(guess)
    return tuple(starts)
