"""Rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from math import cos, floor, isfinite
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from vitruvius.errors import Finding, Severity
from vitruvius.spec.node import LARGEST, Position, PositiveFloat, Scaling, Scope, register, under
from vitruvius.spec.schedulable import Schedulable, marks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.tracing.tape import Tape, Value

KEPT_TABLES = 16
"""Tables of cosines and sines that are kept for the next call."""
Pairing = Literal["halves", "interleaved"]
"""Which channels turn together: `halves` i and i + half, `interleaved` 2i and 2i + 1."""

Share = Annotated[float, Gt(0.0), Le(1.0)]

_WIDEST_HEAD = 8_192
"""Far beyond any published head; the angles of one of 2^31 channels would fill the memory."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryPosition(Position):
    """Queries and keys rotated by angles proportional to position (Su et al., 2021)."""

    acts_on = "rotation"
    schedulable = marks(
        theta=Schedulable(why="a larger base for longer samples: adjusted base frequency (Xiong et al., 2023)"),
    )

    kind: Literal["rope"] = "rope"
    theta: PositiveFloat = 10_000.0
    """Base of the wavelengths: pair i turns by theta^(-2i/width) radians per position."""
    scaling: Scaling | None = None
    """How frequencies are stretched past the context they were trained on."""
    fraction: Share = 1.0
    """Share of each head's channels that turn, the first ones; the others tell nothing of the position."""
    pairing: Pairing = "halves"
    """Channels that turn together: `halves` i and i + half (GPT-NeoX, Llama), `interleaved` 2i and 2i + 1 (GPT-J)."""

    def rotary_width(self, head_width: int) -> int:
        """Channels of a head that turn: its share, rounded down."""
        channels = head_width * self.fraction
        # 49 * (1 / 49) is a little less than 1.
        return round(channels) if abs(channels - round(channels)) < 1e-6 else floor(channels)

    def in_context(self, context: int) -> RotaryPosition:
        """The same with a scaling that chose by the context."""
        return self if self.scaling is None else replace(self, scaling=self.scaling.for_context(context))

    def frequencies(self, head_width: int) -> tuple[float, ...]:
        """Radians per position of each pair that turns, scaling included."""
        width = self.rotary_width(head_width)
        plain = tuple(self.theta ** (-2 * i / width) for i in range(width // 2))
        if self.scaling is None:
            return plain
        return self.scaling.frequencies(plain, self.theta, width)

    def trace_turned(self, tape: Tape, q: Value, k: Value, x: Value, scope: Scope) -> tuple[Value, Value]:
        """Queries and keys anew; only the tables are kept, which all layers with these positions share."""
        del x
        return self._turned(tape, q, scope), self._turned(tape, k, scope)

    def _turned(self, tape: Tape, x: Value, scope: Scope) -> Value:
        width = x.shape[-1]
        wide, pairs = max(4, x.item), self.rotary_width(width) // 2
        # Packed rows have tables of their own, and their rows are not worked on a few at a time.
        is_packed = tape.work.documents == "separate"
        rows = x.shape[2] * (x.shape[0] if is_packed else 1)
        key = f"{tape.place}rope {self.in_context(scope.context)} {width} {x.shape[2]}"
        tables = [tape.constant(f"{key} {which}", rows * pairs * wide) for which in ("cos", "sin")]
        turned = tape.like(x)
        # A few rows of the batch at a time, in fp32: the turned ones, and the others where they are not fp32 already.
        per_row = x.size // x.item // x.shape[0]
        numbers = (x.shape[0] * per_row if is_packed else tape.block_rows(x.shape[0], per_row)) * 2 * pairs // width
        inside = numbers * (wide + (wide if x.item < wide else 0)) + rows * 2 * pairs * wide
        tape.op(
            "rope",
            reads=[x, *tables],
            makes=[turned],
            saves=tables,
            forward=inside,
            backward=inside,
            gives=[(x, x.size)],
        )
        return turned

    def details(self, scope: Scope) -> Iterator[str]:
        """Theta and how much of a head turns, then the scaling."""
        share = "" if self.fraction == 1.0 else f", {100 * self.fraction:.3g} % of a head"
        yield f"rope, theta {self.theta:,.12g}{share}"
        if self.scaling is not None:
            yield from self.scaling.details(scope) or (f"{self.scaling.kind} scaling",)

    def resized(self, before: int, after: int) -> RotaryPosition:
        """The same on heads of another width: about the same share turns, in whole pairs."""
        pairs = min(max(1, round(after * self.rotary_width(before) / before / 2)), after // 2)
        return replace(
            self,
            fraction=1.0 if pairs * 2 == after else pairs * 2 / after,
            scaling=None if self.scaling is None else self.scaling.resized(pairs),
        )

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by (1 unless the scaling says otherwise)."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor

    def first_negative(self, head_width: int, farthest: int) -> int | None:
        """The first distance below `farthest` at which sum_i cos(distance x frequency_i) is negative, None without one.

        There the rotation stops preferring a near key over a far one ("Base of RoPE bounds context length",
        Men et al., 2024). Exact where the first lies within 3 million cosines; beyond, distances are probed in steps of
        1 %, so that the one returned is negative and an earlier one may be too.
        """
        return _first_negative(self, head_width, farthest)

    def findings_for_heads(self, head_width: int, farthest: int, scope: Scope) -> Iterator[Finding]:
        """Odd heads, scalings that do not reach the context, wavelengths too short for it."""
        wrong = list(self._size_findings(head_width))
        if not wrong and self.scaling is not None:
            wrong = list(under("scaling", self.scaling.findings(scope)))
            wrong += under("scaling", self.scaling.findings_for_pairs(self.rotary_width(head_width) // 2))
        if wrong:
            yield from wrong
            return
        chosen = self.in_context(scope.context)
        yield from self._reach_findings(farthest, scope)
        if not _is_finite(chosen, head_width):
            what = "theta and scaling give angles that are no finite numbers"
            yield Finding(path="theta", what=what, fix="use a theta like 1e4 to 1e7 and factors like 2 to 64")
            return
        distance = chosen.first_negative(head_width, farthest)
        if distance is not None:
            what = (
                f"at distance {distance:,} the rotation no longer prefers near keys over far ones (the sum of "
                f"cos(distance x frequency) over the pairs is negative), and this layer sees as far as {farthest:,}"
            )
            fix = "raise theta or scale the frequencies (docs/components/position-rope.md)"
            severity: Severity = "warning" if 2 * distance < farthest else "note"
            yield Finding(path="theta", severity=severity, what=what, fix=fix)

    def _reach_findings(self, farthest: int, scope: Scope) -> Iterator[Finding]:
        """A scaling that says how far it goes, in a layer that sees farther."""
        reach = None if self.scaling is None else self.scaling.longest_context()
        needed = min(scope.context, farthest + 1)
        if reach is not None and reach < needed:
            seen = f"the context is {needed:,}" if needed == scope.context else f"this layer sees {needed:,} positions"
            what = f"factor x original_context reaches {reach:,.0f} tokens, and {seen}"
            fix = f"multiply the factor by {needed / reach:g}, or use a context of at most {int(reach):,}"
            yield Finding(path="scaling.factor", severity="warning", what=what, fix=fix)

    def _size_findings(self, head_width: int) -> Iterator[Finding]:
        """Heads that do not fall into pairs, and heads beyond measure."""
        if head_width > _WIDEST_HEAD:
            what = f"a head of {head_width:,} channels is wider than rotary positions are made for"
            yield Finding(what=what, fix=f"use more heads, or a head_width of at most {_WIDEST_HEAD:,}")
            return
        width = self.rotary_width(head_width)
        if self.fraction == 1.0:
            if head_width % 2:
                what = f"rotary positions turn pairs of channels, and a head is {head_width} wide"
                yield Finding(what=what, fix="use an even head_width")
        elif width < 2 or width % 2:
            what = (
                f"rotary positions turn pairs of channels, and {self.fraction:g} of a head of {head_width} is {width}"
            )
            even = [n for n in (width - 1, width + 1) if n >= 2 and n % 2 == 0 and n <= head_width] or [2]
            shares = " or ".join(f"{n / head_width:.6g} (for {n})" for n in even if n <= head_width)
            yield Finding(path="fraction", what=what, fix=f"use {shares}" if shares else "use position: none")


def _is_finite(position: RotaryPosition, head_width: int) -> bool:
    """Whether the factor on cosines and sines and the angles of every position are finite numbers."""
    try:
        angles = (frequency * LARGEST for frequency in position.frequencies(head_width))
        return isfinite(position.attention_factor) and all(map(isfinite, angles))
    except (OverflowError, ValueError, ZeroDivisionError):
        return False


_MOST_COSINES = 3_000_000


@lru_cache(maxsize=1024)
def _first_negative(position: RotaryPosition, head_width: int, farthest: int) -> int | None:
    """Blocks that extend one another ask the same question again and again."""
    rising = sorted(position.frequencies(head_width))
    still = (head_width - position.rotary_width(head_width)) / 2  # pairs that do not turn: cos(0) each
    budget = _MOST_COSINES // len(rising)
    slopes = list(accumulate(rising))
    pairs = [(f, slope, len(rising) - 1 - i) for i, (f, slope) in enumerate(zip(rising, slopes, strict=True))]
    distance = 1
    while distance < farthest:
        total, step = still, 0.0
        for frequency, slope, faster in pairs:
            total += cos(distance * frequency)
            # The pairs so far change by at most `slope` from one distance to the next, and the faster ones are no less
            # than -1 each: where that leaves much, some distances can be passed over.
            if slope > 0 and total > faster + step * slope:
                step = (total - faster) / slope
        if total < 0:
            return distance
        distance += max(1, int(step) if budget > 0 else distance // 100)
        budget -= 1
    return None
