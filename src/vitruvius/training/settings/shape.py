"""`train.shape`: fields of the architecture that change while it trains, by step or by what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

_LARGEST = 2**31 - 1
_Count = Annotated[int, Ge(1), Le(_LARGEST)]
_CHANGES = 100
"""Changes of a run at most, between two steps that are given, where `every` is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """A signal that no longer falls."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    patience: _Count
    """Rows with the signal, one after another, without a new lowest value."""
    min_change: Annotated[float, Ge(0.0)] = 0.0
    """A value counts as lower only when it is lower by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Something in the rows of `metrics.jsonl`, and what it has to do for a field to change."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    signal: str
    """Its name there; of one that has a value for each place (`attention_entropy`), the mean over the places."""
    below: float | tuple[float, ...] | None = None
    """The limit under which the field takes its next value; a list has a limit for each value."""
    above: float | tuple[float, ...] | None = None
    """The same over which."""
    plateau: Plateau | None = None
    """The next value each time the signal has stopped falling."""
    over: Annotated[int, Ge(1), Le(100_000)] = 1
    """Rows with the signal whose mean is looked at, the newest; nothing happens before there are so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSchedule:
    """How one field changes: by step (`steps`) or by a signal (`when`, `then`)."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    field: str
    """Path of the field in the architecture; a `*` stands for every name that fits."""
    steps: dict[str, Any] | None = None
    """Updates done -> value from there on; a number below one is a share of the run. Before the first, the spec's."""
    between: Literal["step", "linear", "cosine"] = "step"
    """How values go from one given step to the next; `step`: at once, when it is reached."""
    round_to: Annotated[float, Gt(0.0), Le(1e9)] | None = None
    """Values between given steps are multiples of this; whole numbers where the field is one."""
    every: _Count | None = None
    """Updates between changes on the way from one given step to the next; a hundredth of `steps` when not given."""
    when: Signal | None = None
    """What is waited for."""
    then: tuple[Any, ...] = ()
    """Values that follow the spec's, one each time it happens."""


def settled(schedule: ShapeSchedule, steps: int) -> ShapeSchedule:
    """The schedule with shares of a run of `steps` updates written as numbers, and `every` filled in."""
    if schedule.steps is None:
        return schedule
    keyed = {str(updates_done(key, steps)): value for key, value in schedule.steps.items()}
    between = schedule.between != "step"
    return replace(schedule, steps=keyed, every=(schedule.every or max(1, steps // _CHANGES)) if between else None)


def updates_done(key: str, steps: int) -> int:
    """The number that a key of `steps` stands for; of a share, the nearest. Raises ValueError where it is none."""
    key = str(key)
    if key.isascii() and key.isdigit() and len(key) < 12:
        return int(key)
    share = float(key) if len(key) < 32 and "_" not in key else -1.0
    if not 0.0 < share < 1.0:
        raise ValueError(key)
    return round(share * steps)
