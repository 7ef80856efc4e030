"""Which checkpoint of a run to use, and which to let go: listing, verifying, falling back, pruning. No torch.

checkpoints/step-N/model.safetensors       the weights, by the names of the model's parameters
                   optimizer.safetensors   what the optimizer needs to go on
                   NAME.safetensors        tensors of those who take part in the run, a file each
                   state.json              step, tokens, random state, what the checkpoint belongs to
                   manifest.json           SHA-256 of each, written last
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitruvius.errors import CorruptCheckpointError, RunError
from vitruvius.runs.files import sync_directory
from vitruvius.runs.folder import Checkpoint, RunReader
from vitruvius.runs.retention import reasons, validation_losses

if TYPE_CHECKING:
    from vitruvius.runs.retention import Retention

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
TOKENIZER_FILE = "tokenizer.json"
"""In the run folder itself: a copy of the data's tokenizer, so that a run can generate by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The newest checkpoint that is whole, and the newer ones that are not."""

    checkpoint: Checkpoint | None
    """None when the run has no checkpoint yet."""
    passed_over: tuple[tuple[Checkpoint, CorruptCheckpointError], ...] = ()
    """Damaged checkpoints newer than that, newest first, with what is wrong."""


def latest_checkpoint(run: Path | str) -> Checkpoint:
    """The newest checkpoint of a run, not verified.

    Raises RunError when the folder is no run or has no checkpoint.
    """
    found = RunReader(run).checkpoints()
    if not found:
        raise RunError(
            "this run has no checkpoint yet",
            where=str(run),
            fix="wait for its first one, or train it: vitruvius train --resume " + str(run),
        )
    return found[-1]


def latest_good_checkpoint(run: Path | str, *, every: int = 1, since: int = 0) -> Choice:
    """The newest checkpoint whose every byte agrees with its manifest, among those whose step `every` divides.

    since: the least step of one.

    Raises CorruptCheckpointError when there are checkpoints and none of them is whole.
    """
    passed_over: list[tuple[Checkpoint, CorruptCheckpointError]] = []
    for checkpoint in reversed(RunReader(run).checkpoints()):
        if checkpoint.step % every or checkpoint.step < since:
            continue
        try:
            checkpoint.verify()
        except CorruptCheckpointError as error:
            passed_over.append((checkpoint, error))
        else:
            return Choice(checkpoint=checkpoint, passed_over=tuple(passed_over))
    if passed_over:
        damage = "; ".join(f"{error.where}: {error.what}" for _, error in passed_over)
        raise CorruptCheckpointError(
            f"none of the {len(passed_over)} checkpoints is whole: {damage}",
            where=str(run),
            fix="copy one of them here again, or train into a new folder",
        )
    return Choice(checkpoint=None)


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint to `damaged-step-N`, so that nothing takes it for a good one; the new path."""
    folder = checkpoint.path.parent
    names = (f"damaged-step-{checkpoint.step}" + (f"-{number}" if number else "") for number in range(1000))
    target = next(folder / name for name in names if not (folder / name).exists())
    checkpoint.path.rename(target)
    sync_directory(folder)
    return target


def prune(run: RunReader, *, retention: Retention, verified: Checkpoint) -> list[Checkpoint]:
    """Delete the checkpoints that no rule keeps; returns what was deleted.

    `verified` is a checkpoint known to be whole; it and everything newer stay, so that there is never a moment
    without a good checkpoint.
    """
    checkpoints = run.checkpoints()
    losses = validation_losses(run.path) if retention.best else {}
    why = reasons(checkpoints, retention, losses)
    doomed = [each for each in checkpoints if not why[each.step] and each.step < verified.step]
    for checkpoint in doomed:
        delete(checkpoint)
    return doomed


def let_go_after(run: RunReader, step: int) -> None:
    """The run goes on from `step` another way: checkpoints of the way that it leaves would be taken for newer ones."""
    for checkpoint in run.checkpoints():
        if checkpoint.step > step:
            delete(checkpoint)


def delete(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint. Killed half-way it is a leftover, and not a damaged checkpoint."""
    leftover = checkpoint.path.with_name(f".{checkpoint.path.name}.pruned")
    shutil.rmtree(leftover, ignore_errors=True)
    checkpoint.path.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def require_room(folder: Path, needed: int, *, what: str = "a checkpoint") -> None:
    """Check that `needed` bytes for `what` fit on the disk of `folder` before any of them is written.

    Raises RunError with bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise no_room(folder, needed, free, what=what)


def no_room(folder: Path, needed: int, free: int | None = None, *, what: str = "a checkpoint") -> RunError:
    """The error for a checkpoint that does not fit; earlier checkpoints are as they were."""
    if free is None:
        free = shutil.disk_usage(folder).free
    return RunError(
        f"no room for {what}: it needs {needed:,} bytes, {free:,} are free; earlier checkpoints are intact",
        where=str(folder),
        fix="free some space (or raise the quota or file size limit), then resume",
    )


def tokenizer_path(run: Path | str) -> Path:
    """The tokenizer that belongs to a run folder.

    Raises RunError when it is missing.
    """
    path = Path(run) / TOKENIZER_FILE
    if not path.is_file():
        raise RunError("the run has no tokenizer.json", where=str(run), fix="copy it from the data folder of the run")
    return path
