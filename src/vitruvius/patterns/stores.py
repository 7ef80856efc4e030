"""What a decode cache keeps: a ring of recent positions, and archives of single keys that outlive it.

The plan follows from the clauses of a causal pattern:

- A clause that shuts out no keys needs every recent key up to its reach, so the longest of these sets the ring.
- A clause that reads only some keys (sinks, globals) would waste a ring. Its keys are read from the ring while they
  are young enough and move to an archive when they leave it, where they stay as long as the clause reaches.
- Own conditions only ever shut out keys, so what the bounds around them ask for is always enough. Where their author
  said which query reads a key last, the longest life of a key shortens the reach.

Appending position t, in this order: if `t - ring` is a key of an archive, copy it from ring slot `t % ring` to its
archive slot; then write t to ring slot `t % ring`. Without a ring, key t goes straight to its archives.

Two archives may hold the same key. They are sorted by falling reach, so a reader that masks archive i by
`not any(earlier.holds(key) for earlier in archives[:i])` counts every key once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER, progression
from vitruvius.patterns.names import whole

if TYPE_CHECKING:
    from vitruvius.patterns.algebra import Pattern
    from vitruvius.patterns.arithmetic import Progression
    from vitruvius.patterns.clause import Clause
    from vitruvius.patterns.predicate import Predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Room for the keys first, first + step, ... while their age is between the ring's size and `reach`.

    Positions may be ints, arrays or tensors; the methods use operators only.
    """

    first: int
    """First key of the progression."""
    step: int
    """Distance between its keys."""
    end: int
    """One past its last key; FOREVER when it goes on."""
    reach: int
    """Greatest age at which a key is still read; FOREVER when it is read for good."""
    slots: int
    """The most keys held at once."""

    @overload
    def holds(self, k: int) -> bool: ...
    @overload
    def holds(self, k: Any) -> Any: ...
    def holds(self, k: Any) -> Any:
        """Whether k is one of this archive's keys, held now or at another time."""
        return (k >= self.first) & (k < self.end) & ((k - self.first) % self.step == 0)

    def slot(self, k: Any) -> Any:
        """The slot of key k, which must be one of this archive's keys."""
        return (k - self.first) // self.step % self.slots

    def position(self, slot: Any, t: Any, ring: int) -> Any:
        """The key in a slot once position t is appended, -1 while the slot is empty.

        `ring` is the plan's. A key past its reach stays until it is overwritten; `Pattern.allows` masks it.
        """
        newest = (t - ring - self.first) // self.step
        if self.end < FOREVER:
            last = (self.end - 1 - self.first) // self.step
            newest = newest - (newest > last) * (newest - last)
        index = newest - (newest - slot) % self.slots
        return (index >= 0) * (self.first + index * self.step + 1) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """The stores of one attention layer's decode cache, for up to `capacity` positions."""

    pattern: Pattern
    """The causal pattern that the stores serve."""
    capacity: int
    """Positions 0 .. capacity - 1 may be appended."""
    ring: int
    """Slots of the ring of most recent positions, position p in slot p % ring; 0 when there is none."""
    archives: tuple[Archive, ...]
    """Keys that outlive the ring, by falling reach."""

    @property
    def slots(self) -> int:
        """Slots of all stores together: what is allocated, in keys."""
        return self.ring + sum(archive.slots for archive in self.archives)

    def read(self, t: int) -> int:
        """The number of keys that the query at position t really reads."""
        return self.pattern.reads(t, t + 1)

    def ring_position(self, slot: Any, t: Any) -> Any:
        """The position in a ring slot once position t is appended; negative while the slot is empty."""
        return t - (t - slot) % self.ring


def plan(pattern: Pattern, capacity: int) -> StorePlan:
    """The smallest ring and archives from which every query below `capacity` can read its keys.

    Raises `PatternError` when the pattern is not causal: such a stack has no decode cache.
    """
    whole("capacity", capacity)
    if not pattern.is_causal:
        raise PatternError(
            "a pattern that reads later keys has no decode cache",
            fix="join it to causal: causal & (...)",
        )
    kept = {clause: _reach(clause, capacity) for clause in pattern.clauses}
    reaches = [reach for clause, reach in kept.items() if not clause.restricts_keys]
    ring = min(capacity, max(reaches, default=-1) + 1)
    archives = {
        _archive(clause, ring, capacity, reach)
        for clause, reach in kept.items()
        if clause.restricts_keys and reach >= ring
    }
    found = sorted(
        (archive for archive in archives if archive is not None),
        key=lambda archive: (-archive.reach, archive.step, archive.first, archive.end),
    )
    return StorePlan(pattern=pattern, capacity=capacity, ring=ring, archives=tuple(found))


@lru_cache(maxsize=256)
def _reach(clause: Clause, capacity: int) -> int:
    """The greatest age at which a key is still read."""
    if not clause.has_readers:
        return clause.distance_high
    keys = progression(clause.key_low, min(clause.key_high, capacity) - 1, clause.key_residue, clause.key_step)
    if keys is None:
        return -1  # nobody asks for a key below the capacity
    lives = (_longest_life(own, keys, capacity) for own in clause.predicates)
    return min([clause.distance_high, *(life for life in lives if life is not None)])


def _longest_life(own: Predicate, keys: Progression, capacity: int) -> int | None:
    """The most positions for which one of the keys is read, as the author of the condition said."""
    if own.last_reader(keys.first) is None:
        return None
    life = -1
    for k in range(keys.first, keys.last + 1, keys.step):
        query = own.last_reader(k)
        life = max(life, -1 if query is None else min(query, capacity - 1) - k)
    return life


def _archive(clause: Clause, ring: int, capacity: int, reach: int) -> Archive | None:
    """The archive of a clause, or None when none of its keys leaves the ring below `capacity`."""
    first, step = clause.key_low, clause.key_step
    leaving = min(clause.key_high, capacity - ring)
    if leaving <= first:
        return None
    slots = -(-(leaving - first) // step)
    if reach < FOREVER:
        # Keys in the archive at one time have ages ring .. reach, a stretch of reach - ring + 1 positions.
        slots = min(slots, -(-(reach - ring + 1) // step))
    return Archive(first=first, step=step, end=clause.key_high, reach=reach, slots=slots)
