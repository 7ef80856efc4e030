"""What a kernel asks of a pattern: which keys a block of queries needs, whether a tile needs a mask, how to fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

from vitruvius.patterns.algebra import Pattern
from vitruvius.patterns.arithmetic import FOREVER, Progression, common_residue, progression

if TYPE_CHECKING:
    from vitruvius.patterns.clause import Clause


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """The key positions start, start + step, ... below stop; `keys[segment.slice]` gathers them."""

    start: int
    """First position."""
    stop: int
    """One past the last position."""
    step: int
    """Distance between positions."""

    @property
    def size(self) -> int:
        """How many positions there are."""
        return len(range(self.start, self.stop, self.step))

    @property
    def slice(self) -> slice:
        """The same positions as a slice."""
        return slice(self.start, self.stop, self.step)


def segments(pattern: Pattern, q_start: int, q_stop: int, n_keys: int) -> tuple[Segment, ...]:
    """Runs of keys in [0, n_keys) that hold every key some query in [q_start, q_stop) may read.

    No key is listed twice. Some listed keys may not be allowed for every query, or for any: `allows` masks them.
    """
    dense: list[Progression] = []
    sparse: list[Progression] = []
    for clause in pattern.clauses:
        needed = _needed(clause, q_start, q_stop, n_keys)
        if needed is not None:
            (dense if needed.step == 1 else sparse).append(needed)
    taken = _merged(dense)
    for run in sorted(set(sparse), key=lambda run: (run.step, run.first)):
        pieces = [run]
        for other in tuple(taken):
            pieces = [piece for whole in pieces for piece in _without(whole, other)]
        taken.extend(pieces)
    return tuple(sorted(Segment(start=run.first, stop=run.last + 1, step=run.step) for run in taken))


def full_tile(pattern: Pattern, q0: int, q1: int, k0: int, k1: int) -> bool:
    """Whether every pair with q in [q0, q1) and k in [k0, k1) is allowed by one clause, so that no mask is needed.

    May say False of a tile that only several clauses, or one with own conditions, fill. An empty tile is full.
    """
    return q1 <= q0 or k1 <= k0 or any(_fills(clause, q0, q1, k0, k1) for clause in pattern.clauses)


def fold(pattern: Pattern) -> tuple[int, Pattern]:
    """The largest r such that positions of different residue mod r never meet, and the pattern within one residue.

    Reshaping T to (T / r, r) with the residue as batch then computes the same attention r times cheaper:
    `fold(dilated(5, every=4)) == (4, sliding(5))`. A pattern that does not fold is returned as it is, with r = 1.
    """
    if any(clause.restricts_keys or clause.restricts_queries or clause.predicates for clause in pattern.clauses):
        return 1, pattern
    r = gcd(*(number for clause in pattern.clauses for number in (_distance_step(clause), *clause.chunks)))
    if r <= 1:
        return 1, pattern
    return r, Pattern(tuple(_folded(clause, r) for clause in pattern.clauses))


def _distance_step(clause: Clause) -> int:
    """The number that every distance is a multiple of; 0 when the only distance is 0."""
    return clause.distance_low if clause.distance_low == clause.distance_high else clause.distance_multiple


def _folded(clause: Clause, r: int) -> Clause:
    return replace(
        clause,
        distance_low=clause.distance_low if clause.distance_low == -FOREVER else clause.distance_low // r,
        distance_high=clause.distance_high if clause.distance_high == FOREVER else clause.distance_high // r,
        distance_multiple=max(1, clause.distance_multiple // r),
        chunks=tuple(size // r for size in clause.chunks),
    )


def _needed(clause: Clause, q_start: int, q_stop: int, n_keys: int) -> Progression | None:
    """The keys that queries [q_start, q_stop) may read through one clause, at its key step."""
    start, stop = max(q_start, clause.query_low), min(q_stop, clause.query_high)
    if start >= stop:
        return None
    if stop == start + 1:
        return clause.keys_of(start, n_keys)
    low = max(clause.key_low, clause.chunk_start(start), start - clause.distance_high)
    high = min(clause.key_high, clause.chunk_stop(stop - 1), n_keys, stop - clause.distance_low) - 1
    return progression(low, high, clause.key_residue, clause.key_step)


def _fills(clause: Clause, q0: int, q1: int, k0: int, k1: int) -> bool:
    return (
        clause.distance_multiple == clause.key_step == clause.query_step == 1
        and not clause.predicates
        and clause.key_low <= k0
        and k1 <= clause.key_high
        and clause.query_low <= q0
        and q1 <= clause.query_high
        and clause.distance_low <= q0 - (k1 - 1)
        and (q1 - 1) - k0 <= clause.distance_high
        and all(min(q0, k0) // size == (max(q1, k1) - 1) // size for size in clause.chunks)
    )


def _merged(runs: list[Progression]) -> list[Progression]:
    """Unbroken runs, joined where they touch or overlap."""
    merged: list[Progression] = []
    for run in sorted(runs, key=lambda run: run.first):
        if merged and run.first <= merged[-1].last + 1:
            merged[-1] = Progression(merged[-1].first, max(merged[-1].last, run.last), 1)
        else:
            merged.append(run)
    return merged


def _without(run: Progression, other: Progression) -> list[Progression]:
    """The positions of `run` that are not in `other`, as progressions."""
    common = common_residue(run.first, run.step, other.first, other.step)
    if common is None or other.last < run.first or run.last < other.first:
        return [run]
    residue, step = common
    before = progression(run.first, min(run.last, other.first - 1), run.first, run.step)
    after = progression(max(run.first, other.last + 1), run.last, run.first, run.step)
    low, high = max(run.first, other.first), min(run.last, other.last)
    between = [
        progression(low, high, start, step)
        for start in range(run.first, min(run.last + 1, run.first + step), run.step)
        if (start - residue) % step
    ]
    return [piece for piece in (before, *between, after) if piece is not None]
