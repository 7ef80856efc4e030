"""The training loop: one update after another, each a row of metrics, with a checkpoint now and then."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from vitruvius.errors import RunError
from vitruvius.nn.updates import after_step
from vitruvius.training.checkpoint import TrainState, restore, save
from vitruvius.training.schedules import learning_rate
from vitruvius.training.updating import Updater

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from vitruvius.data import Batch, PackedBatches
    from vitruvius.nn import Model
    from vitruvius.runs import Checkpoint, RunFolder
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.evaluate import Score, Validation
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
        self.updater = Updater(config=config, model=model, optimizer=optimizer, objective=objective, device=device)
        self.observers = tuple(observers)
        self.state = TrainState()
        self.last_row: dict[str, Any] | None = None
        self.final_score: Score | None = None
        """Validation after the last step, once it is done."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a verified checkpoint."""
        self.state = restore(checkpoint, self.model, self.optimizer, belongs_to=self.belongs_to)

    def train(self, stop: StopRequest, listener: Listener) -> bool:
        """Train until the last step or until asked to stop; returns whether the last step is done and validated.

        A checkpoint of the state at return is on the disk either way. Raises RunError when the loss or a gradient is
        not finite: that update is not applied, and its sample ids are in `events.jsonl`.
        """
        listener.started(step=self.state.step, steps=self.config.steps)
        self.model.train()
        after_step(self.model)
        for observer in self.observers:
            observer.started(self)
        try:
            while self.state.step < self.config.steps and not stop.asked:
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
        """Write a checkpoint of the state as it is."""
        return save(self.run, self.state, self.model, self.optimizer, belongs_to=self.belongs_to, keep=self.config.keep)

    @property
    def _is_saved(self) -> bool:
        return any(checkpoint.step == self.state.step for checkpoint in self.run.reader.checkpoints())

    @property
    def _every(self) -> int:
        assert self.config.checkpoint_every is not None
        return self.config.checkpoint_every

    def _step(self, stop: StopRequest, listener: Listener) -> bool:
        """One update, its validation when due, its row; False when asked to stop before the update."""
        began = time.perf_counter()
        batch = self.batches.at(self.state.step)
        update = self._update(batch, stop)
        if update is None:
            return False
        seconds = time.perf_counter() - began
        tokens = batch.tokens
        self.state.step += 1
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
        self.run.metric(**row)
        self.last_row = row
        listener.row(row)
        return True

    def _update(self, batch: Batch, stop: StopRequest) -> Update | None:
        """Gradients, the observers' look, and the optimizer's step; None, with nothing changed, when asked to stop."""
        step = self.state.step + 1
        for observer in self.observers:
            observer.before(step, batch)
        gathered = self.updater.gradients(batch, stop)
        if gathered is None:
            for observer in self.observers:
                observer.after(step, "stopped")
            return None
        for observer in self.observers:
            observer.gathered(step, gathered)
        if not gathered.finite:
            self.updater.discard()
            if math.isfinite(gathered.objective):
                raise self._not_finite("gradient norm", gathered.grad_norm, batch)
            raise self._not_finite("loss", gathered.objective, batch)
        lr = learning_rate(self.config, self.state.step)
        self.updater.apply(gathered, lr=lr, clip=self.config.clip)
        seen = {name: value for observer in self.observers for name, value in observer.after(step, "applied").items()}
        return Update(loss=gathered.loss, grad_norm=gathered.grad_norm, lr=lr, metrics=gathered.metrics | seen)

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

    def _not_finite(self, what: str, value: float, batch: Batch) -> RunError:
        step = self.state.step + 1
        samples: Sequence[int] = batch.sample_ids.tolist()
        epochs: Sequence[int] = batch.epochs.tolist()
        self.run.event("not-finite", step=step, what=what, value=repr(value), sample_ids=samples, epochs=epochs)
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        return RunError(
            f"the {what} of step {step:,} is {value}; the update was not applied (samples {shown})",
            where=str(self.run.path),
            fix="train into a new folder with a lower --lr, more warm-up or a smaller clip; "
            "events.jsonl names every sample of the batch",
        )


def chained(digest: str, batch_digest: str) -> str:
    """The digest of a stream that goes on with one more batch: 16 hexadecimal digits."""
    return hashlib.sha256((digest + batch_digest).encode()).hexdigest()[:16]
