"""The largest number for which a bill that only grows stays within a limit: exact, with few bills."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def largest(needed: Callable[[int], int], available: int, *, start: int, most: int) -> int:
    """The largest number from 1 to `most` for which `needed` is at most `available`; 0 where there is none.

    The answer fits and the number after it does not; where `needed` never falls when its argument grows, that is the
    largest of all. Guesses along a line between the ends save bills, and every third step halves what is left so that
    no shape of `needed` makes it slow.
    """
    known: dict[int, int] = {}

    def over(number: int) -> int:
        if number not in known:
            known[number] = needed(number) - available
        return known[number]

    low, high = _bracket(over, min(start, most), most)
    turn = 0
    while high - low > 1:
        turn += 1
        middle = (low + high) // 2
        if turn % 3 and low:
            below, above = over(low), over(high)
            guess = low + (high - low) * -below // max(1, above - below)
            # A number before the guess and one after it close the bracket at once where the bill is a line.
            middle = min(max(guess + turn % 2, low + 1), high - 1)
        if over(middle) <= 0:
            low = middle
        else:
            high = middle
    return low


def _bracket(over: Callable[[int], int], start: int, most: int) -> tuple[int, int]:
    """The last number known to fit (0: none) and the first known not to (`most` + 1: none)."""
    if over(start) <= 0:
        low = start
        while low < most:
            further = min(low * 4, most)
            if over(further) > 0:
                return low, further
            low = further
        return most, most + 1
    high = start
    while high > 1:
        nearer = max(1, high // 4)
        if over(nearer) <= 0:
            return nearer, high
        high = nearer
    return 0, 1
