"""Pairs of a clause with own conditions: exactly, as long as the conditions repeat or are few to try.

Tried in this order:

1. every pair, when there are few;
2. where all comparisons with different slopes are settled beyond some distance, the far part without them;
3. the keys of a row from a table, when the condition repeats along rows, or depends on the distance alone;
4. one period of rows for all, when it repeats along the diagonals and its distances are bounded;
5. first and last keys of all rows, when the condition can be solved for the key (`intervals.py`);
6. rectangles of the score matrix, split until a rectangle is all inside or all outside (`regions.py`).

Only the last can run out of patience; what it has not decided then is between the bounds of the answer.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from math import lcm
from typing import TYPE_CHECKING, Final

from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.clause import Clause
from vitruvius.patterns.count import Count
from vitruvius.patterns.counting import clause_pairs
from vitruvius.patterns.expressions import (
    COMPARISONS,
    DISTANCE,
    Comparison,
    Condition,
    K,
    Number,
    Q,
    Truth,
    at,
    comparison,
    cost,
    junction,
    operation,
    rebuilt,
    values,
)
from vitruvius.patterns.intervals import interval_pairs
from vitruvius.patterns.periods import COLUMN, DIAGONAL, ROW, period
from vitruvius.patterns.ranges import linear_bounds
from vitruvius.patterns.regions import FEW, VERY_FEW, region_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MOST_ROWS: Final = 2**18
"""Rows that one count may add up, a fraction of a second."""


@lru_cache(maxsize=256)
def own_pairs(clause: Clause, n: int) -> Count:
    """The number of pairs (q, k) below n that a clause with own conditions allows."""
    return _pairs(replace(clause, predicates=()), clause.condition, n)


def _pairs(frame: Clause, condition: Condition, n: int) -> Count:
    """The pairs within a clause for which a condition holds."""
    if isinstance(condition, Truth):
        return Count.exactly(clause_pairs(frame, n) if condition.value else 0)
    if clause_pairs(frame, n) * cost(condition) <= VERY_FEW:
        return region_pairs(frame, condition, n)
    for sign in (1, -1):
        border, far = _settled(condition, sign)
        if far != condition and border < min(n, frame.distance_high if sign > 0 else -frame.distance_low):
            near_side, far_side = _split(frame, border, sign)
            near = Count.exactly(0) if near_side is None else _pairs(near_side, condition, n)
            return near + (Count.exactly(0) if far_side is None else _pairs(far_side, far, n))
    rows = _Rows.of(frame, condition, n)
    for found in (rows.by_table, rows.by_distance, rows.by_period, rows.by_intervals):
        count = found()
        if count is not None:
            return count
    return region_pairs(frame, condition, n)


def _split(frame: Clause, border: int, sign: int) -> tuple[Clause | None, Clause | None]:
    if sign > 0:
        near, far = Clause(distance_high=border - 1), Clause(distance_low=border)
    else:
        near, far = Clause(distance_low=1 - border), Clause(distance_high=-border)
    return frame.meet(near), frame.meet(far)


def _settled(condition: Condition, sign: int) -> tuple[int, Condition]:
    """A distance, ahead or behind, from which on some comparisons are settled, and what is left of the condition."""
    border = 1

    def outcome(node: Comparison) -> Condition:
        nonlocal border
        low, high = linear_bounds(operation("-", node.left, node.right))
        for bound, side in ((low, 1), (high, -1)):
            if bound is None:
                continue
            # With q = d + k, or k = q - d behind, the rest of the line only ever helps.
            slope = side * (bound.query if sign > 0 else bound.key)
            if slope > 0 and side * (bound.query + bound.key) >= 0:
                border = max(border, int(-side * bound.constant // slope) + 1)
                return Truth(bool(COMPARISONS[node.operator](side, 0)))
        return node

    far = rebuilt(condition, outcome)
    return border, far


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows of a frame without steps: query q may read keys [low(q), high(q)], of which a condition chooses."""

    original: Clause
    """The frame with its steps."""
    stated: Condition
    """The condition alone."""
    frame: Clause
    """The frame without its steps."""
    condition: Condition
    """The condition, with what the frame said about steps."""
    n: int
    start: int
    """First query that may have keys."""
    steady: int
    """From here on, each end of a row either stands still or moves along with the query."""
    end: int
    """Until here."""
    stop: int
    """One past the last query that may have keys."""
    level: bool
    """Whether both ends move along with the query, so that rows keep their width."""

    @staticmethod
    def of(frame: Clause, condition: Condition, n: int) -> _Rows:
        """The rows of a clause."""
        steps = [
            comparison("==", operation("%", number, Number(step)), Number(residue))
            for number, step, residue in (
                (K, frame.key_step, frame.key_residue),
                (Q, frame.query_step, frame.query_residue),
                (DISTANCE, frame.distance_multiple, 0),
            )
            if step > 1
        ]
        plain = replace(frame, key_step=1, key_residue=0, query_step=1, query_residue=0, distance_multiple=1)
        low, high, keys = plain.distance_low, plain.distance_high, plain.key_high
        start = max(plain.query_low, plain.key_low + low if low > -FOREVER else 0)
        stop = min(plain.query_high, n, min(keys, n) + high if high < FOREVER else n)
        moved = plain.key_low + high if high < FOREVER else 0
        stopped = keys + low if keys < FOREVER and low > -FOREVER else 0
        steady = min(max(start, moved, stopped), max(start, stop))
        end = max(steady, min(stop, n + low) if -FOREVER < low < 0 else stop)
        return _Rows(
            original=frame,
            stated=condition,
            frame=plain,
            condition=junction("&", [condition, *steps]),
            n=n,
            start=start,
            steady=steady,
            end=end,
            stop=stop,
            level=high < FOREVER and low > -FOREVER and keys >= FOREVER,
        )

    def bounds(self, q: int) -> tuple[int, int]:
        """The first and last key of a row; the last is below the first in an empty one."""
        frame = self.frame
        low = max(frame.key_low, frame.chunk_start(q), q - frame.distance_high)
        return low, max(low, min(frame.key_high, frame.chunk_stop(q), self.n, q - frame.distance_low + 1)) - 1

    def by_table(self) -> Count | None:
        """For a condition that repeats along rows and columns: one table of running counts for each kind of row."""
        across, down = period(self.condition, ROW), period(self.condition, COLUMN)
        if across is None or down is None or across * down * cost(self.condition) > FEW:
            return None

        def counter(kind: int) -> Callable[[int], int]:
            running = _running(self.condition, kind, range(across))

            def count(q: int) -> int:
                low, high = self.bounds(q)
                before, after = divmod(low, across), divmod(high + 1, across)
                return (after[0] - before[0]) * running[across] + running[after[1]] - running[before[1]]

            return count

        return self._added_up(lcm(across, down, *self.frame.chunks), down, counter)

    def by_distance(self) -> Count | None:
        """For a condition on the distance alone: one table of running counts over all distances."""
        nearest, farthest = max(self.frame.distance_low, 1 - self.n), min(self.frame.distance_high, self.n - 1)
        if period(self.condition, DIAGONAL) != 1 or (farthest - nearest + 1) * cost(self.condition) > FEW:
            return None
        # Distances may be negative, positions are not: both positions are moved up by n.
        running = _running(self.condition, range(self.n + nearest, self.n + farthest + 1), self.n)

        def count(q: int) -> int:
            low, high = self.bounds(q)
            return running[q - low + 1 - nearest] - running[q - high - nearest]

        return self._added_up(lcm(*self.frame.chunks), 1, lambda _: count, regular=self.level)

    def _added_up(
        self, length: int, kinds: int, counter: Callable[[int], Callable[[int], int]], *, regular: bool = True
    ) -> Count | None:
        """The sum of all rows; between `steady` and `end`, the row `length` further on has always as many more keys."""
        period = range(self.steady, self.steady + length)
        if not regular or self.end - self.steady <= 2 * length:
            period = range(0)
        alone = (self.start, self.steady), (self.end if period else self.steady, self.stop)
        if sum(stop - start for start, stop in alone) + 2 * len(period) > _MOST_ROWS:
            return None
        total = 0
        for kind in range(min(kinds, self.stop)):
            count = counter(kind)
            for start, stop in alone:
                total += sum(map(count, range(start + (kind - start) % kinds, stop, kinds)))
            for q in range(self.steady + (kind - self.steady) % kinds, period.stop, kinds):
                times, first = -(-(self.end - q) // length), count(q)
                total += times * first + times * (times - 1) // 2 * (count(q + length) - first)
        return Count.exactly(total)

    def by_period(self) -> Count | None:
        """For a condition that repeats along the diagonals, in a frame of bounded width: a period of rows for all."""
        length = period(self.condition, DIAGONAL)
        if length is None or not self.level:
            return None
        length = lcm(length, *self.frame.chunks)
        times = (self.end - self.steady) // length
        if times < 2:
            return None
        again = self.steady + length
        whole = self._part(self.steady, again).times(times)
        count = self._part(self.start, self.steady) + whole + self._part(self.steady + times * length, self.stop)
        return count if count.is_exact else None

    def _part(self, start: int, stop: int) -> Count:
        """The pairs of some rows."""
        rows = self.original.meet(Clause(query_low=start, query_high=stop)) if start < stop else None
        return Count.exactly(0) if rows is None else region_pairs(rows, self.stated, self.n)

    def by_intervals(self) -> Count | None:
        """For a condition that can be solved for the key, or for the query."""
        found = interval_pairs(self.original, self.stated, self.n)
        if found is None:
            found = interval_pairs(self.original.transposed(), at(self.stated, K, Q), self.n)
        return None if found is None else Count.exactly(found)


def _running(condition: Condition, q: int | range, k: int | range) -> Sequence[int]:
    """How often the condition held so far along a row, a column or a diagonal."""
    length = len(q) if isinstance(q, range) else len(k) if isinstance(k, range) else 1
    found = values(condition, q, k)
    return array("q", accumulate([found] * length if isinstance(found, int) else found, initial=0))


__all__ = ["own_pairs"]
