"""The observer behind `train.watch`: which updates are sampled, what is measured in them, and what that costs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, final

import torch

from vitruvius.training.observing import Observer
from vitruvius.training.watching.blocks import Masters, gradient_norms_of
from vitruvius.training.watching.components import Components
from vitruvius.training.watching.reading import NEEDS_READING, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vitruvius.data import Batch
    from vitruvius.training.loop import Trainer
    from vitruvius.training.settings import Watch
    from vitruvius.training.updating import Gathered

MOST_SHARE = 0.02
"""Of the time of the updates; a run that is watched for more says so."""


@final
class Watcher(Observer):
    """Measures every `watch.every`-th update, and adds up what measuring costs.

    Where processes have parts of the weights, all of them have one: what reads weights is done by all together.

    `watch_seconds` is the wall time of one sampled update that went to measuring, hooks included. `watch_share` is all
    of it so far over the time of all updates so far, in this process: validation and checkpoints are in neither.
    """

    def __init__(self, watch: Watch, note: Callable[[str], None]) -> None:
        self.watch, self.note = watch, note
        self.measures = frozenset[str](watch.measures)
        self.trainer: Trainer | None = None
        self.watched_seconds = 0.0
        self.update_seconds = 0.0
        self._found: dict[str, float] = {}
        self._components: Components | None = None
        self._masters: Masters | None = None
        self._spent = 0.0
        self._began = 0.0
        self._said = False

    def started(self, trainer: Trainer) -> None:
        """Remember whom to look at."""
        self.trainer = trainer

    def is_sampled(self, step: int) -> bool:
        """Whether an update is measured: a function of its number alone."""
        return self.watch.every is not None and step % self.watch.every == 0

    def before(self, step: int, batch: Batch) -> None:
        """Read a few rows, and put hooks on the components."""
        trainer = self._trained()
        self._spent = 0.0
        if self.is_sampled(step):
            self._settle()
            began = time.perf_counter()
            self._read(step, batch)
            # Hooks on a compiled model would have it compiled again.
            gathers = trainer.engine.gathers
            if "components" in self.measures and trainer.config.compile == "none" and gathers != "by-module":
                self._components = Components(trainer.model, gathers=gathers == "by-layer")
                self._components.attach()
            self._spent += time.perf_counter() - began
        self._began = time.perf_counter()

    def gathered(self, step: int, gathered: Gathered) -> None:
        """Take the hooks off, and look at gradients and weights."""
        trainer = self._trained()
        if not self.is_sampled(step):
            return
        began = time.perf_counter()
        hooks = 0.0
        if self._components is not None:
            self._components.detach()
            self._found |= self._components.numbers()
            hooks, self._components = self._components.own_seconds, None
        if "gradients" in self.measures:
            scale = gathered.loss_scale or 1.0  # gradients are still as large as the loss was made
            norms = gradient_norms_of(trainer.optimizer, trainer.engine)
            self._found |= {name: norm / scale for name, norm in norms.items()}
        if "updates" in self.measures and gathered.finite:
            self._masters = Masters(trainer.model, trainer.optimizer, trainer.engine)
        inside = time.perf_counter() - began
        self._spent += inside + hooks
        # What was spent here is no time of the update's.
        self._began += inside + hooks

    def after(self, step: int, applied: str) -> Mapping[str, float]:
        """What was found, and what it cost."""
        if not self.is_sampled(step):
            self.update_seconds += time.perf_counter() - self._began
            return {}
        self._settle()
        began = time.perf_counter()
        self.update_seconds += began - self._began
        if self._masters is not None and applied in {"apply", "note"}:
            self._found |= self._masters.ratios()
        found = self._found
        self._clear()
        if applied == "stopped":
            return {}
        self._spent += time.perf_counter() - began
        self.watched_seconds += self._spent
        share = self.watched_seconds / max(self.update_seconds, 1e-9)
        self._tell(step, share)
        return found | {"watch_seconds": self._spent, "watch_share": share}

    def ended(self) -> None:
        """Take off what an error in the middle of an update has left on the model."""
        self._clear()

    def _read(self, step: int, batch: Batch) -> None:
        """Read a few rows. Where that fails, for want of memory or in somebody's component, it is left out from now on.

        A run must not end because it is watched.
        """
        trainer, wanted = self._trained(), self.measures & NEEDS_READING
        if not wanted:
            return
        watch, engine = self.watch, trainer.engine
        found, what = dict[str, float](), ""
        try:
            found = engine.entered(
                lambda: read(
                    trainer.model, trainer.objective, batch, rows=watch.rows, tokens=watch.tokens, measures=wanted
                )
            )
        except Exception as error:  # noqa: BLE001
            what = f"{type(error).__name__}: {error}"[:500]
        if not engine.has_whole_model:
            # Heads may be elsewhere; everything else is the same in every process.
            told = engine.gather([found, what])
            found = _means([each for each, _ in told])
            what = next((each for _, each in told if each), "")
        if not what:
            self._found |= found
        else:
            self.measures -= NEEDS_READING
            trainer.run.event("watch-failed", step=step, measures=sorted(wanted), error=what)
            self.note(f"warning: {', '.join(sorted(wanted))} cannot be watched and is left out ({what[:160]})")

    def _clear(self) -> None:
        if self._components is not None:
            self._components.detach()
        self._components, self._masters, self._found = None, None, {}

    def _tell(self, step: int, share: float) -> None:
        """Say once that watching costs more than it should, and what would cost less."""
        every = self.watch.every
        if share <= MOST_SHARE or self._said or every is None:
            return
        self._said = True
        better = math.ceil(every * share / MOST_SHARE)
        self._trained().run.event("watch-cost", step=step, share=share, every=every, every_within_limit=better)
        self.note(
            f"watching takes {share:.1%} of the updates' time, more than {MOST_SHARE:.0%}: "
            f"train.watch.every={better} would not"
        )

    def _settle(self) -> None:
        """Let a GPU finish what it was told before, so that its time is not taken for ours."""
        if self._trained().device.type == "cuda":
            torch.cuda.synchronize()

    def _trained(self) -> Trainer:
        assert self.trainer is not None, "the loop says when it begins"
        return self.trainer


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each key over the processes that have it."""
    keys = dict.fromkeys(key for each in found for key in each)
    values = {key: [each[key] for each in found if key in each] for key in keys}
    return {key: math.fsum(each) / len(each) for key, each in values.items()}
