"""Rows that see nothing: found by scanning only as far as the clauses can still change."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER, progression

if TYPE_CHECKING:
    from vitruvius.patterns.clause import Clause
    from vitruvius.patterns.own_rows import OwnRows

_MOST_ROWS: Final = 2**17
"""Rows that one search may look at, about a second of work."""
_MOST_TRIED: Final = 2**25
"""Operations that trying own conditions on keys may take, about a second of work too."""


def empty_rows(clauses: tuple[Clause, ...], n: int, limit: int) -> tuple[int, ...]:
    """The first `limit` queries in [0, n) that read no key in [0, n); fewer where the next ones stand far apart.

    Raises `PatternError` when none shows up and the clauses repeat too rarely to know of all rows from the first ones.
    """
    end = min((_covered_from(clause, n) for clause in clauses), default=n)
    settled = max((_settled_from(clause, n) for clause in clauses), default=0)
    repeats = lcm(*(_period(clause) for clause in clauses))
    plain = [clause for clause in clauses if not clause.predicates]
    own = [_own_rows(clause, n) for clause in clauses if clause.predicates]
    found: list[int] = []
    for q in range(min(n, end)):
        nothing_new = not found or found[-1] < settled
        if len(found) == limit or (q >= settled + repeats and nothing_new):
            break
        if q == _MOST_ROWS:
            _refuse_unless(found, n)
            break
        if all(clause.keys_of(q, n) is None for clause in plain) and not any(rows.reads(q) for rows in own):
            found.append(q)
        if sum(rows.tried for rows in own) > _MOST_TRIED:
            _refuse_unless(found, n)
            break
    return tuple(found)


def _refuse_unless(found: list[int], n: int) -> None:
    if not found:
        raise PatternError(
            f"its parts repeat so rarely that {n:,} positions are too many to look for one that sees no key",
            fix="let each query see itself, e.g. with | sliding(1), or use smaller periods or a shorter context",
        )


def _covered_from(clause: Clause, n: int) -> int:
    """A position from which on every query below n is known to read something through this clause."""
    if clause.sees_itself:
        return 0
    if clause.predicates:
        from vitruvius.patterns.own_rows import sees_itself

        return 0 if sees_itself(clause) else n
    plain = not (clause.restricts_queries or clause.chunks) and clause.distance_multiple == 1
    keys = progression(clause.key_low, min(clause.key_high, n) - 1, clause.key_residue, clause.key_step)
    if plain and clause.distance_high == FOREVER and keys is not None:
        return max(0, keys.first + clause.distance_low)
    return n


def _own_rows(clause: Clause, n: int) -> OwnRows:
    from vitruvius.patterns.own_rows import OwnRows

    return OwnRows(clause, n)


def _own_period(clause: Clause) -> int | None:
    """After how many queries own conditions repeat; 1 without any, None when that is not known."""
    if not clause.predicates:
        return 1
    from vitruvius.patterns.own_rows import repeats_after

    return repeats_after(clause)


def _period(clause: Clause) -> int:
    own = _own_period(clause) or 1
    return lcm(clause.key_step, clause.query_step, clause.distance_multiple, *clause.chunks, own)


def _settled_from(clause: Clause, n: int) -> int:
    """A position from which on this clause's rows are empty or not with its period."""
    if clause.distance_low < 0:
        return n  # the end of the sequence cuts into rows that look ahead
    if _own_period(clause) is None:
        return n
    nearest, farthest = clause.distance_low, clause.distance_high
    queries = clause.query_high if clause.query_high < FOREVER else clause.query_low
    if clause.key_high < FOREVER:
        keys = clause.key_high + (farthest if farthest < FOREVER else nearest)
    elif farthest < FOREVER:
        keys = clause.key_low + farthest
    else:
        keys = clause.key_low + nearest + lcm(clause.key_step, clause.distance_multiple)
    return max(queries, keys)
