"""Counts in closed form: the pairs of one clause, and what one query or one moment asks of several."""

from __future__ import annotations

from itertools import compress
from math import lcm
from typing import TYPE_CHECKING

from vitruvius.patterns.arithmetic import (
    FOREVER,
    Progression,
    common_residue,
    count_union,
    floor_sum,
    progression,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.patterns.clause import Clause


def reads(clauses: tuple[Clause, ...], q: int, n: int) -> int:
    """The number of keys in [0, n) that query q reads; key by key where there are own conditions."""
    if any(clause.predicates for clause in clauses):
        return len({key for clause in clauses for key in row(clause, q, n)})
    return count_union(keys for clause in clauses if (keys := clause.keys_of(q, n)) is not None)


def live(clauses: tuple[Clause, ...], t: int) -> int:
    """The number of keys k <= t that some query q >= t reads.

    In closed form for clauses without query terms; otherwise key by key, which takes O(t). With own conditions a
    bound: no more are read.
    """
    if any(clause.restricts_queries or clause.has_readers for clause in clauses):
        return sum(any(clause.last_reader(k) >= t for clause in clauses) for k in range(t + 1))
    return count_union(held for clause in clauses for held in _held(clause, t))


def row(clause: Clause, q: int, n: int) -> Iterable[int]:
    """The keys in [0, n) that query q reads through this clause."""
    keys = clause.keys_of(q, n)
    if keys is None:
        return ()
    found = range(keys.first, keys.last + 1, keys.step)
    if not clause.predicates:
        return found
    from vitruvius.patterns.expressions import values

    answers = values(clause.condition, q, found)
    return (found if answers else ()) if isinstance(answers, int) else compress(found, answers)


def _held(clause: Clause, t: int) -> list[Progression]:
    """The keys k <= t that some query q >= t reads through this clause, which has no query terms."""
    multiple, stop = clause.distance_multiple, clause.chunk_stop(t)
    low = max(clause.key_low, clause.chunk_start(t), t - clause.distance_high)
    high = min(clause.key_high - 1, t, stop - 1 - clause.distance_low)
    if multiple == 1 or stop - t >= multiple:
        held = [progression(low, high, clause.key_residue, clause.key_step)]
    else:  # so close to the end of the chunk, only the remaining queries' residues still matter
        commons = (common_residue(clause.key_residue, clause.key_step, q % multiple, multiple) for q in range(t, stop))
        held = [progression(low, high, *common) for common in commons if common is not None]
    return [keys for keys in held if keys is not None]


def clause_pairs(clause: Clause, n: int) -> int:
    """The number of pairs (q, k) below n that the clause allows, own conditions left aside."""
    keys = _keys_below(clause, n)
    if keys is None:
        return 0
    if clause.chunks:
        return _chunked_pairs(clause, keys, n)
    return _square_pairs(clause, 0, n)


def _keys_below(clause: Clause, n: int) -> Progression | None:
    return progression(clause.key_low, min(clause.key_high, n) - 1, clause.key_residue, clause.key_step)


def work(clause: Clause, n: int) -> int:
    """How many keys or cells the count of a clause visits."""
    keys = _keys_below(clause, n)
    if keys is None or not clause.chunks:
        return 1
    return min(keys.count, _cells(clause, _spans(clause, n)))


def _key_by_key(clause: Clause, keys: Progression, n: int) -> int:
    """Pairs summed over the keys, each in O(1)."""
    flipped = clause.transposed()
    columns = (flipped.keys_of(k, n) for k in range(keys.first, keys.last + 1, keys.step))
    return sum(readers.count for readers in columns if readers is not None)


def _chunked_pairs(clause: Clause, keys: Progression, n: int) -> int:
    """Pairs of a clause with chunks, cell by cell or, where those are fewer, key by key.

    A cell is a run of positions that share every chunk.
    """
    spans = _spans(clause, n)
    if keys.count <= _cells(clause, spans):
        return _key_by_key(clause, keys, n)
    total = 0
    for begin, end, times in spans:
        while begin < end:
            cell_end = min(clause.chunk_stop(begin), end)
            total += times * _square_pairs(clause, begin, cell_end)
            begin = cell_end  # noqa: PLW2901
    return total


def _spans(clause: Clause, n: int) -> list[tuple[int, int, int]]:
    """(start, stop, times) of stretches that together hold all cells: whole periods once, and the two ragged ends.

    Cells repeat with the least common multiple of the chunk sizes, so all cells far from the bounds of the key and
    query ranges look alike after one period.
    """
    low, high = max(clause.key_low, clause.query_low), min(clause.key_high, clause.query_high, n)
    start, stop = clause.chunk_start(low), min(n, clause.chunk_stop(high - 1))
    period = lcm(*clause.chunks, clause.key_step, clause.query_step)
    whole, last = -(-low // period) * period, high // period * period
    if whole >= last:
        return [(start, stop, 1)]
    return [(start, whole, 1), (whole, whole + period, (last - whole) // period), (last, stop, 1)]


def _cells(clause: Clause, spans: list[tuple[int, int, int]]) -> int:
    """The most cells that these stretches hold."""
    return sum((end - begin) // size + 1 for begin, end, _ in spans for size in clause.chunks)


def _square_pairs(clause: Clause, start: int, stop: int) -> int:
    """Pairs with both positions in [start, stop), a stretch that no chunk divides."""
    if clause.query_step > 1 and clause.key_step == 1:
        clause = clause.transposed()
    key_low, query_low = max(clause.key_low, start), max(clause.query_low, start)
    query_last = min(clause.query_high, stop) - 1
    key_last = min(clause.key_high - 1, stop - 1, query_last - clause.distance_low)
    keys = progression(max(key_low, query_low - clause.distance_high), key_last, clause.key_residue, clause.key_step)
    if keys is None or query_low > query_last:
        return 0
    if clause.query_step > 1:
        return _key_by_key(clause, keys, stop)
    # Key k is read at the multiples in [max(distance_low, query_low - k), min(distance_high, query_last - k)].
    nearest = _sum_of_least(keys, query_last, clause.distance_high, clause.distance_multiple)
    farthest = -_sum_of_least(_mirrored(keys), -query_low, -clause.distance_low, clause.distance_multiple)
    return nearest - farthest + keys.count


def _mirrored(keys: Progression) -> Progression:
    return Progression(-keys.last, -keys.first, keys.step)


def _sum_of_least(keys: Progression, edge: int, bound: int, multiple: int) -> int:
    """The sum over the keys of floor(min(bound, edge - k) / multiple)."""
    capped = 0  # the first so many keys have edge - k >= bound
    if bound < FOREVER and keys.first <= edge - bound:
        capped = min(keys.count, (edge - bound - keys.first) // keys.step + 1)
    rest = floor_sum(keys.count - capped, multiple, -keys.step, edge - keys.first - capped * keys.step)
    return capped * (bound // multiple) + rest
