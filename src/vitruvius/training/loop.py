"""The training loop: one update after another, each a row of metrics, with a checkpoint now and then."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from vitruvius.errors import RunError
from vitruvius.nn.updates import after_step
from vitruvius.nn.weights import weights_of
from vitruvius.runs import Checkpoint
from vitruvius.runs.checkpoints import latest_good_checkpoint
from vitruvius.training.checkpoint import TrainState, restore, save
from vitruvius.training.determinism import digest_of
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.guarding.first_bad import first_bad
from vitruvius.training.guarding.judge import Judge
from vitruvius.training.schedules import learning_rate
from vitruvius.training.updating import Updater

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from vitruvius.data import Batch, PackedBatches
    from vitruvius.nn import Model
    from vitruvius.runs import RunFolder
    from vitruvius.training.companions import Companion
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.evaluate import Score, Validation
    from vitruvius.training.guarding.judge import Judgement, Verdict
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.objectives import Objective
    from vitruvius.training.observing import Observer
    from vitruvius.training.stopping import StopRequest


class Listener(Protocol):
    """Told what a run is doing, as it does it."""

    def started(self, *, step: int, steps: int) -> None:
        """The loop begins after `step` of `steps` updates."""
        ...

    def row(self, row: dict[str, Any]) -> None:
        """An update is done; `row` is its line in `metrics.jsonl`."""
        ...

    def saved(self, checkpoint: Checkpoint) -> None:
        """A checkpoint was written and verified."""
        ...

    def note(self, text: str) -> None:
        """Something worth knowing."""
        ...

    def ended(self) -> None:
        """The loop is over, for whatever reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step came to."""

    loss: float
    """Nats per target, over the whole batch."""
    grad_norm: float
    """L2 norm over all gradients, before clipping."""
    lr: float
    metrics: dict[str, float]
    verdict: Verdict = "apply"
    """What the guard made of it."""


@final
class Trainer:
    """A model, its optimizer and its data, and the loop over them. Use `vitruvius.training.train` to make one."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        model: Model,
        optimizer: MasterOptimizer,
        objective: Objective,
        batches: PackedBatches,
        validation: Validation | None,
        run: RunFolder,
        device: torch.device,
        belongs_to: str,
        observers: Sequence[Observer] = (),
        companions: Sequence[Companion] = (),
        engine: Engine | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.batches = batches
        self.validation = validation
        self.run = run
        self.device = device
        self.belongs_to = belongs_to
        self.engine: Engine = engine or LocalEngine()
        self.updater = Updater(
            config=config, model=model, optimizer=optimizer, objective=objective, device=device, engine=self.engine
        )
        self.observers = tuple(observers)
        self.companions = tuple(companions)
        self.judge = Judge(config.guard)
        self.state = TrainState()
        self.last_row: dict[str, Any] | None = None
        self.last_loss: float | None = None
        """Of the last update that was applied by this process."""
        self.final_score: Score | None = None
        """Validation after the last step, once it is done."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a verified checkpoint."""
        self.state = restore(
            checkpoint, self.model, self.optimizer, belongs_to=self.belongs_to, companions=self.companions
        )
        self.judge.remember(row for row in self.run.reader.metrics() if row["step"] <= self.state.step)

    def train(self, stop: StopRequest, listener: Listener) -> bool:
        """Train until the last step or until asked to stop; returns whether the last step is done and validated.

        A checkpoint of the state at return is on the disk either way. Raises RunError when the loss or a gradient is
        not finite: that update is not applied, and its sample ids are in `events.jsonl`.
        """
        listener.started(step=self.state.step, steps=self.config.steps)
        self.model.train()
        after_step(self.model)
        for one in (*self.companions, *self.observers):
            one.started(self)
        try:
            while self.state.step < self.config.steps and not self.engine.agree_to_stop(stop):
                if not self._step(stop, listener):
                    break
                if self.state.step == self.config.steps or self.state.step % self._every == 0:
                    listener.saved(self.save())
            if stop.asked and not self._is_saved:
                listener.saved(self.save())
            return self.state.step == self.config.steps and self._finally_scored(stop)
        finally:
            for observer in self.observers:
                observer.ended()
            listener.ended()

    def save(self) -> Checkpoint:
        """Write a checkpoint of the state as it is; of several processes, all of which have it, the main one does."""
        same = "train on machines of one kind; a bit that flipped in memory does this too"
        self.engine.ensure_alike(lambda: digest_of(weights_of(self.model)), what="the weights", fix=same)
        self.engine.on_main(
            lambda: save(
                self.run,
                self.state,
                self.model,
                self.optimizer,
                belongs_to=self.belongs_to,
                keep=self.config.keep,
                companions=self.companions,
            )
        )
        return self._checkpoint(self.state.step)

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(step=step, path=self.run.path / "checkpoints" / f"step-{step}")

    @property
    def _is_saved(self) -> bool:
        saved = self.run.reader.checkpoints
        return self.engine.from_main(lambda: any(checkpoint.step == self.state.step for checkpoint in saved()))

    @property
    def _every(self) -> int:
        assert self.config.checkpoint_every is not None
        return self.config.checkpoint_every

    def _step(self, stop: StopRequest, listener: Listener) -> bool:
        """One update, its validation when due, its row; False when asked to stop before the update."""
        began = time.perf_counter()
        batch = self.batches.at(self.state.batches)
        self.engine.draw(self.config.seed, self.state.batches)
        update = self._update(batch, stop, listener)
        if update is None:
            return False
        if update.verdict == "rewind":
            return True
        seconds = time.perf_counter() - began
        tokens = batch.tokens
        self.state.step += 1
        self.state.batches += 1
        self.state.tokens += tokens
        self.state.sample_digest = chained(self.state.sample_digest, batch.sample_digest)
        extra: dict[str, Any] = {**update.metrics, "samples": self.state.sample_digest}
        if self.config.packing != "stream":
            extra["padding"] = batch.padding
        if self.config.curriculum:
            extra["context"] = batch.inputs.shape[1]
        score = self._score(stop)
        if score is not None:
            extra |= {"val_loss": score.loss, "val_bits_per_byte": score.bits_per_byte, "val_tokens": score.tokens}
        row = {
            "step": self.state.step,
            "loss": update.loss,
            "grad_norm": update.grad_norm,
            "lr": update.lr,
            "tokens": self.state.tokens,
            "tokens_per_second": tokens / seconds,
            **extra,
        }
        for companion in self.companions:
            row |= companion.after(self.state.step, row)
        self.run.metric(**row)
        self.last_row = row
        if update.verdict in {"apply", "note"}:
            self.last_loss = update.loss
        listener.row(row)
        return True

    def _update(self, batch: Batch, stop: StopRequest, listener: Listener) -> Update | None:
        """Gradients, a look at them, and the optimizer's step or what the guard says instead.

        None, with nothing changed, when asked to stop meanwhile.
        """
        step = self.state.step + 1
        for companion in self.companions:
            companion.before(step)
        for observer in self.observers:
            observer.before(step, batch)
        gathered = self.updater.gradients(batch, stop)
        if gathered is None:
            for observer in self.observers:
                observer.after(step, "stopped")
            return None
        for observer in self.observers:
            observer.gathered(step, gathered)
        judgement = self.judge.judge(gathered)
        verdict = self._allowed(judgement.verdict)
        if verdict != "apply":
            self._report(step, judgement, verdict, batch, listener)
        lr = learning_rate(self.config, self.state.step) * self.state.lr_factor
        if verdict in {"apply", "note"}:
            self.updater.apply(gathered, lr=lr, clip=self.config.clip)
            self.judge.applied(gathered.loss, gathered.grad_norm)
        else:
            self.updater.discard()
        metrics = dict(gathered.metrics)
        for observer in self.observers:
            metrics |= observer.after(step, verdict)
        if verdict not in {"apply", "note"}:
            metrics["applied"] = 0
            self._instead(verdict, judgement, batch, listener)
        return Update(loss=gathered.loss, grad_norm=gathered.grad_norm, lr=lr, metrics=metrics, verdict=verdict)

    def _allowed(self, verdict: Verdict) -> Verdict:
        """The verdict, or `stop` where the run has retried often enough."""
        if verdict in {"skip", "lower-lr", "rewind"} and self.state.retries >= self.config.guard.retries:
            return "stop"
        return verdict

    def _report(self, step: int, judgement: Judgement, verdict: Verdict, batch: Batch, listener: Listener) -> None:
        """An event with everything that is known about an update that was not just applied."""
        samples: list[int] = batch.sample_ids.tolist()
        epochs: list[int] = batch.epochs.tolist()
        seen = [{**asdict(sight), "value": repr(sight.value)} for sight in judgement.sights]
        kind = "spike" if judgement.sights[0].z is not None else "not-finite"
        first = None
        if kind == "not-finite":
            self.updater.discard()
            first = first_bad(self.model, self.objective, batch, self.device)
        self.run.event(kind, step=step, verdict=verdict, seen=seen, first_bad=first, sample_ids=samples, epochs=epochs)
        what = " and ".join(f"{sight.what} {sight.value:.4g}" for sight in judgement.sights)
        place = "" if first is None or first["name"] is None else f", first in the {first['where']} of {first['name']}"
        listener.note(f"step {step:,}: {what}{place}: {verdict}")

    def _instead(self, verdict: Verdict, judgement: Judgement, batch: Batch, listener: Listener) -> None:
        """What happens in the place of an update that is not applied."""
        if verdict == "stop":
            raise self._stopped(judgement, batch, listener)
        self.state.retries += 1
        if verdict == "lower-lr":
            self.state.lr_factor *= self.config.guard.lr_cut
        if verdict == "rewind":
            self._rewind(listener)

    def _rewind(self, listener: Listener) -> None:
        """Back to the newest whole regular checkpoint, and on with the batches after the one at hand."""
        after, retries = self.state.batches + 1, self.state.retries
        # One that a stop has left between the regular ones does not count: a run that was never stopped has none.
        step = self.engine.from_main(self._newest_regular)
        if step is None:
            listener.note("there is no checkpoint to go back to yet; the update is skipped")
            self.state.batches += 1
            return
        self.restore(self._checkpoint(step))
        self.state.batches, self.state.retries = after, retries
        self.engine.barrier()  # all have read the metrics
        self.run.truncate_metrics(after_step=self.state.step)
        self.run.event("rewound", to_step=self.state.step, next_batch=after)
        listener.note(f"back to step {self.state.step:,}, and on with batch {after:,}")

    def _newest_regular(self) -> int | None:
        checkpoint = latest_good_checkpoint(self.run.path, every=self._every).checkpoint
        return None if checkpoint is None else checkpoint.step

    def _stopped(self, judgement: Judgement, batch: Batch, listener: Listener) -> RunError:
        """The error for an update that nothing else can be done about; the state before it is saved."""
        if not self._is_saved and self.state.step:
            listener.saved(self.save())
        sight, step = judgement.sights[0], self.state.step + 1
        samples: list[int] = batch.sample_ids.tolist()
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        name = {"grad_norm": "gradient norm"}.get(sight.what, sight.what)
        tried = f" after {self.state.retries} retries" if self.state.retries else ""
        return RunError(
            f"the {name} of step {step:,} is {sight.value:.6g}; the update was not applied{tried} (samples {shown})",
            where=str(self.run.path),
            fix="train into a new folder with a lower --lr, more warm-up, a smaller clip or another train.guard; "
            "events.jsonl names every sample of the batch and where the first bad number came from",
        )

    def _score(self, stop: StopRequest) -> Score | None:
        """Validation after an update, when due. The last step's covers `final_eval_batches`."""
        step, every = self.state.step, self.config.eval_every
        is_last = step == self.config.steps
        if self.validation is None or not (is_last or (every and step % every == 0)):
            return None
        batches = self.config.final_eval_batches if is_last else self.config.eval_batches
        score = self.validation.score(self.model, batches, stop)
        self.final_score = score if is_last else None
        return score

    def _finally_scored(self, stop: StopRequest) -> bool:
        """Whether the last validation is done; a run that was stopped during it, and resumed, does it now."""
        if self.validation is None:
            return True
        return (self.final_score or self._score(stop)) is not None


def chained(digest: str, batch_digest: str) -> str:
    """The digest of a stream that goes on with one more batch: 16 hexadecimal digits."""
    return hashlib.sha256((digest + batch_digest).encode()).hexdigest()[:16]
