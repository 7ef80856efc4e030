"""Rows as intervals: conditions that can be solved for the key, such as `(q + 1) // 2 == k + 1` or `2 * k >= q`.

Each comparison in which the key stands alone, or only inside whole divisions, gives every row a first or a last key;
both are computed for all rows at once. Alternatives give several intervals to a row, whose union is counted.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final

from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.expressions import (
    Comparison,
    Condition,
    Junction,
    K,
    Number,
    Operation,
    Q,
    Truth,
    Whole,
    comparison,
    operation,
    parts,
    values,
)
from vitruvius.patterns.sums import Sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vitruvius.patterns.clause import Clause

_MOST_ALTERNATIVES: Final = 24
_MOST_ROWS: Final = 2**18

_Ends = tuple[list[Whole], list[Whole], list[Condition]]
"""Numbers below which no key lies, numbers above which none does, and conditions on the query alone."""


def interval_pairs(frame: Clause, condition: Condition, n: int) -> int | None:
    """The pairs (q, k) below n in a frame for which the condition holds, or None where it cannot be solved for k."""
    queries = range(
        frame.query_low + (frame.query_residue - frame.query_low) % frame.query_step,
        min(frame.query_high, n),
        frame.query_step,
    )
    if len(queries) > _MOST_ROWS or (frame.key_step > 1 and frame.distance_multiple > 1):
        return None
    alternatives = _alternatives(condition)
    if alternatives is None:
        return None
    rows: list[list[tuple[int, int]]] = []
    for terms in alternatives:
        ends = _solved([*terms, *_frame_terms(frame, n)])
        if ends is None:
            return None
        rows.append(_intervals(ends, frame, queries))
    if len(rows) == 1:
        return sum(last - first + 1 for first, last in rows[0] if last >= first)
    return sum(map(_union, zip(*rows, strict=True)))


def _alternatives(condition: Condition) -> list[list[Comparison]] | None:
    """The condition as alternatives of comparisons that must all hold, or None when there are too many."""
    match condition:
        case Truth():
            return [[]] if condition.value else []
        case Comparison("!=", left, right):
            return [[Comparison("<", left, right)], [Comparison(">", left, right)]]
        case Comparison():
            return [[condition]]
        case Junction("|", terms):
            each = [_alternatives(term) for term in terms]
            known = None not in each
            found = [alternative for some in each for alternative in some or ()]
        case Junction(_, terms):
            found: list[list[Comparison]] = [[]]
            known = True
            for term in terms:
                more = _alternatives(term)
                if more is None or len(found) * len(more) > _MOST_ALTERNATIVES:
                    return None
                found = [[*one, *other] for one in found for other in more]
    return found if known and len(found) <= _MOST_ALTERNATIVES else None


def _frame_terms(frame: Clause, n: int) -> Iterator[Comparison]:
    """What a frame demands of the key, its steps aside."""
    yield Comparison(">=", K, Number(frame.key_low))
    yield Comparison("<", K, Number(min(frame.key_high, n)))
    if frame.distance_low > -FOREVER:
        yield Comparison("<=", K, operation("-", Q, Number(frame.distance_low)))
    if frame.distance_high < FOREVER:
        yield Comparison(">=", K, operation("-", Q, Number(frame.distance_high)))
    for size in frame.chunks:
        start = operation("*", operation("//", Q, Number(size)), Number(size))
        yield Comparison(">=", K, start)
        yield Comparison("<", K, operation("+", start, Number(size)))


def _solved(terms: Iterable[Comparison]) -> _Ends | None:
    """The ends of the keys that satisfy all of the comparisons, or None where one cannot be solved."""
    ends: _Ends = ([], [], [])
    for term in terms:
        difference = Sum.of(term.left).plus(Sum.of(term.right), -1)
        match term.operator:
            case "==":
                sums = [difference, difference.times(-1)]
            case ">=" | ">":
                sums = [difference.less(int(term.operator == ">"))]
            case _:
                sums = [difference.times(-1).less(int(term.operator == "<"))]
        if not all(_solve(number, ends) for number in sums):
            return None
    return ends


def _solve(number: Sum, ends: _Ends) -> bool:
    """Add what `number >= 0` says about the key; False when it cannot be solved."""
    with_key = [unit for unit in number.units if any(part == K for part in parts(unit))]
    if not with_key:
        found = comparison(">=", number.node, Number(0))
        ends[2].append(found)
        return True
    if len(with_key) > 1:
        return False
    (unit,) = with_key
    factor = number.units[unit]
    rest = Sum({other: times for other, times in number.units.items() if other != unit}, number.constant)
    if factor > 0:  # unit >= ceil(-rest / factor)
        least = operation("-", Number(0), operation("//", rest.node, Number(factor)))
        most = None
    else:  # unit <= floor(rest / -factor)
        least, most = None, operation("//", rest.node, Number(-factor))
    match unit:
        case Operation("//", (inner, Number(divisor))) if divisor > 0:
            if least is not None:
                return _solve(Sum.of(inner).plus(Sum.of(operation("*", least, Number(divisor))), -1), ends)
            assert most is not None
            limit = Sum.of(operation("*", most, Number(divisor))).less(1 - divisor)
            return _solve(limit.plus(Sum.of(inner), -1), ends)
        case _ if unit == K:
            (ends[0] if least is not None else ends[1]).append(least or most or Number(0))
            return True
        case _:
            return False


def _intervals(ends: _Ends, frame: Clause, queries: range) -> list[tuple[int, int]]:
    """First and last key of every row, in steps of the frame."""
    lows, highs, demands = ends
    first = _column(lows[0] if len(lows) == 1 else Operation("max", tuple(lows)), queries)
    last = _column(highs[0] if len(highs) == 1 else Operation("min", tuple(highs)), queries)
    if frame.key_step > 1:
        step, residue = frame.key_step, frame.key_residue
        first = [-((residue - low) // step) for low in first]
        last = [(high - residue) // step for high in last]
    elif frame.distance_multiple > 1:
        step = frame.distance_multiple
        first, last = (
            [-((high - q) // step) for q, high in zip(queries, last, strict=True)],
            [(q - low) // step for q, low in zip(queries, first, strict=True)],
        )
    for demand in demands:
        last = [high if ok else low - 1 for low, high, ok in zip(first, last, _column(demand, queries), strict=True)]
    return list(zip(first, last, strict=True))


def _column(node: Whole | Condition, queries: range) -> Sequence[int]:
    found = values(node, queries, 0)
    return list(repeat(found, len(queries))) if isinstance(found, int) else list(found)


def _union(intervals: Sequence[tuple[int, int]]) -> int:
    """How many numbers lie in at least one of the intervals."""
    total, reached = 0, -FOREVER
    for first, last in sorted(intervals):
        if last > reached and last >= first:
            total += last - max(first - 1, reached)
            reached = last
    return total


__all__ = ["interval_pairs"]
