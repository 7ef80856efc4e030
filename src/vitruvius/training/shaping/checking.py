"""What is wrong with `train.shape`, found before anything runs. No torch."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from vitruvius.errors import Finding, PatternError, SpecError, UsageError
from vitruvius.spec.fields import fields_at, with_values
from vitruvius.spec.reporting import did_you_mean
from vitruvius.spec.rules import ensure
from vitruvius.training.settings.shape import settled, updates_done
from vitruvius.training.shaping.schedule import as_value, shaping_of, timeline_of
from vitruvius.training.shaping.signals import KNOWN, OF_VALIDATION, OF_WATCH, UNSTEADY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec import Architecture
    from vitruvius.spec.fields import Field
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.settings.shape import ShapeSchedule, Signal

PATH = "train.shape"
MOST = 100
"""Schedules of a run."""
MOST_VALUES = 256
"""Values that all schedules give together: each is checked as an architecture of its own."""
MOST_COMPILED = 16
"""Changes of a compiled run: each compiles the model anew."""
_LONGEST = 1000
_STEPS = "give its values by step: `steps: {0: 64, 500: 128}`"


def shape_findings(config: TrainConfig, architecture: Architecture | None) -> Iterator[Finding]:
    """Every finding; those about fields need the architecture."""
    if len(config.shape) > MOST:
        yield Finding(path=PATH, what=f"{len(config.shape)} schedules", fix=f"use at most {MOST}; a `*` joins fields")
        return
    values = sum(len(schedule.steps or ()) + len(schedule.then) for schedule in config.shape)
    if values > MOST_VALUES:
        fix = f"use at most {MOST_VALUES}; between: linear goes through all those between two"
        yield Finding(path=PATH, what=f"{values:,} values are given", fix=fix)
        return
    found: list[Finding] = []
    for number, schedule in enumerate(config.shape):
        here = f"{PATH}.{number}"
        found += _form_findings(schedule, config, here)
        if schedule.when is not None:
            found += _signal_findings(schedule, schedule.when, config, f"{here}.when")
    yield from found
    if found or architecture is None:
        return
    taken: dict[str, str] = {}
    for number, schedule in enumerate(config.shape):
        found += _field_findings(schedule, config, architecture, f"{PATH}.{number}", taken)
    yield from found
    if not found:
        yield from _joint_findings(config, architecture)


# ------------------------------------------------------------------------------------------------------------- form


def _form_findings(schedule: ShapeSchedule, config: TrainConfig, here: str) -> Iterator[Finding]:
    """What can be told without the architecture."""
    if (schedule.steps is None) == (schedule.when is None):
        what = "neither steps nor when is given" if schedule.steps is None else "steps and when are both given"
        yield Finding(path=here, what=what, fix=f"{_STEPS}, or wait for a signal: `when: ..., then: [128]`")
        return
    if schedule.when is None and schedule.then:
        yield Finding(path=f"{here}.then", what="then belongs to when", fix=_STEPS)
    if schedule.when is not None:
        if not schedule.then:
            yield Finding(path=here, what="nothing happens: then is empty", fix="then: [128, 256]")
        for name in ("round_to", "every"):
            if getattr(schedule, name) is not None:
                yield Finding(path=f"{here}.{name}", what=f"{name} belongs to steps", fix=f"leave {name} out")
    if schedule.between == "step":
        for name in ("round_to", "every"):
            if schedule.steps is not None and getattr(schedule, name) is not None:
                what = f"{name} says how values go from one step to the next, and they jump"
                yield Finding(path=f"{here}.{name}", what=what, fix="add between: linear")
    elif schedule.when is not None:
        yield Finding(path=f"{here}.between", what="between belongs to steps", fix="leave between out")
    yield from _step_findings(schedule, config.steps, here)
    for number, value in enumerate(schedule.then):
        yield from _value_findings(value, f"{here}.then.{number}")


def _step_findings(schedule: ShapeSchedule, steps: int, here: str) -> Iterator[Finding]:
    if schedule.steps is not None and not schedule.steps:
        yield Finding(path=f"{here}.steps", what="no step is given", fix=_STEPS)
    seen: dict[int, str] = {}
    for key, value in (schedule.steps or {}).items():
        path = f"{here}.steps.{key}"
        try:
            done = updates_done(key, steps)
        except ValueError:
            fix = "use a whole number of updates, or a share of the run between 0 and 1"
            yield Finding(path=path, what=f"{key[:40]!r} is no step", fix=fix)
            continue
        if done >= steps:
            what = f"the value would come after {done:,} updates, and the run has {steps:,}"
            yield Finding(path=path, what=what, fix=f"use at most {steps - 1:,}, or a share of the run: 0.5")
        if done in seen:
            what = f"the value comes after {done:,} updates, as that of {seen[done]}"
            yield Finding(path=path, what=what, fix="give each step one value")
        seen[done] = key
        yield from _value_findings(value, path)


def _value_findings(value: Any, path: str) -> Iterator[Finding]:
    scalar = value is None or (isinstance(value, (int, float, str)) and not isinstance(value, bool))
    if not scalar or (isinstance(value, float) and not isfinite(value)):
        yield Finding(path=path, what=f"{str(value)[:40]!r} is no value of a field", fix="use a number or a text")
    elif isinstance(value, str) and len(value) > _LONGEST:
        yield Finding(path=path, what=f"a text of {len(value):,} characters", fix=f"use at most {_LONGEST:,}")


# ---------------------------------------------------------------------------------------------------------- signals


def _signal_findings(schedule: ShapeSchedule, when: Signal, config: TrainConfig, here: str) -> Iterator[Finding]:
    given = [name for name in ("below", "above", "plateau") if getattr(when, name) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} are both given" if given else "nothing is waited for"
        yield Finding(path=here, what=what, fix="use one of below: 3.2, above: 0.5 and plateau: {patience: 5}")
    for name in ("below", "above"):
        limits = getattr(when, name)
        if limits is not None and len(limits if isinstance(limits, tuple) else (limits,)) != len(schedule.then):
            what = f"{len(schedule.then)} values, and not as many limits"
            yield Finding(path=f"{here}.{name}", what=what, fix="give a limit for each value of then, in a list")
    stem = when.signal.partition("/")[0]
    path = f"{here}.signal"
    if stem in UNSTEADY:
        what = f"{stem} is another number in each run, so that the run would not repeat"
        yield Finding(path=path, what=what, fix="use loss, val_loss or another signal that the weights decide")
    elif stem in OF_VALIDATION and config.eval_every == 0:
        fix = "set train.eval_every, or wait for loss"
        yield Finding(path=path, what=f"{stem} comes with the last update alone: eval_every is 0", fix=fix)
    elif stem in OF_WATCH and config.watch.every is None:
        fix = "set train.watch.every, or wait for loss"
        yield Finding(path=path, what=f"{stem} is never measured: watch.every is null", fix=fix)
    elif stem not in KNOWN and (near := did_you_mean(stem, KNOWN)):
        yield Finding(path=path, what=f"no row of metrics has {stem[:40]!r}", fix=near)


# ----------------------------------------------------------------------------------------------------------- fields


def _field_findings(
    schedule: ShapeSchedule, config: TrainConfig, architecture: Architecture, here: str, taken: dict[str, str]
) -> Iterator[Finding]:
    try:
        fields = fields_at(architecture, schedule.field)
    except UsageError as error:
        yield Finding(path=f"{here}.field", what=error.what, fix=error.fix)
        return
    for field in fields:
        other = next((one for one in taken if _overlap(one, field.path)), None)
        if other is not None:
            what = f"{field.path} changes by {taken[other]} too"
            yield Finding(path=f"{here}.field", what=what, fix="let each field change by one schedule")
        taken[field.path] = here
        if schedule.between != "step" and field.mark.form == "text":
            what = f"{field.path} holds a text, and there is nothing between two texts"
            fix = "use between: step, or name a number in the pattern, as in sees.sliding.window"
            yield Finding(path=f"{here}.between", what=what, fix=fix)
            return
        yield from _values_findings(schedule, config, architecture, field, here)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _values_findings(
    schedule: ShapeSchedule, config: TrainConfig, architecture: Architecture, field: Field, here: str
) -> Iterator[Finding]:
    """Each given value by itself, and the way between two of them at both ends and in the middle."""
    given = {f"{here}.then.{number}": value for number, value in enumerate(schedule.then)}
    given |= {f"{here}.steps.{key}": value for key, value in (schedule.steps or {}).items()}
    sound = True
    for path, value in given.items():
        for finding in _misfits(architecture, field, as_value(value, field=field)):
            sound = False
            yield replace(finding, path=path)
    if not sound or schedule.between == "step":
        return
    timeline = timeline_of(settled(schedule, config.steps), field)
    for (start, value), (stop, target) in zip(timeline.given, timeline.given[1:], strict=False):
        if value is None or target is None:
            what = f"{field.path} goes from {value} to {target}, and there is nothing between"
            yield Finding(path=f"{here}.steps", what=what, fix="give a number for step 0 too, or use between: step")
            return
        middle = timeline.after((start + stop) // 2)
        for finding in _misfits(architecture, field, middle):
            yield replace(finding, path=f"{here}.round_to", what=f"on the way, {middle}: {finding.what}")


def _misfits(architecture: Architecture, field: Field, value: Any) -> Iterator[Finding]:
    """What is wrong with an architecture whose field has this value; paths are left out."""
    kinds = {"count": int, "text": str, "number": float}
    if type(value) is not kinds[field.mark.form] and (value is not None or field.path.count(".sees.")):
        due = {"count": "a whole number", "text": "a text", "number": "a number"}[field.mark.form]
        yield Finding(what=f"{value!r} where {due} is due", fix=f"write {due}; it is {field.value!r} in the spec")
        return
    try:
        ensure(with_values(architecture, {field.path: value}))
    except SpecError as error:
        for finding in error.findings:
            if finding.severity == "error":
                yield Finding(what=f"{field.path} cannot be {value}: {finding.what}", fix=finding.fix)
    except (UsageError, PatternError) as error:
        yield Finding(what=f"{field.path} cannot be {value}: {error.what}", fix=error.fix)


def _joint_findings(config: TrainConfig, architecture: Architecture) -> Iterator[Finding]:
    """Values that fit by themselves and not with each other; and more changes than a compiled run can have."""
    shaping = shaping_of(config, architecture)
    assert shaping is not None or not config.shape
    if shaping is None:
        return
    for shape in shaping.shapes() if len(config.shape) > 1 else ():
        try:
            ensure(shape)
        except SpecError as error:
            what = "; ".join(finding.what for finding in error.findings if finding.severity == "error")
            yield Finding(path=PATH, what=f"values of two schedules do not fit together: {what}", fix="change one")
            return
    moments = {done for timeline in shaping.timelines for done, _ in timeline.changes(config.steps)} - {0}
    changes = len(moments) + sum(len(each.then) for each in shaping.awaited)
    if config.compile != "none" and changes > MOST_COMPILED:
        what = f"{changes} changes, and each compiles the model anew"
        fix = f"use compile: none, or at most {MOST_COMPILED} changes: a larger every or round_to"
        yield Finding(path=PATH, what=what, fix=fix)
