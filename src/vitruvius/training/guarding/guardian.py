"""The guard as the loop sees it: asked between gradients and the optimizer's step, and doing what is done instead."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import RunError
from vitruvius.training.guarding.first_bad import first_bad
from vitruvius.training.guarding.judge import Judge, Judgement
from vitruvius.training.guarding.rewinding import rewind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vitruvius.data import Batch
    from vitruvius.training.guarding.judge import Verdict
    from vitruvius.training.loop import Listener, Trainer
    from vitruvius.training.updating import Gathered


@final
class Guardian:
    """Judges every update of a trainer, tells what it saw, and skips, lowers, rewinds or stops."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.settings = trainer.config.guard
        self.judged = Judge(self.settings)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The run goes on after these rows of metrics."""
        self.judged.remember(rows)

    def judge(self, step: int, batch: Batch, gathered: Gathered, listener: Listener) -> Judgement:
        """Whether update `step` may be applied; what speaks against it is in `events.jsonl` by then."""
        judgement = self.judged.judge(gathered)
        judgement = replace(judgement, verdict=self._allowed(judgement.verdict))
        if judgement.verdict != "apply":
            self._report(step, judgement, batch, listener)
        if judgement.applies:
            self.judged.applied(gathered.loss, gathered.grad_norm)
        return judgement

    def instead(self, judgement: Judgement, batch: Batch, listener: Listener) -> None:
        """What happens in the place of an update that is not applied. Raises RunError when the run is to stop."""
        state = self.trainer.state
        if judgement.verdict == "stop":
            raise self._stopped(judgement, batch, listener)
        state.retries += 1
        if judgement.verdict == "lower-lr":
            state.lr_factor *= self.settings.lr_cut
        if judgement.verdict == "rewind":
            rewind(self.trainer, listener)

    def _allowed(self, verdict: Verdict) -> Verdict:
        """The verdict, or `stop` where the run has retried often enough."""
        if verdict in {"skip", "lower-lr", "rewind"} and self.trainer.state.retries >= self.settings.retries:
            return "stop"
        return verdict

    def _report(self, step: int, judgement: Judgement, batch: Batch, listener: Listener) -> None:
        """An event with everything that is known about an update that was not just applied."""
        trainer = self.trainer
        samples: list[int] = batch.sample_ids.tolist()
        epochs: list[int] = batch.epochs.tolist()
        seen = [{**asdict(sight), "value": repr(sight.value)} for sight in judgement.sights]
        first = None
        if judgement.kind == "not-finite":
            trainer.updater.discard()
            first = first_bad(trainer.model, trainer.objective, batch, trainer.device)
        trainer.run.event(
            judgement.kind,
            step=step,
            verdict=judgement.verdict,
            seen=seen,
            first_bad=first,
            sample_ids=samples,
            epochs=epochs,
        )
        what = " and ".join(f"{sight.what} {sight.value:.4g}" for sight in judgement.sights)
        place = "" if first is None or first["name"] is None else f", first in the {first['where']} of {first['name']}"
        listener.note(f"step {step:,}: {what}{place}: {judgement.verdict}")

    def _stopped(self, judgement: Judgement, batch: Batch, listener: Listener) -> RunError:
        """The error for an update that nothing else can be done about; the state before it is saved."""
        trainer = self.trainer
        if trainer.state.step and not trainer.is_saved:
            trainer.save()
        sight, step = judgement.sights[0], trainer.state.step + 1
        samples: list[int] = batch.sample_ids.tolist()
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        name = {"grad_norm": "gradient norm"}.get(sight.what, sight.what)
        tried = f" after {trainer.state.retries} retries" if trainer.state.retries else ""
        return RunError(
            f"the {name} of step {step:,} is {sight.value:.6g}; the update was not applied{tried} (samples {shown})",
            where=str(trainer.run.path),
            fix="train into a new folder with a lower --lr, more warm-up, a smaller clip or another train.guard; "
            "events.jsonl names every sample of the batch and where the first bad number came from",
        )
