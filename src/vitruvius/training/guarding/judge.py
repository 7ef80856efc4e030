"""Whether an update may be applied: a look at its loss and norm beside those of the updates before it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from vitruvius.training.settings import Guard
    from vitruvius.training.updating import Gathered

Verdict = Literal["apply", "note", "skip", "lower-lr", "rewind", "stop", "overflow"]
"""What is made of an update; `overflow` is the loss scaler's: not applied, and tried no further."""

HARDNESS: tuple[Verdict, ...] = ("apply", "note", "skip", "lower-lr", "rewind", "stop")
"""From the mildest to the hardest."""

_TO_DEVIATION = 1.4826
"""Median distance from the median -> standard deviation of a normal distribution."""
_LEAST_SPREAD = 1e-3
"""Of the loss in nats, and of the logarithm of the norm: in a run that hardly moves, less is no spike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Something that was seen in an update."""

    what: str
    """`loss`, `grad_norm`, or the name of a detector."""
    value: float
    """As it was."""
    z: float | None
    """Deviations above the median of the window; None where the value is not finite, and of alarms."""
    limit: float | None
    """Deviations from which it is a spike, or the value from which it is an alarm."""
    place: str | None = None
    """Where in the model, of alarms: `layers.3.mixer head 2`."""
    rule: str | None = None
    """What an alarm breaks: `above`, `below`, `growth`, `z`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is to be done about an update, and why."""

    verdict: Verdict
    sights: tuple[Sight, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether the update is applied."""
        return self.verdict in {"apply", "note"}

    @property
    def kind(self) -> Literal["not-finite", "spike", "alarm"]:
        """What its event is called: by the worst of what was seen."""
        if any(sight.rule is None and sight.z is None for sight in self.sights):
            return "not-finite"
        return "spike" if any(sight.rule is None for sight in self.sights) else "alarm"

    def joined(self, alarms: tuple[Sight, ...], action: Verdict) -> Judgement:
        """This and what detectors saw, for which `action` is due: the harder of both is done."""
        if not alarms:
            return self
        verdict: Verdict = max((self.verdict, action), key=HARDNESS.index)
        return Judgement(verdict=verdict, sights=(*self.sights, *alarms))


@final
class Judge:
    """Compares each update with the applied ones before it.

    Robust statistics (median, and median absolute deviation), so that a spike does not hide the next one. They follow
    from the rows of the metrics, so a resumed run judges as the uninterrupted one does.
    """

    __slots__ = ("_guard", "_losses", "_norms")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._losses: deque[float] = deque(maxlen=guard.window)
        self._norms: deque[float] = deque(maxlen=guard.window)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget everything, and take the applied updates among these rows of metrics for what came before."""
        self._losses.clear()
        self._norms.clear()
        for row in rows:
            if row.get("applied", 1):
                self.applied(row["loss"], row["grad_norm"])

    def applied(self, loss: float, grad_norm: float) -> None:
        """An update was applied."""
        self._losses.append(loss)
        self._norms.append(math.log(max(grad_norm, 1e-30)))

    def judge(self, gathered: Gathered) -> Judgement:
        """What to do about these gradients."""
        guard = self._guard
        if not gathered.finite:
            what = "grad_norm" if math.isfinite(gathered.objective) else "loss"
            value = gathered.grad_norm if what == "grad_norm" else gathered.objective
            return Judgement(verdict=guard.not_finite, sights=(Sight(what=what, value=value, z=None, limit=None),))
        norm = math.log(max(gathered.grad_norm, 1e-30))
        looks = (
            ("loss", gathered.loss, gathered.loss, self._losses, guard.loss_z),
            ("grad_norm", gathered.grad_norm, norm, self._norms, guard.grad_z),
        )
        seen: list[Sight] = []
        for what, value, measured, before, limit in looks:
            z = deviations(measured, before) if limit is not None and len(before) == guard.window else None
            if z is not None and limit is not None and z > limit:
                seen.append(Sight(what=what, value=value, z=z, limit=limit))
        return Judgement(verdict=guard.spike if seen else "apply", sights=tuple(seen))


def deviations(value: float, before: Iterable[float], *, least: float = _LEAST_SPREAD) -> float:
    """How many robust standard deviations, each at least `least`, `value` is above the median of `before`."""
    values = list(before)
    return (value - median(values)) / spread_of(values, least=least)


def spread_of(values: Iterable[float], *, least: float = _LEAST_SPREAD) -> float:
    """The robust standard deviation of values, at least `least`."""
    known = list(values)
    middle = median(known)
    return max(_TO_DEVIATION * median(abs(each - middle) for each in known), least)
