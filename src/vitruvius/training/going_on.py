"""Going on with a run: from its newest whole checkpoint, with a word about what is another than at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.runs import Checkpoint
from vitruvius.runs.checkpoints import latest_good_checkpoint, prune, set_aside
from vitruvius.runs.environment import environment
from vitruvius.training.pieces import halvings_of

if TYPE_CHECKING:
    from vitruvius.runs import RunFolder, RunReader
    from vitruvius.training.loop import Listener, Trainer


def note_changes(recorded: dict[str, Any], listener: Listener) -> None:
    """Say where the machine or the software is another one than at the start: then the bits may differ."""
    now = environment()
    names = ("vitruvius", "python", "machine", "cpu")
    changed = [f"{name} {recorded.get(name)} -> {now[name]}" for name in names if recorded.get(name) != now[name]]
    torch_before, torch_now = recorded.get("packages", {}).get("torch"), now["packages"].get("torch")
    if torch_before != torch_now:
        changed.append(f"torch {torch_before} -> {torch_now}")
    if changed:
        listener.note("not where the run started, so the last bits may differ: " + "; ".join(changed))


def note_missing_rows(reader: RunReader, step: int, listener: Listener) -> None:
    """Say where `metrics.jsonl` lacks rows of updates that are done: spikes are compared with those that are there."""
    missing = step - len({row["step"] for row in reader.metrics() if type(row.get("step")) is int})
    if missing > 0:
        rows = f"row of {step:,} is" if missing == 1 else f"rows of {step:,} are"
        listener.note(
            f"warning: {missing:,} {rows} missing in metrics.jsonl, which was changed after it was written: curves "
            "have a gap, and the guard compares with fewer updates, so that it may decide otherwise than in one go"
        )


def restore_newest(folder: RunFolder, trainer: Trainer, listener: Listener) -> None:
    """Put the newest whole checkpoint into a trainer; of several processes the main one chooses it, and all read it."""
    engine = trainer.engine
    trainer.pieces.plan(map(tuple, engine.from_main(lambda: halvings_of(folder.reader))))
    step = engine.from_main(lambda: _newest(folder, listener))
    if step is None:
        listener.note("there is no checkpoint yet; starting from the beginning")
        return
    checkpoint = Checkpoint(step=step, path=folder.path / "checkpoints" / f"step-{step}")
    trainer.restore(checkpoint)
    same = "let every machine see the same run folder"
    engine.ensure_alike(lambda: str(trainer.state), what="the contents of the checkpoint", fix=same)
    # What a kill in the middle of pruning left over.
    engine.on_main(lambda: prune(folder.reader, retention=trainer.saver.retention, verified=checkpoint))


def _newest(folder: RunFolder, listener: Listener) -> int | None:
    """The step of the newest whole checkpoint; newer ones that are damaged are set aside."""
    choice = latest_good_checkpoint(folder.path)
    for damaged, error in choice.passed_over:
        moved = set_aside(damaged)
        folder.event("damaged-checkpoint", step=damaged.step, file=error.where, what=error.what, moved_to=moved.name)
        going_on = "the start" if choice.checkpoint is None else f"step {choice.checkpoint.step:,}"
        listener.note(
            f"warning: checkpoint step-{damaged.step} is damaged ({error.where}: {error.what}); "
            f"it is now {moved.name}, going on from {going_on}"
        )
    return None if choice.checkpoint is None else choice.checkpoint.step
