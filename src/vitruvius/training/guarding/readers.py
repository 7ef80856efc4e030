"""When detectors read, what their readings come to over all processes, and what that costs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.training.guarding.detectors import IN_THE_PASS, Reading, is_further, read_load, read_pass, read_tables
from vitruvius.training.watching.blocks import Masters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitruvius.data import Batch
    from vitruvius.training.guarding.alarms import Alarms
    from vitruvius.training.loop import Trainer
    from vitruvius.training.settings.alarms import Detector


@final
class Readers:
    """The detectors of a run, in all processes: each reads its share, and the largest of all is what is read."""

    def __init__(self, trainer: Trainer, alarms: Alarms) -> None:
        self.trainer, self.alarms = trainer, alarms
        self.detectors: frozenset[Detector] = frozenset(cast("Iterable[Detector]", alarms.rules))
        self._taken: list[Reading] = []
        self._masters: Masters | None = None
        self._spent = 0.0
        self._numbers: dict[str, float] = {}

    def is_due(self, step: int) -> bool:
        """Whether detectors read in an update: a function of its number alone."""
        every = self.trainer.config.guard.every
        return every is not None and step % every == 0

    def before(self, step: int, batch: Batch) -> None:
        """Read the model as it is before an update."""
        self._taken, self._masters, self._spent, self._numbers = [], None, 0.0, {}
        wanted = self.detectors & IN_THE_PASS
        if not self.is_due(step) or not wanted:
            return
        began = time.perf_counter()
        trainer, guard = self.trainer, self.trainer.config.guard
        share = trainer.engine.share(batch, trainer.config.accumulate)
        problem: str | None = None
        try:
            self._taken = trainer.engine.entered(
                lambda: read_pass(
                    trainer.model, trainer.objective, share, rows=guard.rows, tokens=guard.tokens, detectors=wanted
                )
            )
        except Exception as error:  # noqa: BLE001 (a run must not end because it is looked at)
            problem = f"{type(error).__name__}: {error}"[:500]
        problems = [each for each in trainer.engine.gather(problem) if each is not None]
        if problems:
            # In every process alike: from here on nobody waits for a pass that another one leaves out.
            self.detectors -= IN_THE_PASS
            self._taken = []
            trainer.run.event("detectors-failed", step=step, detectors=sorted(wanted), error=problems[0])
        self._spent += time.perf_counter() - began

    def gathered(self, step: int) -> list[Reading]:
        """All readings of this update and those that were left from the one before; gradients are at hand.

        For an update that is finite: only such a one is judged by them.
        """
        pending = [Reading(**each) for each in self.alarms.pending]
        self.alarms.pending = []
        if not self.is_due(step):
            return pending
        began = time.perf_counter()
        trainer = self.trainer
        mine = [
            *self._taken,
            *read_load(trainer.model, self.detectors),
            *read_tables(trainer.model, self.detectors, trainer.engine),
        ]
        found = _together(trainer.engine.gather([_plain(reading) for reading in mine]))
        if "update-ratio" in self.detectors:
            self._masters = Masters(trainer.model, trainer.optimizer, trainer.engine)
        self._numbers = {reading.key: reading.value for reading in found if math.isfinite(reading.value)}
        self._spent += time.perf_counter() - began
        return [*pending, *found]

    def after(self, step: int, *, applied: bool) -> dict[str, float]:
        """The update is done or left out; numbers for its row of metrics."""
        if not self.is_due(step):
            return {}
        began = time.perf_counter()
        if self._masters is not None and applied:
            ratios = self._masters.ratios()
            self.alarms.pending = [
                _plain(Reading(detector="update-ratio", key=key, value=value, place=key.split("/", 1)[1]))
                for key, value in ratios.items()
            ]
            self._numbers |= ratios
        self._masters = None
        self._spent += time.perf_counter() - began
        return {**self._numbers, "alarms": float(self.alarms.standing), "guard_seconds": self._spent}


def _plain(reading: Reading) -> dict[str, Any]:
    return {"detector": reading.detector, "key": reading.key, "value": reading.value, "place": reading.place}


def _together(gathered: Iterable[Iterable[Mapping[str, Any]]]) -> list[Reading]:
    """The furthest reading of each key: the largest, or the least where small is bad; NaN before all."""
    found: dict[str, Reading] = {}
    for mine in gathered:
        for each in mine:
            reading = Reading(**each)
            before = found.get(reading.key)
            if before is None or is_further(reading, before):
                found[reading.key] = reading
    return list(found.values())
