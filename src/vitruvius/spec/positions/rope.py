"""Rotary positions and the scalings that stretch them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, isfinite, log, pi
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding, Severity
from vitruvius.spec.node import (
    LARGEST,
    NonNegativeFloat,
    Position,
    PositiveFloat,
    PositiveInt,
    Scaling,
    Scope,
    register,
    under,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling(Scaling):
    """Positions divided by the factor: position interpolation (Chen et al., 2023)."""

    kind: Literal["linear"] = "linear"
    factor: PositiveFloat
    """How many times longer than the original context."""
    original_context: PositiveInt | None = None
    """Tokens the model was trained on before scaling."""

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:  # noqa: ARG002
        """Every pair slowed alike."""
        return tuple(frequency / self.factor for frequency in plain)

    def longest_context(self) -> float | None:
        """Original context times the factor."""
        return None if self.original_context is None else self.factor * self.original_context


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling(Scaling):
    """Long wavelengths divided by the factor, short ones kept, a ramp between (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: PositiveFloat
    """What long wavelengths are divided by."""
    original_context: PositiveInt
    """Tokens the model was trained on before scaling."""
    low: PositiveFloat = 1.0
    """Wavelengths above original_context / low are divided by the factor."""
    high: PositiveFloat = 4.0
    """Wavelengths below original_context / high are kept."""

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:  # noqa: ARG002
        """Slow pairs slowed further, quick ones kept."""
        return tuple(self._one(frequency) for frequency in plain)

    def _one(self, frequency: float) -> float:
        wavelength = 2 * pi / frequency
        if wavelength < self.original_context / self.high:
            return frequency
        if wavelength > self.original_context / self.low:
            return frequency / self.factor
        ramp = (self.original_context / wavelength - self.low) / (self.high - self.low)
        return (1 - ramp) * frequency / self.factor + ramp * frequency

    def findings(self, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 (holds in any scope)
        """The ramp needs room between low and high."""
        if self.high <= self.low:
            what = f"high={self.high:g} must be larger than low={self.low:g}"
            yield Finding(path="high", what=what, fix="Llama 3.1 uses low 1 and high 4")


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling(Scaling):
    """Each pair interpolated by how often it turns within the original context (Peng et al., 2023)."""

    kind: Literal["yarn"] = "yarn"
    factor: PositiveFloat
    """How many times longer than the original context."""
    original_context: PositiveInt
    """Tokens the model was trained on before scaling."""
    slow: PositiveFloat = 1.0
    """Pairs that turn fewer times than this are interpolated (the paper's alpha)."""
    fast: PositiveFloat = 32.0
    """Pairs that turn more often than this are kept (the paper's beta)."""
    temperature: NonNegativeFloat = 0.1
    """Cosines and sines are multiplied by temperature * ln(factor) + 1."""

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:
        """A ramp over the pairs, between whole pairs as in the authors' code."""
        low = max(floor(self._pair_turning(self.fast, theta, width)), 0)
        high = min(ceil(self._pair_turning(self.slow, theta, width)), width - 1)
        span = max(high - low, 0.001)
        return tuple(
            frequency / self.factor * ramp + frequency * (1 - ramp)
            for i, frequency in enumerate(plain)
            for ramp in (min(max((i - low) / span, 0.0), 1.0),)
        )

    def _pair_turning(self, turns: float, theta: float, width: int) -> float:
        """Index (a real number) of the pair that turns `turns` times within the original context."""
        return width * log(self.original_context / (turns * 2 * pi)) / (2 * log(theta))

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return self.temperature * log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def longest_context(self) -> float | None:
        """Original context times the factor."""
        return self.factor * self.original_context


_WIDEST_HEAD = 8_192
"""Far beyond any published head; the angles of one of 2^31 channels would fill the memory."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryPosition(Position):
    """Queries and keys rotated by angles proportional to position (Su et al., 2021)."""

    acts_on = "rotation"

    kind: Literal["rope"] = "rope"
    theta: PositiveFloat = 10_000.0
    """Base of the wavelengths: pair i turns by theta^(-2i/width) radians per position."""
    scaling: Scaling | None = None
    """How frequencies are stretched past the context they were trained on."""

    def frequencies(self, head_width: int) -> tuple[float, ...]:
        """Radians per position of each of the head_width / 2 pairs, scaling included."""
        plain = tuple(self.theta ** (-2 * i / head_width) for i in range(head_width // 2))
        if self.scaling is None:
            return plain
        return self.scaling.frequencies(plain, self.theta, head_width)

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

    def _is_finite(self, head_width: int) -> bool:
        """Whether the factor on cosines and sines and the angles of every position are finite numbers."""
        try:
            angles = (frequency * LARGEST for frequency in self.frequencies(head_width))
            return isfinite(self.attention_factor) and all(map(isfinite, angles))
        except (OverflowError, ValueError, ZeroDivisionError):
            return False

    def findings_for_heads(self, head_width: int, farthest: int, scope: Scope) -> Iterator[Finding]:
        """Odd heads, scalings that do not reach the context, wavelengths too short for it."""
        if head_width % 2:
            what = f"rotary positions turn pairs of channels, and a head is {head_width} wide"
            yield Finding(what=what, fix="use an even head_width")
            return
        if head_width > _WIDEST_HEAD:
            what = f"a head of {head_width:,} channels is wider than rotary positions are made for"
            yield Finding(what=what, fix=f"use more heads, or a head_width of at most {_WIDEST_HEAD:,}")
            return
        if self.scaling is not None:
            wrong = list(under("scaling", self.scaling.findings(scope)))
            if wrong:
                yield from wrong
                return
            reach = self.scaling.longest_context()
            if reach is not None and reach < scope.context:
                what = f"factor x original_context reaches {reach:,.0f} tokens, and the context is {scope.context:,}"
                fix = f"multiply the factor by {scope.context / reach:g}, or use a context of at most {int(reach):,}"
                yield Finding(path="scaling.factor", severity="warning", what=what, fix=fix)
        if not self._is_finite(head_width):
            what = "theta and scaling give angles that are no finite numbers"
            yield Finding(path="theta", what=what, fix="use a theta like 1e4 to 1e7 and factors like 2 to 64")
            return
        distance = self.first_negative(head_width, farthest)
        if distance is not None:
            what = (
                f"at distance {distance:,} the rotation no longer prefers near keys over far ones (the sum of "
                f"cos(distance x frequency) over the pairs is negative), and this layer sees as far as {farthest:,}"
            )
            fix = "raise theta or scale the frequencies (docs/components/position-rope.md)"
            severity: Severity = "warning" if 2 * distance < farthest else "note"
            yield Finding(path="theta", severity=severity, what=what, fix=fix)


_MOST_COSINES = 3_000_000


@lru_cache(maxsize=1024)
def _first_negative(position: RotaryPosition, head_width: int, farthest: int) -> int | None:
    """Blocks that extend one another ask the same question again and again."""
    frequencies = position.frequencies(head_width)
    steepest, budget = sum(frequencies), _MOST_COSINES // len(frequencies)
    distance = 1
    while distance < farthest:
        total = sum(cos(distance * frequency) for frequency in frequencies)
        if total < 0:
            return distance
        # From one distance to the next the sum changes by less than `steepest`: a large one lets some be passed over.
        step = int(total / steepest) if budget > 0 else distance // 100
        distance += max(1, step)
        budget -= 1
    return None
