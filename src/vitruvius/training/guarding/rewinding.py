"""Back to an earlier checkpoint, and on with other batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.runs import Checkpoint
from vitruvius.runs.checkpoints import latest_good_checkpoint, let_go_after

if TYPE_CHECKING:
    from vitruvius.training.loop import Listener, Trainer


def rewind(trainer: Trainer, listener: Listener, *, lr_cut: float = 1.0) -> None:
    """Back to the newest whole regular checkpoint, and on with the batches after the one at hand.

    lr_cut: what the learning rate is multiplied by on top of what it was lowered before.
    """
    state, run = trainer.state, trainer.run
    after, retries, lr_factor = state.batches + 1, state.retries, state.lr_factor * lr_cut
    # One that a stop has left between the regular ones does not count: a run that was never stopped has none.
    trainer.saver.wait()
    step = trainer.engine.from_main(lambda: _newest_regular(trainer))
    if step is None:
        listener.note("there is no checkpoint to go back to yet; the update is skipped")
        state.batches += 1
        state.lr_factor = lr_factor
        return
    trainer.restore(Checkpoint(step=step, path=run.path / "checkpoints" / f"step-{step}"))
    state = trainer.state
    state.batches, state.retries, state.lr_factor = after, retries, lr_factor
    trainer.engine.barrier()  # all have read the metrics
    trainer.engine.on_main(lambda: let_go_after(run.reader, step))
    run.truncate_metrics(after_step=state.step)
    run.event("rewound", to_step=state.step, next_batch=after)
    listener.note(f"back to step {state.step:,}, and on with batch {after:,}")


def _newest_regular(trainer: Trainer) -> int | None:
    run = trainer.run
    # The start is saved by a stop alone, unless the run was begun with the weights of another one.
    since = 0 if any(event.get("kind") == "begun" for event in run.reader.events()) else 1
    checkpoint = latest_good_checkpoint(run.path, every=trainer.config.checkpoint_every or 1, since=since).checkpoint
    return None if checkpoint is None else checkpoint.step
