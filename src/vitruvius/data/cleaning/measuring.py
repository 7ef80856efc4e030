"""How rules compare what they measure with their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.cleaning.step import Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def at_most(reason: str, value: float, limit: float) -> Measure:
    """Passes where the value is no larger than the limit."""
    return Measure(reason=reason, value=value, relation="at most", limit=limit, passed=value <= limit)


def at_least(reason: str, value: float, limit: float) -> Measure:
    """Passes where the value is no smaller than the limit."""
    return Measure(reason=reason, value=value, relation="at least", limit=limit, passed=value >= limit)


def compared(
    rows: Iterable[tuple[str, Callable[[str, float, float], Measure], float | None, Callable[[], float]]],
) -> Iterator[Measure]:
    """The measure of each (reason, comparison, limit, value); a limit of None turns it off, and nothing is counted."""
    for reason, comparison, limit, value in rows:
        if limit is not None:
            yield comparison(reason, value(), limit)


def share(part: float, whole: float) -> float:
    """Part of the whole; nothing of nothing is 0."""
    return part / whole if whole else 0.0
