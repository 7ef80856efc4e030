"""The training loop: one update after another, each a row of metrics, with a checkpoint now and then."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from vitruvius.data.packing.batches import chained
from vitruvius.nn.updates import after_step
from vitruvius.runs import Checkpoint
from vitruvius.runs.retention import retention_of
from vitruvius.training.checkpoint import TrainState, contents_of, restore
from vitruvius.training.config import to_plain
from vitruvius.training.determinism import digest_of
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.guarding.guardian import Guardian
from vitruvius.training.pieces import Pieces, applying
from vitruvius.training.saving import Saver
from vitruvius.training.scaling import OVERFLOW, bear_overflow
from vitruvius.training.schedules import learning_rate
from vitruvius.training.updating import Gathered, ShortInPassError, Updater

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.runs import RunFolder
    from vitruvius.training.companions import Companion
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.evaluate import Score, Validation
    from vitruvius.training.guarding.judge import Verdict
    from vitruvius.training.loading import BatchLoader
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
        batches: BatchLoader,
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
            config=config,
            model=model,
            optimizer=optimizer,
            objective=objective,
            device=device,
            engine=self.engine,
            companions=companions,
        )
        self.observers = tuple(observers)
        self.state = TrainState()
        rules = retention_of(to_plain(config))
        self.saver = Saver(run, engine=self.engine, retention=rules, how=config.recovery.save)
        self.guard = Guardian(self)
        self.companions = (*companions, *self.guard.companions)
        known = [each for each in companions if isinstance(each, Pieces)]
        self.pieces = known[0] if known else Pieces(config)
        self.last_row: dict[str, Any] | None = None
        self.last_loss: float | None = None
        """Of the last update that was applied by this process."""
        self.final_score: Score | None = None
        """Validation after the last step, once it is done."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a verified checkpoint."""
        self.state = restore(
            checkpoint,
            self.model,
            self.optimizer,
            belongs_to=self.belongs_to,
            companions=self.companions,
            engine=self.engine,
        )
        self.guard.remember(self.run.reader.updates(until=self.state.step))

    def train(self, stop: StopRequest, listener: Listener) -> bool:
        """Train until the last step or until asked to stop; returns whether the last step is done and validated.

        A checkpoint of the state at return is on the disk either way. Raises RunError when the loss or a gradient is
        not finite: that update is not applied, and its sample ids are in `events.jsonl`.
        """
        listener.started(step=self.state.step, steps=self.config.steps)
        self.saver.saved, self.saver.note = listener.saved, listener.note
        self.model.train()
        after_step(self.model)
        for one in (*self.companions, *self.observers):
            one.started(self)
        try:
            while self.state.step < self.config.steps and not self.engine.agree_to_stop(stop):
                if not self._step(stop, listener):
                    break
                self.saver.look()
                if self.state.step == self.config.steps or self.state.step % self._every == 0:
                    self._start_saving()
            self.saver.wait()
            if stop.asked and not self.is_saved:
                self.save()
            return self.state.step == self.config.steps and self._finally_scored(stop)
        except Exception:
            self.saver.close()
            raise
        finally:
            for observer in self.observers:
                observer.ended()
            listener.ended()

    def save(self) -> Checkpoint:
        """Write a checkpoint of the state as it is, and wait until it is on the disk."""
        self._start_saving()
        self.saver.wait()
        return self._checkpoint(self.state.step)

    def _start_saving(self) -> None:
        """Have the state as it is saved; of several processes, all of which have it, the main one does."""
        same = "train on machines of one kind; a bit that flipped in memory does this too"
        self.engine.ensure_alike(lambda: digest_of(self.engine.replicated(self.model)), what="the weights", fix=same)
        self.saver.start(
            lambda: contents_of(
                self.state, self.model, self.optimizer, belongs_to=self.belongs_to, companions=self.companions
            )
        )

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(step=step, path=self.run.path / "checkpoints" / f"step-{step}")

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint of the state as it is stands in the folder."""
        self.saver.wait()
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
            extra["context"] = batch.context
        score = self._score(stop)
        if score is not None:
            extra |= {"val_loss": score.loss, "val_bits_per_byte": score.bits_per_byte, "val_tokens": score.tokens}
            extra |= {f"val_{name}": value for name, value in score.metrics.items()}
            extra |= self._average_score(stop)
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
        gathered = self._gathered(step, batch, stop, listener)
        if gathered is None:
            return None
        for observer in self.observers:
            observer.gathered(step, gathered)
        judgement = OVERFLOW if gathered.overflowed else self.guard.judge(step, batch, gathered, listener)
        lr = learning_rate(self.config, self.state.step) * self.state.lr_factor
        metrics = dict(gathered.metrics)
        if judgement.applies:
            with applying(self):
                metrics |= self.updater.apply(gathered, lr=lr, clip=self.config.clip)
        else:
            self.updater.discard()
        metrics |= self.guard.after(step, judgement)
        for observer in self.observers:
            metrics |= observer.after(step, judgement.verdict)
        if not judgement.applies:
            metrics["applied"] = 0
            if gathered.overflowed:
                metrics |= bear_overflow(self, step, batch, listener)
            else:
                self.guard.instead(judgement, batch, listener)
        return Update(
            loss=gathered.loss, grad_norm=gathered.grad_norm, lr=lr, metrics=metrics, verdict=judgement.verdict
        )

    def _gathered(self, step: int, batch: Batch, stop: StopRequest, listener: Listener) -> Gathered | None:
        """The gradients of a batch, in smaller pieces where it does not fit into memory; None when asked to stop."""
        while True:
            for companion in self.companions:
                companion.before(step)
            self.guard.before(step, batch)
            # After the guard's pass over the model: what they attach hears the update alone.
            for observer in self.observers:
                observer.before(step, batch)
            try:
                found = self.updater.gradients(batch, stop)
            except ShortInPassError as error:
                short = error.shortage
                raise self.pieces.leave_word(self, short) from None
            if isinstance(found, Gathered):
                return found
            for observer in self.observers:
                observer.after(step, "stopped")
            if found is None:
                return None
            self.pieces.halve(self, step, found, listener)

    def _score(self, stop: StopRequest) -> Score | None:
        """Validation after an update, when due. The last step's covers `final_eval_batches`."""
        step, every = self.state.step, self.config.eval_every
        if self.validation is None or not (self._is_last or (every and step % every == 0)):
            return None
        score = self.validation.score(self.model, self._batches_to_score, stop)
        self.final_score = score if self._is_last else None
        return score

    @property
    def _is_last(self) -> bool:
        return self.state.step == self.config.steps

    @property
    def _batches_to_score(self) -> int | None:
        return self.config.final_eval_batches if self._is_last else self.config.eval_batches

    def _average_score(self, stop: StopRequest) -> dict[str, float]:
        """The same validation of the averaged weights, where they are kept; nothing when asked to stop meanwhile."""
        average = self.updater.average
        if average is None or self.validation is None:
            return {}
        with average.in_place(self.optimizer):
            other = self.validation.score(self.model, self._batches_to_score, stop)
        return {} if other is None else {"val_loss_ema": other.loss}

    def _finally_scored(self, stop: StopRequest) -> bool:
        """Whether the last validation is done; a run that was stopped during it, and resumed, does it now."""
        if self.validation is None:
            return True
        return (self.final_score or self._score(stop)) is not None
