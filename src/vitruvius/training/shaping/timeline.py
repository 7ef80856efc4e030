"""The values of one field over a run, as a function of the updates done. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, floor, pi
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.fields import Value

BETWEEN = {"linear": lambda share: share, "cosine": lambda share: (1 - cos(pi * share)) / 2}
"""Name -> from the share of the way that is gone by, to that of the change that is made."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What a field is after so many updates."""

    path: str
    """The field."""
    given: tuple[tuple[int, Value], ...]
    """(updates done, value from there on), from 0 on and rising."""
    between: Literal["step", "linear", "cosine"] = "step"
    every: int = 1
    """Updates between changes on the way from one given value to the next."""
    round_to: float | None = None
    """Values on the way are multiples of this."""
    whole: bool = False
    """Values on the way are whole numbers."""

    def after(self, done: int) -> Value:
        """The value with which the update is computed that comes after `done` others."""
        number = max(index for index, (start, _) in enumerate(self.given) if start <= done)
        start, value = self.given[number]
        if self.between == "step" or number + 1 == len(self.given):
            return value
        stop, target = self.given[number + 1]
        gone = (done - start) // self.every * self.every
        if gone == 0 or isinstance(value, str | None) or isinstance(target, str | None):
            return value
        return self._rounded(value + (target - value) * BETWEEN[self.between](gone / (stop - start)), value, target)

    def _rounded(self, value: float, start: float, target: float) -> float:
        unit = self.round_to or (1 if self.whole else None)
        if unit is not None:
            value = floor(value / unit + 0.5) * unit
        value = min(max(value, min(start, target)), max(start, target))
        return round(value) if self.whole else value

    def changes(self, steps: int) -> Iterator[tuple[int, Value]]:
        """(updates done, value) at the start and wherever the value becomes another, within a run of `steps`."""
        points = {0, *(start for start, _ in self.given)}
        if self.between != "step":
            for (start, _), (stop, _) in zip(self.given, self.given[1:], strict=False):
                points |= set(range(start, stop, self.every))
        last: object = self  # no value
        for done in sorted(points):
            if done < steps and (value := self.after(done)) != last:
                last = value
                yield done, value
