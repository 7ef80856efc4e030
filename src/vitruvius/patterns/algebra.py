"""Who attends to whom: a pattern is a union of clauses, closed under & and |.

Positions count from 0 and are relative to the document: a batch of packed documents adds "same document" by itself.
Every question about a pattern (mask, FLOPs, cache, picture) is answered from its clauses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

from vitruvius.errors import PatternError
from vitruvius.patterns import counting, pairs, rows, tiles
from vitruvius.patterns.arithmetic import FOREVER, LIMIT, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.patterns.clause import Clause
    from vitruvius.patterns.count import Count

MOST_CLAUSES: Final = 64
"""A pattern that needs more alternatives than this is refused."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The pairs (query q, key k) that at least one clause allows.

    The clauses are kept in a normal form (tightened, none inside another, sorted), so that equal patterns usually
    compare equal. Raises `PatternError` when more than 64 clauses remain or a number grows past 2**40.
    """

    clauses: tuple[Clause, ...]
    """The alternatives; with none of them, nobody reads anything."""

    def __post_init__(self) -> None:
        """Bring the clauses into normal form."""
        object.__setattr__(self, "clauses", _normal_form(self.clauses))

    def __and__(self, other: Pattern) -> Pattern:
        """The pairs that both patterns allow."""
        return Pattern(
            tuple(both for a in self.clauses for b in other.clauses if (both := a.meet(b)) is not None),
        )

    def __or__(self, other: Pattern) -> Pattern:
        """The pairs that either pattern allows."""
        return Pattern(self.clauses + other.clauses)

    def __str__(self) -> str:
        """The clauses as conditions on q and k."""
        return " | ".join(map(str, self.clauses)) or "never"

    @overload
    def allows(self, q: int, k: int) -> bool: ...
    @overload
    def allows(self, q: Any, k: Any) -> Any: ...
    def allows(self, q: Any, k: Any) -> Any:
        """Whether query q reads key k.

        Uses operators only: ints give a bool; arrays and tensors broadcast, so `allows(q[:, None], k[None, :])` is
        the mask, and FlexAttention's index tensors work too. A negative position is never allowed.
        """
        if not self.clauses:
            return (q < 0) & (q >= 0) & (k < 0)
        allowed = self.clauses[0].allows(q, k)
        for clause in self.clauses[1:]:
            allowed = allowed | clause.allows(q, k)
        return allowed

    @property
    def is_causal(self) -> bool:
        """Whether no query reads a key after itself, as far as bounds show; own conditions are taken at their worst."""
        return all(clause.distance_low >= 0 for clause in self.clauses)

    @property
    def widest_window(self) -> int | None:
        """The most positions that a bounded window spans, from its oldest key to the query; None without a bound.

        4,096 for `sliding(4096)`, 4,093 for `dilated(1024, every=4)`, 512 for `block(512)`.
        """
        reaches = [clause.distance_high for clause in self.clauses if clause.distance_high < FOREVER]
        return max(reaches) + 1 if reaches else None

    @property
    def longest_reach(self) -> int | None:
        """The most positions after which some part of the pattern ends or repeats; None when there is no such part.

        Counts windows, blocks, the steps of globals and strides, and sinks: a probe a few times as long shows it all.
        """
        spans = [span for clause in self.clauses for span in clause.spans]
        return max(spans, default=None)

    def last_reader(self, k: int) -> int:
        """The last query that reads key k: `NEVER` when none does, `FOREVER` when there is no last one.

        With own conditions a bound: no later query reads it.
        """
        return max((clause.last_reader(k) for clause in self.clauses), default=NEVER)

    def live(self, t: int) -> int:
        """The number of keys k <= t that some query q >= t may read: what a cache must hold to compute query t.

        With own conditions a bound: no more than that.
        """
        return counting.live(self.clauses, t)

    def reads(self, q: int, n: int) -> int:
        """The number of keys in [0, n) that query q reads."""
        return counting.reads(self.clauses, q, n)

    def pairs(self, n: int) -> int:
        """The number of allowed pairs with query and key in [0, n): exact, or `count(n)` says how far it may be off."""
        return pairs.pairs(self.clauses, n).value

    def count(self, n: int) -> Count:
        """The number of allowed pairs with query and key in [0, n), and bounds on it.

        The bounds differ only for own conditions too irregular for so many positions to be counted in a second or two.
        """
        return pairs.pairs(self.clauses, n)

    def blocks(self, n: int, size: int = 128) -> int:
        """The number of size x size tiles of the n x n score matrix that hold at least one allowed pair.

        With own conditions those that the bounds around them touch, which is what a kernel visits.
        """
        return tiles.blocks(self.clauses, n, size)

    def empty_rows(self, n: int, limit: int = 3) -> tuple[int, ...]:
        """The first `limit` queries in [0, n) that read no key in [0, n): their softmax would be undefined."""
        return rows.empty_rows(self.clauses, n, limit)

    def unread_keys(self, n: int, limit: int = 3) -> tuple[int, ...]:
        """The first `limit` keys in [0, n) that no query in [0, n) reads."""
        return rows.empty_rows(tuple(clause.transposed() for clause in self.clauses), n, limit)


def _normal_form(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    kept: list[Clause] = []
    tight = (clause.tightened() for clause in clauses)
    for clause in dict.fromkeys(clause for clause in tight if clause is not None):
        if any(clause.within(other) for other in kept):
            continue
        kept = [other for other in kept if not other.within(clause)]
        kept.append(clause)
        if len(kept) > MOST_CLAUSES:
            raise PatternError(
                f"the pattern needs more than {MOST_CLAUSES} alternatives",
                fix="join fewer terms with |, or combine them before joining with &",
            )
        if max(clause.distance_multiple, clause.key_step, clause.query_step, *clause.chunks, 1) >= LIMIT:
            raise PatternError(
                "the steps of the joined terms have a least common multiple of 2**40 or more",
                fix="use smaller steps, or steps that divide each other",
            )
    return tuple(sorted(kept, key=_sort_key))


def _sort_key(clause: Clause) -> tuple[Any, ...]:
    return (
        clause.key_step,
        clause.key_low,
        clause.key_high,
        clause.key_residue,
        clause.query_step,
        clause.query_low,
        clause.query_high,
        clause.query_residue,
        clause.distance_multiple,
        clause.chunks,
        clause.distance_low,
        clause.distance_high,
        tuple(own.text for own in clause.predicates),
    )
