"""Readings of the detectors against their rules: limits, growth since the start of the run, jumps against its past."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, cast, final

from vitruvius.training.companions import Companion
from vitruvius.training.guarding.judge import Sight, deviations, spread_of
from vitruvius.training.settings.alarms import DETECTORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitruvius.training.guarding.detectors import Reading
    from vitruvius.training.settings import Guard
    from vitruvius.training.settings.alarms import Rule

LEAST_HISTORY = 8
"""Readings without which a `z` says nothing."""
_LEAST_SPREAD = 0.05
"""Of the logarithm of a reading: what varies by less than five percent jumps from there."""
AGAIN = 2.0
"""An alarm that lasts is raised again when its reading is this much further out than when it was raised last."""
_CALM = 0.8
"""Share of its limit below which an alarm is over."""
_SMALLEST, _LARGEST = 1e-300, 1e300


@dataclass(slots=True, kw_only=True)
class _Past:
    """What is remembered of one key."""

    first: list[float] = field(default_factory=list[float])
    """The first readings of the run."""
    last: list[float] = field(default_factory=list[float])
    """The newest ones, the oldest of them first."""
    broken: int = 0
    """Readings in a row that broke the rule."""
    raised: float | None = None
    """How far out the reading was when the alarm was raised last; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Break:
    """A reading that breaks one limit of its rule."""

    rule: str
    limit: float
    """In the unit of the reading."""
    far: float
    """How many times the limit it is: 1 at the limit, more beyond it."""


@final
class Alarms(Companion):
    """Remembers what detectors read, and says which readings are alarms.

    Everything follows from the readings so far, in the order in which they were taken, so a resumed run raises what the
    uninterrupted one does. A checkpoint has those of the updates that are done.
    """

    name: ClassVar[str] = "alarms"

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.rules: dict[str, Rule] = {str(name): rule for name, rule in guard.rules().items()}
        self.pending: list[dict[str, Any]] = []
        """Readings that were taken after an update, and are judged with the next one."""
        self._past: dict[str, _Past] = {}
        self._has_read = False
        self._done: dict[str, Any] = self._state()
        """What was remembered after the last update that was done: what a checkpoint has."""

    def sights(self, readings: Iterable[Reading]) -> tuple[Sight, ...]:
        """What breaks a rule for the first time, or is much further out by now; the readings are remembered."""
        found = [self._sight(reading) for reading in readings]
        self._has_read = self._has_read or bool(found)
        return tuple(sight for sight in found if sight is not None)

    def after(self, step: int, row: Mapping[str, Any]) -> Mapping[str, float]:
        """The update is done, and its readings with it. One that ends the run has not been, and is judged again."""
        del step, row
        if self._has_read or self.pending is not self._done["pending"]:
            self._settle()
        return {}

    def _settle(self) -> None:
        self._done, self._has_read = self._state(), False

    @property
    def standing(self) -> int:
        """Alarms that are raised and not over."""
        return sum(past.raised is not None for past in self._past.values())

    def levels(self) -> dict[str, float]:
        """How far out the alarms that stand were when they were raised last."""
        return {key: past.raised for key, past in self._past.items() if past.raised is not None}

    def answered(self, levels: Mapping[str, float]) -> None:
        """Alarms of these levels were answered; the same readings, which come again after a rewind, are none anew."""
        for key, level in levels.items():
            self._past.setdefault(key, _Past()).raised = level
        self._settle()

    def _sight(self, reading: Reading) -> Sight | None:
        rule, past = self.rules[reading.detector], self._past.setdefault(reading.key, _Past())
        value = reading.value if math.isfinite(reading.value) else _LARGEST
        found = self._broken(rule, past, value)
        if math.isfinite(reading.value):
            if len(past.first) < self.guard.baseline:
                past.first.append(value)
            past.last = [*past.last, value][-self.guard.history :]
        if found is None or found.far < 1.0:
            past.broken = 0
            if found is None or found.far < _CALM:
                past.raised = None
            return None
        past.broken += 1
        if past.broken < rule.lasting or (past.raised is not None and found.far < past.raised * AGAIN):
            return None
        past.raised = found.far
        return Sight(
            what=reading.detector,
            value=reading.value,
            z=None,
            limit=found.limit,
            place=reading.place or None,
            rule=found.rule,
        )

    def _broken(self, rule: Rule, past: _Past, value: float) -> _Break | None:
        """The limit that the reading is furthest out of, or nearest to."""
        size = max(abs(value), _SMALLEST)
        found: list[_Break] = []
        if rule.above is not None:
            found.append(_Break(rule="above", limit=rule.above, far=value / rule.above))
        if rule.below is not None:
            found.append(_Break(rule="below", limit=rule.below, far=rule.below / size))
        if value > rule.least:
            if rule.growth is not None and len(past.first) >= self.guard.baseline:
                limit = max(rule.growth * median(past.first), rule.least, _SMALLEST)
                found.append(_Break(rule="growth", limit=limit, far=value / limit))
            if rule.z is not None and len(past.last) >= LEAST_HISTORY:
                logs = [math.log(max(abs(each), _SMALLEST)) for each in past.last]
                z = deviations(math.log(size), logs, least=_LEAST_SPREAD)
                limit = math.exp(min(math.log(size) - (z - rule.z) * spread_of(logs, least=_LEAST_SPREAD), 690.0))
                found.append(_Break(rule="z", limit=limit, far=max(z, 0.0) / rule.z))
        return max(found, key=lambda each: min(each.far, _LARGEST), default=None)

    def state(self) -> dict[str, Any]:
        """What it remembers of the updates that are done, as JSON data."""
        return dict(self._done)

    def _state(self) -> dict[str, Any]:
        past = {
            key: {"first": [*each.first], "last": [*each.last], "broken": each.broken, "raised": each.raised}
            for key, each in self._past.items()
        }
        return {"past": past, "pending": self.pending}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        past, pending = state.get("past"), state.get("pending")
        if not (isinstance(past, dict) and isinstance(pending, list)):
            raise ValueError("past and pending are missing")  # noqa: TRY004 (what a companion promises)
        restored = {str(key): _past_of(key, each) for key, each in cast("dict[str, Any]", past).items()}
        self.pending = [_pending_of(each) for each in cast("list[Any]", pending)]
        self._past = restored
        self._settle()


def _past_of(key: str, value: Any) -> _Past:
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {"first", "last", "broken", "raised"}:
        raise ValueError(f"what is remembered of {key} is no past")
    known = cast("dict[str, Any]", value)
    numbers = [*_numbers(key, known["first"]), *_numbers(key, known["last"])]
    raised, broken = known["raised"], known["broken"]
    if type(broken) is not int or broken < 0 or not (raised is None or _is_number(raised)):
        raise ValueError(f"what is remembered of {key} is no past")
    first = numbers[: len(known["first"])]
    return _Past(first=first, last=numbers[len(first) :], broken=broken, raised=raised)


def _numbers(key: str, value: Any) -> list[float]:
    if not isinstance(value, list) or not all(_is_number(each) for each in cast("list[Any]", value)):
        raise ValueError(f"what is remembered of {key} holds something that is no number")
    return [float(each) for each in cast("list[Any]", value)]


def _pending_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {"detector", "key", "value", "place"}:
        raise ValueError("a pending reading is none")
    known = cast("dict[str, Any]", value)
    is_text = all(isinstance(known[name], str) for name in ("key", "place"))
    if not _is_number(known["value"]) or not is_text or known["detector"] not in DETECTORS:
        raise ValueError("a pending reading is none")
    return known


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
