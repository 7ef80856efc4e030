"""Positions added to the embedding: learned and sinusoidal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import LearnedTable, Position, PositiveFloat, PositiveInt, Scope, TensorSpec, Twin, register
from vitruvius.spec.placing import added_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPosition(Position):
    """A trained vector per position, added to the token embedding (Gehring et al., 2017; GPT-2)."""

    acts_on = "embedding"

    kind: Literal["learned"] = "learned"
    size: PositiveInt | None = None
    """Last position it may ever hold, plus one; the context when not given."""
    start: PositiveInt | None = None
    """Rows at first; the table grows on demand up to `size`. All of `size` when not given."""

    def limit(self, scope: Scope) -> int:
        """Longest sequence the table may grow to."""
        return self.size or scope.context

    def longest_sequence(self, scope: Scope) -> int:
        """Longest sequence the table may grow to."""
        return self.limit(scope)

    def rows(self, scope: Scope) -> int:
        """Rows that the built module starts with."""
        return self.start or self.limit(scope)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """One row per position."""
        return {"weight": TensorSpec(shape=(self.rows(scope), scope.width), role="table")}

    def trace_embedded(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Adds rows of the table; keeps which ones."""
        length, width = x.shape[-2:]
        rows = length * (x.shape[0] if tape.work.documents == "separate" else 1)
        ids = tape.constant(f"{tape.place}positions", 8 * rows)
        y, weights = tape.like(x), self.rows(scope) * width * x.item
        tape.op(
            "positions",
            reads=[x, ids],
            makes=[y],
            saves=[ids],
            forward=rows * width * x.item,
            gives=[(x, "same")],
            weights=weights,
            backward=rows * width * x.item,
        )
        return y

    def learned_table(self, scope: Scope) -> LearnedTable:
        """The table that grows."""
        return LearnedTable(name="weight", rows=self.rows(scope), limit=self.limit(scope))

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """A table as long as the twin's context."""
        start = None if self.start is None else min(self.start, twin.context)
        return {"size": None if self.size is None else twin.context, "start": start}

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Tables that cannot hold the context."""
        limit = self.limit(scope)
        if limit < scope.context:
            what = f"{limit:,} learned positions cannot hold the context of {scope.context:,}"
            yield Finding(path="size", what=what, fix=f"use size {scope.context}, or a context of at most {limit}")
        if self.start is not None and self.start > limit:
            what = f"the table starts with {self.start:,} rows and may grow to {limit:,}"
            yield Finding(path="start", what=what, fix=f"use at most {limit}")


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SinusoidalPosition(Position):
    """Fixed sines and cosines of geometric wavelengths, added to the token embedding (Vaswani et al., 2017)."""

    acts_on = "embedding"

    kind: Literal["sinusoidal"] = "sinusoidal"
    base: PositiveFloat = 10_000.0
    """Wavelengths run from 2 pi to 2 pi x base."""

    def trace_embedded(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Adds the vectors; keeps nothing."""
        del scope
        return added_rows(tape, x)
