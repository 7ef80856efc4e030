"""Pairs of a condition by rectangles of the score matrix: all inside, all outside, or split again.

What a rectangle can decide without looking at its pairs follows from the ranges of the numbers in the condition. The
work is bounded; the rectangles that are left then count as "some", from none of their pairs to all.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count as numbers
from random import Random
from typing import TYPE_CHECKING, Final

from vitruvius.patterns.clause import Clause
from vitruvius.patterns.count import Count
from vitruvius.patterns.counting import clause_pairs
from vitruvius.patterns.expressions import Condition, cost, values
from vitruvius.patterns.periods import granules
from vitruvius.patterns.ranges import Range, known

if TYPE_CHECKING:
    from collections.abc import Iterator

VERY_FEW: Final = 2**15
"""Operations on single pairs that take less time than to think about them."""
FEW: Final = 2**24
"""Operations on single pairs that are worth doing without a second thought, about half a second."""
_MOST_STEPS: Final = 2**18
"""Operations on whole rectangles that one count may do, about a second."""
_PAIRS_A_STEP: Final = 32
"""Operations on single pairs, in a loop along a row, that take as long as one on a rectangle."""
_SMALL: Final = 2048
"""A rectangle of no more pairs is tried pair by pair."""
_ROWS_FOR_COLUMNS: Final = 4
"""Rectangles are kept this much wider than high: a loop along a row costs less than one over rows."""
_UNPACKING: Final = 8
"""What handling a rectangle takes besides."""
_FEWEST_ROWS, _MOST_ROWS = 4, 256
"""Rows tried in what is left over."""

_Box = tuple[int, int, int, int]
"""First query, one past the last, first key, one past the last."""


def region_pairs(frame: Clause, condition: Condition, n: int) -> Count:
    """The pairs (q, k) below n within a frame for which the condition holds, exactly or between bounds."""
    total = clause_pairs(frame, n)
    box = (frame.query_low, min(frame.query_high, n), frame.key_low, min(frame.key_high, n))
    if total * cost(condition) <= FEW:
        return Count.exactly(_one_by_one(frame, condition, box))
    borders = granules(condition)
    order = numbers()
    boxes = [(-total, next(order), box)]
    each = cost(condition) + _UNPACKING
    found = work = 0
    while boxes and work < _MOST_STEPS:
        size, _, box = heappop(boxes)
        verdict = known(condition, Range(box[0], box[1] - 1), Range(box[2], box[3] - 1))
        work += each
        if verdict is not None:
            found -= size * verdict
        elif _area(box) <= _SMALL:
            found += _one_by_one(frame, condition, box)
            work += each * (box[1] - box[0] + _area(box) // _PAIRS_A_STEP)
        else:
            for part in _halves(box, borders):
                inside = _inside(frame, part, n)
                if inside:
                    heappush(boxes, (-inside, next(order), part))
    left = -sum(size for size, _, _ in boxes)
    guess = _guess(frame, condition, [box for _, _, box in boxes], left) if left else 0
    return Count(found, found + min(guess, left), found + left)


def _area(box: _Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def _inside(frame: Clause, box: _Box, n: int) -> int:
    """The pairs of the frame in a rectangle."""
    q0, q1, k0, k1 = box
    nearest, farthest = q0 - (k1 - 1), q1 - 1 - k0
    if farthest < frame.distance_low or nearest > frame.distance_high:
        return 0
    plain = frame.key_step == frame.query_step == frame.distance_multiple == 1 and not frame.chunks
    if plain and frame.distance_low <= nearest and farthest <= frame.distance_high:
        return _area(box)
    part = frame.meet(Clause(query_low=q0, query_high=q1, key_low=k0, key_high=k1))
    return 0 if part is None else clause_pairs(part, n)


def _halves(box: _Box, borders: tuple[int, ...]) -> tuple[_Box, _Box]:
    q0, q1, k0, k1 = box
    if (q1 - q0) * _ROWS_FOR_COLUMNS > k1 - k0 and q1 - q0 > 1:
        middle = _border(q0, q1, borders)
        return (q0, middle, k0, k1), (middle, q1, k0, k1)
    middle = _border(k0, k1, borders)
    return (q0, q1, k0, middle), (q0, q1, middle, k1)


def _border(start: int, stop: int, borders: tuple[int, ...]) -> int:
    """A place to split near the middle, at a multiple of the greatest divisor that leaves something on both sides."""
    middle = (start + stop) // 2
    for step in borders:
        if step <= stop - start:
            for place in ((middle + step // 2) // step * step, middle // step * step, -(-middle // step) * step):
                if start < place < stop:
                    return place
    return middle


def _one_by_one(frame: Clause, condition: Condition, box: _Box) -> int:
    q0, q1, k0, k1 = box
    nearest, farthest = max(frame.distance_low, q0 - (k1 - 1)), min(frame.distance_high, q1 - 1 - k0)
    if farthest - nearest < q1 - q0 and frame.key_step == frame.query_step == 1 and not frame.chunks:
        step = frame.distance_multiple
        distances = range(-(-nearest // step) * step, farthest + 1, step)
        return sum(_diagonal(condition, distance, box) for distance in distances)
    return sum(_row(frame, condition, q, box) for q in range(q0, q1))


def _diagonal(condition: Condition, distance: int, box: _Box) -> int:
    """Pairs of a rectangle at one distance."""
    keys = range(max(box[2], box[0] - distance), min(box[3], box[1] - distance))
    return _held(values(condition, range(keys.start + distance, keys.stop + distance), keys), len(keys))


def _held(answers: Iterator[int] | int, length: int) -> int:
    return answers * max(0, length) if isinstance(answers, int) else sum(answers)


def _row(frame: Clause, condition: Condition, q: int, box: _Box) -> int:
    keys = frame.keys_of(q, box[3])
    if keys is None:
        return 0
    skipped = max(0, -(-(box[2] - keys.first) // keys.step))
    row = range(keys.first + skipped * keys.step, keys.last + 1, keys.step)
    return _held(values(condition, q, row), len(row))


def _guess(frame: Clause, condition: Condition, boxes: list[_Box], left: int) -> int:
    """About how many of the pairs left in these rectangles satisfy the condition: some of the rows, counted whole."""
    first, stop = min(box[0] for box in boxes), max(box[1] for box in boxes)
    affordable = FEW * (stop - first) // (left * cost(condition) + 1)
    parts = max(_FEWEST_ROWS, min(_MOST_ROWS, affordable, stop - first))
    random = Random(0)  # noqa: S311 (a sample, the same each time)
    total = 0.0
    for part in range(parts):
        low, high = (first + (stop - first) * i // parts for i in (part, part + 1))
        if low < high:
            q = random.randrange(low, high)
            total += (high - low) * sum(_row(frame, condition, q, box) for box in boxes if box[0] <= q < box[1])
    return round(total)


__all__ = ["FEW", "VERY_FEW", "region_pairs"]
