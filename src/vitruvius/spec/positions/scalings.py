"""What stretches rotary frequencies past the length they were trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor, log, pi, sqrt
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import NonNegativeFloat, PositiveFloat, PositiveInt, Scaling, Scope, register
from vitruvius.spec.schedulable import Schedulable, marks

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTOR = Schedulable(why="a context that is extended in steps, each with samples of its length")


def _by(kind: str, factor: float | None) -> tuple[str]:
    """How a drawing names a scaling."""
    return (f"{kind} scaling" if factor is None else f"{kind} scaling by {factor:g}",)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling(Scaling):
    """Positions divided by the factor: position interpolation (Chen et al., 2023)."""

    schedulable = marks(factor=FACTOR)

    kind: Literal["linear"] = "linear"
    factor: PositiveFloat
    """How many times longer than the original context."""
    original_context: PositiveInt | None = None
    """Tokens the model was trained on before scaling."""

    def details(self, scope: Scope) -> tuple[str]:
        """The factor."""
        del scope
        return _by(self.kind, self.factor)

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:  # noqa: ARG002
        """Every pair slowed alike."""
        return tuple(frequency / self.factor for frequency in plain)

    def longest_context(self) -> float | None:
        """Original context times the factor."""
        return None if self.original_context is None else self.factor * self.original_context


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class NtkScaling(Scaling):
    """A larger theta, so that the slowest pair is slowed by the factor and the fastest not at all (bloc97, 2023)."""

    schedulable = marks(factor=FACTOR)

    kind: Literal["ntk"] = "ntk"
    factor: PositiveFloat
    """How many times longer than the original context."""
    original_context: PositiveInt | None = None
    """Tokens the model was trained on before scaling."""

    def details(self, scope: Scope) -> tuple[str]:
        """The factor."""
        del scope
        return _by(self.kind, self.factor)

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:
        """Those of the base theta x factor^(width / (width - 2))."""
        if width <= 2:
            return plain  # a single pair turns once per position, whatever the base
        base = theta * self.factor ** (width / (width - 2))
        return tuple(base ** (-2 * i / width) for i in range(len(plain)))

    def longest_context(self) -> float | None:
        """Original context times the factor."""
        return None if self.original_context is None else self.factor * self.original_context


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling(Scaling):
    """Long wavelengths divided by the factor, short ones kept, a ramp between (Llama 3.1)."""

    schedulable = marks(factor=FACTOR)

    kind: Literal["llama3"] = "llama3"
    factor: PositiveFloat
    """What long wavelengths are divided by."""
    original_context: PositiveInt
    """Tokens the model was trained on before scaling."""
    low: PositiveFloat = 1.0
    """Wavelengths above original_context / low are divided by the factor."""
    high: PositiveFloat = 4.0
    """Wavelengths below original_context / high are kept."""

    def details(self, scope: Scope) -> tuple[str]:
        """The factor."""
        del scope
        return _by(self.kind, self.factor)

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

    schedulable = marks(factor=FACTOR)

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

    def details(self, scope: Scope) -> tuple[str]:
        """The factor."""
        del scope
        return _by(self.kind, self.factor)

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


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling(Scaling):
    """Each pair divided by a searched factor of its own, one list for short contexts, one for long (Ding et al., 2024).

    Which list counts is decided once, by the context of the architecture; the published code decides anew for every
    length it meets, so that keys in its cache may have been turned by the other list.
    """

    schedulable = marks(factor=FACTOR)

    kind: Literal["longrope"] = "longrope"
    short_factor: tuple[PositiveFloat, ...]
    """What each pair is divided by in an architecture whose context is at most original_context."""
    long_factor: tuple[PositiveFloat, ...]
    """What each pair is divided by in an architecture of a longer context."""
    original_context: PositiveInt
    """Tokens the model was trained on before scaling."""
    factor: PositiveFloat | None = None
    """How many times longer than the original context; context / original_context when not given."""

    def details(self, scope: Scope) -> tuple[str]:
        """The factor."""
        del scope
        return _by(self.kind, self.factor)

    def for_context(self, context: int) -> LongRopeScaling:
        """With the list that counts in both places, and the factor filled in."""
        counts = self.long_factor if context > self.original_context else self.short_factor
        factor = context / self.original_context if self.factor is None else self.factor
        return replace(self, short_factor=counts, long_factor=counts, factor=factor)

    def frequencies(self, plain: tuple[float, ...], theta: float, width: int) -> tuple[float, ...]:  # noqa: ARG002
        """Each pair slowed by its entry in the long list; `for_context` chooses the list."""
        return tuple(frequency / own for frequency, own in zip(plain, self.long_factor, strict=True))

    @property
    def attention_factor(self) -> float:
        """sqrt(1 + ln(factor) / ln(original_context)): longer sums are made as sharp as short ones were."""
        if self.factor is None or self.factor <= 1 or self.original_context <= 1:
            return 1.0
        return sqrt(1 + log(self.factor) / log(self.original_context))

    def longest_context(self) -> float | None:
        """Original context times the factor, where it is given."""
        return None if self.factor is None else self.factor * self.original_context

    def findings_for_pairs(self, pairs: int) -> Iterator[Finding]:
        """A list needs one entry for each pair of channels that turns."""
        for name, given in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if len(given) != pairs:
                what = f"{len(given):,} factors for {pairs:,} pairs of channels"
                yield Finding(path=name, what=what, fix=f"give {pairs:,}, one for each pair that turns, fastest first")

    def resized(self, pairs: int) -> LongRopeScaling:
        """With lists for another number of pairs, interpolated between their entries."""
        return replace(
            self, short_factor=_stretched(self.short_factor, pairs), long_factor=_stretched(self.long_factor, pairs)
        )


def _stretched(entries: tuple[float, ...], count: int) -> tuple[float, ...]:
    """As many entries along the same curve."""
    if len(entries) in {0, count}:
        return entries
    last = len(entries) - 1
    found: list[float] = []
    for i in range(count):
        at = i * last / max(count - 1, 1)
        low = min(int(at), last)
        high = min(low + 1, last)
        found.append(entries[low] + (entries[high] - entries[low]) * (at - low))
    return tuple(found)
