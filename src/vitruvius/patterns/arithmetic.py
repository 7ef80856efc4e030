"""Whole-number arithmetic behind the patterns: residues, floor sums, arithmetic progressions and their unions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import gcd
from typing import Final, TypeVar

NEVER: Final = -1
"""Last reader of a key that no query reads; smaller than every position."""

FOREVER: Final = 2**62
"""Stands for "without end" in bounds and last readers; larger than every position, and fits 64 bits."""

LIMIT: Final = 2**40
"""Numbers in patterns stay below this, so that arrays of 64-bit positions never overflow."""

_MOST_SIGNED_PIECES: Final = 8

_Item = TypeVar("_Item", bound=Hashable)


def common_residue(a: int, m: int, b: int, n: int) -> tuple[int, int] | None:
    """The residue and step of all x with x = a (mod m) and x = b (mod n), or None when there are none.

    Source: the Chinese remainder theorem for moduli that need not be coprime.
    """
    shared = gcd(m, n)
    if (a - b) % shared:
        return None
    step = m // shared * n
    inverse = pow(m // shared, -1, n // shared) if n > shared else 0
    return (a + m * ((b - a) // shared * inverse % (n // shared))) % step, step


def floor_sum(count: int, divisor: int, step: int, start: int) -> int:
    """The sum of floor((start + step * i) / divisor) over 0 <= i < count; step and start may be negative.

    Takes O(log divisor). Source: the Euclid-like lattice point count, as in the AtCoder library.
    """
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (step // divisor) + count * (start // divisor)
        step, start = step % divisor, start % divisor
        count, start = divmod(step * count + start, divisor)
        divisor, step = step, divisor
    return total


@dataclass(frozen=True, slots=True)
class Progression:
    """The positions first, first + step, ..., last; never empty."""

    first: int
    last: int
    step: int

    @property
    def count(self) -> int:
        """How many positions there are."""
        return (self.last - self.first) // self.step + 1

    def meet(self, other: Progression) -> Progression | None:
        """The positions in both, or None."""
        common = common_residue(self.first, self.step, other.first, other.step)
        if common is None:
            return None
        return progression(max(self.first, other.first), min(self.last, other.last), *common)


def progression(low: int, high: int, residue: int, step: int) -> Progression | None:
    """The positions p with low <= p <= high and p = residue (mod step), or None when there are none."""
    first = low + (residue - low) % step
    if first > high:
        return None
    return Progression(first, high - (high - first) % step, step)


def inclusion_exclusion(
    items: Iterable[_Item], meet: Callable[[_Item, _Item], _Item | None], most: int
) -> dict[_Item, int] | None:
    """Signed sets whose sizes add up to the size of the union of `items`, or None when more than `most` are needed.

    Equal intersections are merged and empty ones dropped on the way, so that nested or disjoint sets stay few.
    """
    terms: dict[_Item, int] = {}
    for item in items:
        change = {item: 1}
        for term, sign in terms.items():
            both = meet(term, item)
            if both is not None:
                change[both] = change.get(both, 0) - sign
        for term, sign in change.items():
            terms[term] = terms.get(term, 0) + sign
            if not terms[term]:
                del terms[term]
        if len(terms) > most:
            return None
    return terms


def count_union(pieces: Iterable[Progression]) -> int:
    """The number of positions in at least one of the progressions."""
    distinct = list(dict.fromkeys(pieces))
    if len(distinct) <= _MOST_SIGNED_PIECES:
        terms = inclusion_exclusion(distinct, Progression.meet, 2**_MOST_SIGNED_PIECES) or {}
        return sum(sign * piece.count for piece, sign in terms.items())
    marks = bytearray(max(piece.last for piece in distinct) + 1)
    for piece in distinct:
        marks[piece.first : piece.last + 1 : piece.step] = b"\1" * piece.count
    return marks.count(1)
