"""Which batch sizes are tried, in which order, and which of them is the sweet spot. No torch, no clock.

up       8 -> 16 -> 32 ... until memory runs out, or two sizes in a row are hardly faster than the best before them
refine   between the largest that fits and the first that does not; between the sweet spot and the size below it
choose   the smallest size that fits with a margin and reaches, within some percent, the best of those that do
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from statistics import median
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError
from vitruvius.spec.reporting import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

FIRST = 8
"""Where the search begins, unless it is told where."""
GROWTH = 0.02
"""What a size has to be faster by than the best before it, to count as faster."""
PATIENCE = 2
"""Sizes in a row that are not faster, after which no larger one is tried."""

Status = Literal["measured", "out-of-memory", "too-large", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of one size."""

    batch: int
    """Samples in a piece."""
    status: Status
    """`too-large`: it was predicted not to fit, and not run; `out-of-memory`: it was run, and did not fit."""
    rates: tuple[float, ...] = ()
    """Tokens per second of the whole batch, as each measured update has it."""
    medians: tuple[float, ...] = ()
    """The median of each round."""
    peak: int | None = None
    """Bytes of the allocator at the highest moment of an update."""
    taken: int | None = None
    """Bytes that the process took, or reserved on the GPU, at most: what counts when it is to fit."""
    predicted: int = 0
    """What sizing has for `peak`."""
    why: str = ""
    """What was said where it was not measured."""

    @property
    def rate(self) -> float:
        """The median of all updates; 0 where there is none."""
        return median(self.rates) if self.rates else 0.0

    @property
    def spread(self) -> float:
        """How far the middle half of the updates lies apart, as a share of the median."""
        if len(self.rates) < 2 or not self.rate:
            return 0.0
        ordered = sorted(self.rates)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / self.rate

    @property
    def drift(self) -> float:
        """How far the medians of the rounds lie apart, as a share of the median."""
        return (max(self.medians) - min(self.medians)) / self.rate if len(self.medians) > 1 and self.rate else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The sizes that may be tried."""

    first: int
    floor: int
    """No smaller one is tried."""
    top: int
    """No larger one."""
    divisors: tuple[int, ...] | None
    """The sizes between them that divide the batch, where it is fixed; None where any will do."""

    def up(self, size: int) -> int | None:
        """The next size, at least twice as large."""
        if self.divisors is None:
            return 2 * size if 2 * size <= self.top else None
        return next((n for n in self.divisors if n >= 2 * size), None)

    def down(self, size: int) -> int | None:
        """The next size, at most half as large."""
        if self.divisors is None:
            return size // 2 if size // 2 >= self.floor else None
        return next((n for n in reversed(self.divisors) if 2 * n <= size), None)

    def between(self, low: int, high: int) -> int | None:
        """The size nearest to the middle of two others."""
        if self.divisors is None:
            return (low + high) // 2 if high - low > 1 else None
        inside = [n for n in self.divisors if low < n < high]
        return min(inside, key=lambda n: abs(2 * n - low - high), default=None)


def ladder(*, whole: int | None, least: int | None, most: int) -> Ladder:
    """The sizes between two numbers that divide a batch, where it is fixed.

    Raises UsageError when there are none.
    """
    floor = 1 if least is None else least
    top = most if whole is None else min(most, whole)
    if floor < 1:
        raise UsageError(f"{floor} is no batch size", where="--min", fix="use a whole number from 1 on")
    if most < floor:
        raise UsageError(f"--max {most} is below --min {floor}", where="--max", fix=f"use --max {floor} or more")
    start = floor if least is not None else min(FIRST, top)
    if whole is None:
        return Ladder(first=start, floor=floor, top=top, divisors=None)
    divisors = divisors_of(whole)
    allowed = tuple(n for n in divisors if floor <= n <= top)
    if not allowed:
        raise UsageError(
            f"no size from {floor:,} to {most:,} divides the batch of {whole:,}, which stays as it is",
            where="--min",
            fix=f"pieces of it have {listed([str(n) for n in divisors[:12]])} samples",
        )
    first = max((n for n in allowed if n <= start), default=allowed[0])
    return Ladder(first=first, floor=floor, top=top, divisors=allowed)


def divisors_of(number: int) -> tuple[int, ...]:
    """All of them, smallest first."""
    low = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return tuple(dict.fromkeys([*low, *(number // n for n in reversed(low))]))


def choose(tried: Iterable[Tried], *, within: float, fits: Callable[[Tried], bool]) -> Tried | None:
    """The smallest of those that fit whose rate is within a share of the best of them; None where none fits."""
    fitting = [each for each in tried if each.status == "measured" and fits(each)]
    best = max((each.rate for each in fitting), default=0.0)
    good = [each for each in fitting if each.rate >= (1 - within) * best]
    return min(good, key=lambda each: each.batch, default=None)


def search(
    rungs: Ladder, measure: Callable[[int], Tried], *, within: float, fits: Callable[[Tried], bool]
) -> dict[int, Tried]:
    """Every size that is worth trying, once, in the order in which they were."""
    tried: dict[int, Tried] = {}

    def good(size: int) -> bool:
        if size not in tried:
            tried[size] = measure(size)
        return tried[size].status == "measured" and fits(tried[size])

    def sweet() -> int | None:
        chosen = choose(tried.values(), within=within, fits=fits)
        return None if chosen is None else chosen.batch

    size: int | None = rungs.first
    while size is not None and not good(size):
        size = rungs.down(size)
    if size is None:
        return tried
    if size == rungs.first:
        _climb(rungs, size, good, tried)
    largest = max(n for n, each in tried.items() if each.status == "measured" and fits(each))
    walls = [n for n in tried if n > largest]
    best = max(tried.values(), key=lambda each: each.rate if fits(each) else 0.0)
    if walls and best.batch == largest and (middle := rungs.between(largest, min(walls))) is not None:
        good(middle)
    _refine(rungs, good, tried, sweet)
    return tried


def _climb(rungs: Ladder, size: int, good: Callable[[int], bool], tried: Mapping[int, Tried]) -> None:
    """Larger sizes, until one does not fit or several are no faster."""
    best, idle = tried[size].rate, 0
    above = rungs.up(size)
    while above is not None and idle < PATIENCE and good(above):
        idle = 0 if tried[above].rate > (1 + GROWTH) * best else idle + 1
        best = max(best, tried[above].rate)
        above = rungs.up(above)


def _refine(
    rungs: Ladder, good: Callable[[int], bool], tried: Mapping[int, Tried], sweet: Callable[[], int | None]
) -> None:
    """Smaller sizes that may do as well as the sweet spot."""
    chosen = sweet()
    if chosen is None:
        return
    below = [n for n in tried if n < chosen]
    if below:
        middle = rungs.between(max(below), chosen)
        if middle is not None:
            good(middle)
        return
    while chosen is not None and (smaller := rungs.down(chosen)) is not None and good(smaller):
        if sweet() != smaller:
            return
        chosen = smaller


def noise(tried: Sequence[Tried]) -> tuple[float, float]:
    """How much updates of one size differ, and how much sizes do, both as shares: (noise, difference).

    The noise is the larger of the usual spread within a size and the usual drift between rounds.
    """
    timed = [each for each in tried if each.rates]
    if not timed:
        return 0.0, 0.0
    own = max(median(each.spread for each in timed), median(each.drift for each in timed))
    rates = [each.rate for each in timed]
    return own, (max(rates) - min(rates)) / max(rates)
