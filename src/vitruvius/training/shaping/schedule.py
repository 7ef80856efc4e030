"""`train.shape` of a run as a whole: which fields have which values when, and the architectures of that. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.spec.fields import fields_at, with_values
from vitruvius.training.settings.shape import settled
from vitruvius.training.shaping.signals import Waiting
from vitruvius.training.shaping.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.spec import Architecture
    from vitruvius.spec.fields import Field, Value
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.settings.shape import ShapeSchedule, Signal

MOST_SHAPES = 64
"""Architectures that a plan looks at."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A schedule that goes on by a signal."""

    number: int
    """Its place in `train.shape`."""
    signal: Signal
    fields: tuple[Field, ...]
    then: tuple[Value, ...]

    def values(self, fired: int) -> dict[str, Value]:
        """What its fields are once the signal has come so often."""
        return {field.path: field.value if fired == 0 else self.then[fired - 1] for field in self.fields}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """All schedules of a run."""

    architecture: Architecture
    """As the spec has it."""
    steps: int
    timelines: tuple[Timeline, ...]
    awaited: tuple[Awaited, ...]

    def values(self, done: int, fired: Mapping[int, int]) -> dict[str, Value]:
        """Field -> value of the update that comes after `done` others; fired: how often each signal has come."""
        found = {timeline.path: timeline.after(done) for timeline in self.timelines}
        for each in self.awaited:
            found |= each.values(fired[each.number])
        return found

    def resting(self) -> dict[str, Value]:
        """What all fields are in the spec."""
        return self.values_in(self.architecture)

    def values_in(self, architecture: Architecture) -> dict[str, Value]:
        """What all fields are in an architecture of the run."""
        paths = [timeline.path for timeline in self.timelines]
        paths += [field.path for each in self.awaited for field in each.fields]
        return {path: fields_at(architecture, path)[0].value for path in paths}

    def waiting(self) -> dict[int, Waiting]:
        """For each schedule with a signal, what it has to remember."""
        return {each.number: Waiting(signal=each.signal, changes=len(each.then)) for each in self.awaited}

    def segments(self) -> list[tuple[int, dict[str, Value]]]:
        """(updates, values) of the stretches of the run, as schedules by step make them; at most MOST_SHAPES.

        Of more than that, stretches next to each other are one, with the values in its middle.
        """
        starts = sorted({done for timeline in self.timelines for done, _ in timeline.changes(self.steps)} | {0})
        if len(starts) > MOST_SHAPES:
            starts = sorted({self.steps * number // MOST_SHAPES for number in range(MOST_SHAPES)})
            middle = [(start + stop) // 2 for start, stop in zip(starts, [*starts[1:], self.steps], strict=True)]
        else:
            middle = starts
        stops = [*starts[1:], self.steps]
        return [
            (stop - start, {timeline.path: timeline.after(at) for timeline in self.timelines})
            for start, stop, at in zip(starts, stops, middle, strict=True)
        ]

    def shapes(self) -> Iterator[Architecture]:
        """The architectures of `meetings`."""
        for values in self.meetings():
            yield self.shape(values)

    def meetings(self) -> Iterator[dict[str, Value]]:
        """The values that the fields may have at one time, at the given values of each schedule; about MOST_SHAPES.

        Where signals and steps can meet in more ways than that, each schedule is looked at with the others at rest.
        """
        by_step = [{t.path: t.after(done) for t in self.timelines} for done in self._given()]
        by_signal = [[each.values(fired) for fired in range(len(each.then) + 1)] for each in self.awaited]
        ways = len(by_step)
        for choices in by_signal:
            ways *= len(choices)
        if ways <= MOST_SHAPES:
            for choice in product(by_step, *by_signal):
                yield {path: value for part in choice for path, value in part.items()}
            return
        for choices in (by_step[:MOST_SHAPES], *by_signal):
            yield from choices

    def _given(self) -> list[int]:
        """Updates done at which some schedule has a value that is given and not on the way to one."""
        return sorted({0, *(s for t in self.timelines for s, _ in t.given if s < self.steps)})

    def shape(self, values: Mapping[str, Value]) -> Architecture:
        """The architecture with these values."""
        return with_values(self.architecture, values)


def shaping_of(config: TrainConfig, architecture: Architecture) -> Shaping | None:
    """The schedules of a run whose settings are sound; None where there are none."""
    if not config.shape:
        return None
    timelines: list[Timeline] = []
    awaited: list[Awaited] = []
    for number, schedule in enumerate(config.shape):
        fields = fields_at(architecture, schedule.field)
        if schedule.when is None:
            timelines += [timeline_of(settled(schedule, config.steps), field) for field in fields]
        else:
            then = tuple(as_value(value, field=fields[0]) for value in schedule.then)
            awaited.append(Awaited(number=number, signal=schedule.when, fields=fields, then=then))
    return Shaping(architecture=architecture, steps=config.steps, timelines=tuple(timelines), awaited=tuple(awaited))


def timeline_of(schedule: ShapeSchedule, field: Field) -> Timeline:
    """The values of one field; `schedule` is settled."""
    assert schedule.steps is not None
    given = {int(key): as_value(value, field=field) for key, value in schedule.steps.items()}
    return Timeline(
        path=field.path,
        given=tuple(sorted(({0: field.value} | given).items())),
        between=schedule.between,
        every=schedule.every or 1,
        round_to=schedule.round_to,
        whole=field.mark.form == "count",
    )


def as_value(value: Any, *, field: Field) -> Value:
    """A value of a schedule as the field has it: a whole number that is given for a number is one."""
    if field.mark.form == "number" and type(value) is int:
        return float(value)
    return cast("Value", value)


def changes_of(values: Mapping[str, Value], before: Mapping[str, Value]) -> Sequence[tuple[str, Value, Value]]:
    """(field, from, to) where two moments differ."""
    return [(path, before[path], value) for path, value in values.items() if before[path] != value]
