"""A condition of one's own inside a clause: what the normal form cannot say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vitruvius.patterns.expressions import DISTANCE, K, Number, Operation, Q, at, parts, text_of, value
from vitruvius.patterns.periods import granules

if TYPE_CHECKING:
    from vitruvius.patterns.expressions import Condition


class LastReader(Protocol):
    """Says after which query a key is not read any more; two that say the same compare equal."""

    def __call__(self, k: int, /) -> int:
        """The last query that may read key k."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on q and k that a clause carries beside its bounds; compared by its text."""

    text: str
    """The condition as one would write it, the same for equal conditions."""
    condition: Condition = field(compare=False, repr=False)
    """The condition itself."""
    reader: LastReader | None = None
    """The last query that may read a key, where its author said so."""
    turned: bool = False
    """Whether q and k have changed roles since the author spoke of last readers."""

    @staticmethod
    def of(condition: Condition, reader: LastReader | None = None) -> Predicate:
        """The predicate of a condition."""
        return Predicate(text_of(condition), condition, reader)

    @property
    def guarded(self) -> bool:
        """Whether it divides or shifts by what depends on a position, which must not become negative then."""
        return any(
            isinstance(part, Operation)
            and part.operator in {"//", "%", "<<", ">>"}
            and not isinstance(part.terms[1], Number)
            for part in parts(self.condition)
        )

    def holds(self, q: Any, k: Any) -> Any:
        """Whether the condition holds; operators only. Empty cache slots (negative keys) do no harm."""
        if self.guarded:
            q, k = q * (q >= 0), k * (k >= 0)
        return value(self.condition, q, k)

    def last_reader(self, k: int) -> int | None:
        """The last query that may read key k, or None where nobody said so."""
        return None if self.reader is None or self.turned else self.reader(k)

    def transposed(self) -> Predicate:
        """The predicate with the roles of query and key exchanged."""
        flipped = at(self.condition, K, Q)
        return Predicate(text_of(flipped), flipped, self.reader, not self.turned)

    @property
    def spans(self) -> tuple[int, ...]:
        """Numbers of positions after which some part of the condition repeats."""
        return tuple(number for number in granules(self.condition) if number > 1)


__all__ = ["DISTANCE", "LastReader", "Predicate"]
