"""One clause of a pattern: everything that must hold at once for a query to read a key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, Any, overload

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER, NEVER, Progression, common_residue, progression

if TYPE_CHECKING:
    from vitruvius.patterns.expressions import Condition
    from vitruvius.patterns.predicate import Predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A conjunction of conditions on a query position q and a key position k, both counted from 0."""

    distance_low: int = -FOREVER
    """Least distance q - k."""
    distance_high: int = FOREVER
    """Greatest distance q - k, itself included."""
    distance_multiple: int = 1
    """The distance is a multiple of this."""
    key_low: int = 0
    """First key position."""
    key_high: int = FOREVER
    """One past the last key position."""
    key_residue: int = 0
    """k % key_step."""
    key_step: int = 1
    """Keys stand this far apart."""
    query_low: int = 0
    """First query position."""
    query_high: int = FOREVER
    """One past the last query position."""
    query_residue: int = 0
    """q % query_step."""
    query_step: int = 1
    """Queries stand this far apart."""
    chunks: tuple[int, ...] = ()
    """For each size B here, q // B == k // B."""
    predicates: tuple[Predicate, ...] = ()
    """Own conditions that the fields above cannot say. What is asked of a clause is answered from the fields; where
    an own condition makes that an upper bound, the answer says so."""

    def __post_init__(self) -> None:
        """Refuse numbers with which the conditions would make no sense."""
        if min(self.distance_multiple, self.key_step, self.query_step, *self.chunks, 1) < 1:
            raise PatternError("a multiple, a step or a chunk size is below 1", fix="use whole numbers from 1 up")
        if not (0 <= self.key_residue < self.key_step and 0 <= self.query_residue < self.query_step):
            raise PatternError("a residue does not lie in [0, step)", fix="take the residue modulo its step")
        if min(self.key_low, self.query_low) < 0:
            raise PatternError("a key or query range begins below position 0", fix="begin at 0 or later")

    @property
    def restricts_keys(self) -> bool:
        """Whether some key positions are shut out wherever the query stands."""
        return self.key_low > 0 or self.key_high < FOREVER or self.key_step > 1

    @property
    def restricts_queries(self) -> bool:
        """Whether some query positions are shut out wherever the key stands."""
        return self.query_low > 0 or self.query_high < FOREVER or self.query_step > 1

    @property
    def sees_itself(self) -> bool:
        """Whether every query reads the key at its own position."""
        free = not (self.restricts_keys or self.restricts_queries or self.predicates)
        return free and self.distance_low <= 0 <= self.distance_high

    @property
    def spans(self) -> tuple[int, ...]:
        """The numbers of positions after which one of the conditions ends or repeats."""
        ends = (self.distance_high + 1, self.key_high, self.query_high)
        ahead = (1 - self.distance_low,) if -FOREVER < self.distance_low < 0 else ()
        steps = (self.distance_multiple, self.key_step, self.query_step)
        return (
            *(end for end in ends if 0 < end < FOREVER),
            *ahead,
            *(step for step in steps if step > 1),
            *self.chunks,
            *(span for own in self.predicates for span in own.spans),
        )

    @property
    def condition(self) -> Condition:
        """All own conditions as one."""
        from vitruvius.patterns.expressions import junction

        return junction("&", (own.condition for own in self.predicates))

    @overload
    def allows(self, q: int, k: int) -> bool: ...
    @overload
    def allows(self, q: Any, k: Any) -> Any: ...
    def allows(self, q: Any, k: Any) -> Any:
        """Whether query q reads key k; operators only, so that ints, arrays and tensors broadcast alike.

        A negative position (an empty cache slot) is never allowed.
        """
        allowed = (q >= self.query_low) & (k >= self.key_low)
        distance = q - k
        if self.distance_low > -FOREVER:
            allowed = allowed & (distance >= self.distance_low)
        if self.distance_high < FOREVER:
            allowed = allowed & (distance <= self.distance_high)
        if self.distance_multiple > 1:
            allowed = allowed & (distance % self.distance_multiple == 0)
        if self.key_high < FOREVER:
            allowed = allowed & (k < self.key_high)
        if self.key_step > 1:
            allowed = allowed & (k % self.key_step == self.key_residue)
        if self.query_high < FOREVER:
            allowed = allowed & (q < self.query_high)
        if self.query_step > 1:
            allowed = allowed & (q % self.query_step == self.query_residue)
        for size in self.chunks:
            allowed = allowed & (q // size == k // size)
        for own in self.predicates:
            allowed = allowed & own.holds(q, k)
        return allowed

    def tightened(self) -> Clause | None:
        """The same pairs with every bound as tight as it goes, or None when no pair is left.

        Tight bounds make equal clauses compare equal, and let the counts trust that finite distance bounds are
        multiples of the distance multiple.
        """
        keys = _tight_range(self.key_low, self.key_high, self.key_residue, self.key_step)
        queries = _tight_range(self.query_low, self.query_high, self.query_residue, self.query_step)
        if keys is None or queries is None:
            return None
        chunks = _without_multiples(self.chunks)
        lows = [self.distance_low, *(1 - size for size in chunks[:1])]
        highs = [self.distance_high, *(size - 1 for size in chunks[:1])]
        if keys.stop < FOREVER:
            lows.append(queries.start - (keys.stop - 1))
        if queries.stop < FOREVER:
            highs.append(queries.stop - 1 - keys.start)
        low, high, multiple = max(lows), min(highs), self.distance_multiple
        low = low if low == -FOREVER else -(-low // multiple) * multiple
        high = high if high == FOREVER else high // multiple * multiple
        if low > high:
            return None
        return Clause(
            distance_low=low,
            distance_high=high,
            distance_multiple=1 if low == high else multiple,
            key_low=keys.start,
            key_high=keys.stop,
            key_residue=keys.residue,
            key_step=keys.step,
            query_low=queries.start,
            query_high=queries.stop,
            query_residue=queries.residue,
            query_step=queries.step,
            chunks=() if low == high == 0 else chunks,
            predicates=self.predicates,
        )

    def meet(self, other: Clause) -> Clause | None:
        """The pairs that both clauses allow, tightened, or None when there are none."""
        keys = common_residue(self.key_residue, self.key_step, other.key_residue, other.key_step)
        queries = common_residue(self.query_residue, self.query_step, other.query_residue, other.query_step)
        if keys is None or queries is None:
            return None
        low = max(self.distance_low, other.distance_low)
        high = min(self.distance_high, other.distance_high)
        if low > high:
            return None
        return Clause(
            distance_low=low,
            distance_high=high,
            distance_multiple=lcm(self.distance_multiple, other.distance_multiple),
            key_low=max(self.key_low, other.key_low),
            key_high=min(self.key_high, other.key_high),
            key_residue=keys[0],
            key_step=keys[1],
            query_low=max(self.query_low, other.query_low),
            query_high=min(self.query_high, other.query_high),
            query_residue=queries[0],
            query_step=queries[1],
            chunks=self.chunks + other.chunks,
            predicates=tuple(sorted({*self.predicates, *other.predicates}, key=lambda own: own.text)),
        ).tightened()

    def within(self, other: Clause) -> bool:
        """Whether `other` surely allows every pair that this clause allows; both must be tightened.

        Compares bound by bound, so it may miss a containment, never invent one.
        """
        lone = self.distance_low if self.distance_low == self.distance_high else None
        multiple = self.distance_multiple if lone is None else lone
        key_step = _step_or_lone(self.key_low, self.key_high, self.key_step)
        query_step = _step_or_lone(self.query_low, self.query_high, self.query_step)
        return (
            other.distance_low <= self.distance_low
            and self.distance_high <= other.distance_high
            and multiple % other.distance_multiple == 0
            and other.key_low <= self.key_low
            and self.key_high <= other.key_high
            and key_step % other.key_step == 0
            and (self.key_low - other.key_residue) % other.key_step == 0
            and other.query_low <= self.query_low
            and self.query_high <= other.query_high
            and query_step % other.query_step == 0
            and (self.query_low - other.query_residue) % other.query_step == 0
            and set(other.predicates) <= set(self.predicates)
            and (lone == 0 or all(any(size % mine == 0 for mine in self.chunks) for size in other.chunks))
        )

    def transposed(self) -> Clause:
        """The clause with the roles of query and key exchanged."""
        return replace(
            self,
            distance_low=-self.distance_high,
            distance_high=-self.distance_low,
            key_low=self.query_low,
            key_high=self.query_high,
            key_residue=self.query_residue,
            key_step=self.query_step,
            query_low=self.key_low,
            query_high=self.key_high,
            query_residue=self.key_residue,
            query_step=self.key_step,
            predicates=tuple(own.transposed() for own in self.predicates),
        )

    def chunk_start(self, position: int) -> int:
        """The first position that shares every chunk with this one."""
        return max((position // size * size for size in self.chunks), default=0)

    def chunk_stop(self, position: int) -> int:
        """One past the last position that shares every chunk with this one; FOREVER without chunks."""
        return min(((position // size + 1) * size for size in self.chunks), default=FOREVER)

    def keys_of(self, q: int, stop: int = FOREVER) -> Progression | None:
        """The keys below `stop` that query q reads, or None; for a clause of bounded sight or a finite `stop`.

        Own conditions may shut out some of them.
        """
        if not self.query_low <= q < self.query_high or q % self.query_step != self.query_residue:
            return None
        common = common_residue(self.key_residue, self.key_step, q % self.distance_multiple, self.distance_multiple)
        if common is None:
            return None
        low = max(self.key_low, self.chunk_start(q), q - self.distance_high)
        high = min(self.key_high, self.chunk_stop(q), stop, q - self.distance_low + 1) - 1
        return progression(low, high, *common)

    def last_reader(self, k: int) -> int:
        """The last query that reads key k: NEVER when none does, FOREVER when there is no last one.

        With own conditions a bound: no later query reads it.
        """
        readers = replace(self, predicates=()).transposed().keys_of(k)
        if readers is None:
            return NEVER
        unbounded = min(self.query_high, self.chunk_stop(k), k + self.distance_high) >= FOREVER
        said = [last for own in self.predicates if (last := own.last_reader(k)) is not None]
        last = min([FOREVER if unbounded else readers.last, *said])
        return last if last >= readers.first else NEVER

    @property
    def has_readers(self) -> bool:
        """Whether the author of an own condition said who reads a key last."""
        return any(own.reader is not None and not own.turned for own in self.predicates)

    def __str__(self) -> str:
        """The conditions as one would write them in a paper."""
        parts = [_between(self.distance_low, "q - k", self.distance_high + 1, -FOREVER)]
        if self.distance_multiple > 1:
            parts.append(f"(q - k) % {self.distance_multiple} = 0")
        parts.append(_between(self.key_low, "k", self.key_high, 0))
        if self.key_step > 1:
            parts.append(f"k % {self.key_step} = {self.key_residue}")
        parts.append(_between(self.query_low, "q", self.query_high, 0))
        if self.query_step > 1:
            parts.append(f"q % {self.query_step} = {self.query_residue}")
        parts.extend(f"q // {size} = k // {size}" for size in self.chunks)
        parts.extend(own.text for own in self.predicates)
        return ", ".join(part for part in parts if part) or "always"


@dataclass(frozen=True, slots=True)
class _Range:
    start: int
    stop: int
    residue: int
    step: int


def _tight_range(low: int, high: int, residue: int, step: int) -> _Range | None:
    """The range with both ends on the residue; a single position needs no residue."""
    start = low + (residue - low) % step
    stop = high if high >= FOREVER else high - (high - 1 - residue) % step
    if start >= stop:
        return None
    return _Range(start, stop, 0, 1) if stop == start + 1 else _Range(start, stop, residue, step)


def _without_multiples(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes in rising order, less those that a smaller one implies: a chunk of 4 lies inside a chunk of 8."""
    kept: list[int] = []
    for size in sorted(set(sizes)):
        if not any(size % smaller == 0 for smaller in kept):
            kept.append(size)
    return tuple(kept)


def _step_or_lone(low: int, high: int, step: int) -> int:
    """The step of a range, or 0 (a multiple of everything) when it holds one position."""
    return 0 if high == low + 1 else step


def _between(low: int, name: str, stop: int, unbounded: int) -> str:
    """`low <= name < stop` without the sides that say nothing."""
    if low + 1 == stop:
        return f"{name} = {low}"
    left = f"{low} <= " if low > unbounded else ""
    right = f" < {stop}" if stop < FOREVER else ""
    return f"{left}{name}{right}" if left or right else ""
