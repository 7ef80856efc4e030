"""The guard as the loop sees it: asked between gradients and the optimizer's step, and doing what is done instead."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import RunError
from vitruvius.training.determinism import random_state
from vitruvius.training.guarding.alarms import Alarms
from vitruvius.training.guarding.first_bad import first_bad
from vitruvius.training.guarding.first_bad_together import first_bad_together
from vitruvius.training.guarding.judge import Judge, Judgement
from vitruvius.training.guarding.keeping import set_aside, told
from vitruvius.training.guarding.readers import Readers
from vitruvius.training.guarding.rewinding import rewind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitruvius.data import Batch
    from vitruvius.training.companions import Companion
    from vitruvius.training.guarding.judge import Sight, Verdict
    from vitruvius.training.loop import Listener, Trainer
    from vitruvius.training.updating import Gathered


MOST_SAID = 3
"""Sights that a note names; the event has all."""


@final
class Guardian:
    """Judges every update of a trainer, tells what it saw, and skips, lowers, rewinds or stops."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.settings = trainer.config.guard
        self.judged = Judge(self.settings)
        self.alarms = Alarms(self.settings)
        self.readers = Readers(trainer, self.alarms)
        self._random: dict[str, Any] | None = None

    @property
    def companions(self) -> tuple[Companion, ...]:
        """What a checkpoint remembers of it besides the rows of metrics."""
        return () if self.settings.every is None else (self.alarms,)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The run goes on after these rows of metrics."""
        self.judged.remember(rows)

    def before(self, step: int, batch: Batch) -> None:
        """Update `step` is about to be computed."""
        # Behind the forward pass it would be that of another update: dropout has drawn by then.
        self._random = random_state() if self.settings.keep == "checkpoint" else None
        self.readers.before(step, batch)

    def judge(self, step: int, batch: Batch, gathered: Gathered, listener: Listener) -> Judgement:
        """Whether update `step` may be applied; what speaks against it is in `events.jsonl` by then."""
        judgement = self.judged.judge(gathered)
        if gathered.finite:
            judgement = judgement.joined(self.alarms.sights(self.readers.gathered(step)), self.settings.alarm)
        judgement = replace(judgement, verdict=self._allowed(judgement.verdict))
        if judgement.verdict != "apply":
            self._report(step, judgement, batch, listener)
        if judgement.applies:
            self.judged.applied(gathered.loss, gathered.grad_norm)
        return judgement

    def after(self, step: int, judgement: Judgement) -> dict[str, float]:
        """The update is done, or left out; numbers for its row of metrics."""
        return self.readers.after(step, applied=judgement.applies)

    def instead(self, judgement: Judgement, batch: Batch, listener: Listener) -> None:
        """What happens in the place of an update that is not applied. Raises RunError when the run is to stop."""
        state = self.trainer.state
        if judgement.verdict == "stop":
            raise self._stopped(judgement, batch)
        state.retries += 1
        if judgement.verdict == "lower-lr":
            state.lr_factor *= self.settings.lr_cut
        if judgement.verdict == "rewind":
            # The same weights on other batches would drift the same way.
            cut, levels = self.settings.lr_cut if judgement.kind == "alarm" else 1.0, self.alarms.levels()
            rewind(self.trainer, listener, lr_cut=cut)
            self.alarms.answered(levels)

    def _allowed(self, verdict: Verdict) -> Verdict:
        """The verdict, or `stop` where the run has retried often enough."""
        if verdict in {"skip", "lower-lr", "rewind"} and self.trainer.state.retries >= self.settings.retries:
            return "stop"
        return verdict

    def _report(self, step: int, judgement: Judgement, batch: Batch, listener: Listener) -> None:
        """An event with everything that is known about an update that was not just applied, and what is kept of it."""
        trainer = self.trainer
        first = None
        if judgement.kind == "not-finite":
            trainer.updater.discard()
            first = self._first_bad(batch)
        trainer.run.event(
            judgement.kind,
            step=step,
            verdict=judgement.verdict,
            seen=told(judgement.sights),
            first_bad=first,
            sample_ids=batch.sample_ids.tolist(),
            epochs=batch.epochs.tolist(),
        )
        what = " and ".join(_words(sight) for sight in judgement.sights[:MOST_SAID])
        more = len(judgement.sights) - MOST_SAID
        what += f" and {more:,} more" if more > 0 else ""
        place = "" if first is None or first["name"] is None else f", first in the {first['where']} of {first['name']}"
        listener.note(f"step {step:,}: {what}{place}: {judgement.verdict}")
        if self.settings.keep != "nothing":
            random = None if judgement.applies else self._random
            problem = set_aside(trainer, step, judgement, batch, first=first, random=random)
            if problem is not None:
                listener.note(f"warning: the batch of step {step:,} was not set aside: {problem}")

    def _first_bad(self, batch: Batch) -> dict[str, Any]:
        trainer = self.trainer
        if not trainer.engine.has_whole_model:
            return first_bad_together(trainer, batch)
        pieces = trainer.config.accumulate * trainer.engine.shares
        return first_bad(trainer.model, trainer.objective, batch, trainer.device, pieces=pieces)

    def _stopped(self, judgement: Judgement, batch: Batch) -> RunError:
        """The error for an update that nothing else can be done about; the state before it is saved."""
        trainer = self.trainer
        if trainer.state.step and not trainer.is_saved:
            trainer.save()
        sight = max(judgement.sights, key=lambda each: each.rule is None)
        step = trainer.state.step + 1
        samples: list[int] = batch.sample_ids.tolist()
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        name = {"grad_norm": "gradient norm"}.get(sight.what, sight.what)
        tried = f" after {trainer.state.retries} retries" if trainer.state.retries else ""
        return RunError(
            f"the {name} of step {step:,} is {sight.value:.6g}{_beyond(sight)}; "
            f"the update was not applied{tried} (samples {shown})",
            where=str(trainer.run.path),
            fix="train into a new folder with a lower --lr, more warm-up, a smaller clip or another train.guard; "
            "events.jsonl names every sample of the batch and where the first bad number came from",
        )


def _words(sight: Sight) -> str:
    place = "" if sight.place is None else f" of {sight.place}"
    return f"{sight.what}{place} {sight.value:.4g}{_beyond(sight)}"


def _beyond(sight: Sight) -> str:
    """Which limit an alarm is beyond."""
    if sight.rule is None or sight.limit is None:
        return ""
    return f" ({'under' if sight.rule == 'below' else 'over'} {sight.limit:.4g}, {sight.rule})"
