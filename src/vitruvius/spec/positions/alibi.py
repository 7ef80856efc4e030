"""Attention with linear biases."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import Position, register
from vitruvius.spec.tracing.attending import Scores

if TYPE_CHECKING:
    from vitruvius.spec.scope import Heads, Scope
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ALiBi(Position):
    """A penalty on each score that grows linearly with distance, one slope per head (Press et al., 2022)."""

    acts_on = "scores"

    kind: Literal["alibi"] = "alibi"

    def trace_scores(self, tape: Tape, heads: Heads, x: Value, scope: Scope) -> Scores:
        """A constant for each score."""
        del tape, heads, x, scope
        return Scores(bias=True)

    def slopes(self, heads: int) -> tuple[float, ...]:
        """Slope of each head: a geometric series from 2^(-8/n), filled in between powers of two."""
        power = 2 ** floor(log2(heads))
        slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        finer = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * power, 2)]
        return tuple(slopes + finer[: heads - power])
