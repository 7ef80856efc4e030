"""Attended pairs of a whole pattern: clauses overlap, so they are counted by inclusion and exclusion."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import inclusion_exclusion
from vitruvius.patterns.clause import Clause
from vitruvius.patterns.count import Count
from vitruvius.patterns.counting import clause_pairs, work

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_TERMS: Final = 4096
_MOST_OWN_TERMS: Final = 64
"""Intersections with own conditions that are counted one by one, each up to a second."""
_MOST_CELLS: Final = 2**17
"""Stretches between block borders that one count may visit, about a second of work."""


@lru_cache(maxsize=256)
def pairs(clauses: tuple[Clause, ...], n: int) -> Count:
    """The number of allowed pairs (q, k) with both positions in [0, n); exact without own conditions.

    Raises `PatternError` when overlaps or block borders are so irregular that no short sum gives the number.
    """
    terms = _signed(clauses)
    if sum(work(clause, n) for clause in terms) > _MOST_CELLS:
        raise PatternError(
            f"its blocks share so few borders that the pairs of {n:,} positions cannot be counted in a short sum",
            fix="use block sizes that divide each other, or a shorter context",
        )
    total = Count.exactly(0)
    for clause, sign in terms.items():
        total += _of_clause(clause, n).times(sign)
    return total if total.is_exact else total.clipped(n * n)


def _of_clause(clause: Clause, n: int) -> Count:
    if not clause.predicates:
        return Count.exactly(clause_pairs(clause, n))
    from vitruvius.patterns.own_counting import own_pairs

    return own_pairs(clause, n)


@lru_cache(maxsize=256)
def _signed(clauses: tuple[Clause, ...]) -> Mapping[Clause, int]:
    terms = inclusion_exclusion(clauses, Clause.meet, _MOST_TERMS)
    if terms is None or sum(bool(clause.predicates) for clause in terms) > _MOST_OWN_TERMS:
        raise PatternError(
            f"these {len(clauses)} clauses overlap in too many ways to count their pairs exactly",
            fix="use fewer alternatives joined by |, or ones that lie inside each other",
        )
    return terms
