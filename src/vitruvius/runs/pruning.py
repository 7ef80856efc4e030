"""Letting go of what runs no longer need: old checkpoints, leftovers of kills, damaged ones that were set aside."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.runs.checkpoints import latest_good_checkpoint
from vitruvius.runs.folder import RunReader
from vitruvius.runs.lock import FolderLock
from vitruvius.runs.retention import Retention, reasons, retention_of, validation_losses
from vitruvius.runs.summary import mapping_of, size_of

if TYPE_CHECKING:
    from pathlib import Path

_LEFTOVER = re.compile(r"\.step-\d+\.(partial|replaced|pruned)|damaged-step-\d+(-\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A folder that may go."""

    path: Path
    why: str
    """`older`, or `leftover`."""
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A checkpoint that stays."""

    step: int
    path: Path
    why: tuple[str, ...]
    """Every rule that keeps it, in words; none where it only has not gone yet."""
    bytes: int
    val_loss: float | None
    """At its step, where a validation was due then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What of a run may go, and what stays."""

    doomed: tuple[Doomed, ...]
    kept: tuple[Kept, ...]


def rules_of(
    run: RunReader, *, keep: int | None = None, every: int | None = None, best: int | None = None
) -> Retention:
    """The rules in a run's settings; a number that is given takes the place of the run's own."""
    record = run.record()
    rules = retention_of(mapping_of(record["config"].get("train")), keep=keep, finished=record["status"] == "finished")
    return Retention(
        keep=rules.keep,
        every=rules.every if every is None else every,
        best=rules.best if best is None else best,
        regular=rules.regular,
    )


def kept_by(run: RunReader, rules: Retention) -> list[Kept]:
    """All checkpoints of a run with the rules that keep them, oldest first."""
    checkpoints, losses = run.checkpoints(), validation_losses(run.path)
    why = reasons(checkpoints, rules, losses)
    return [
        Kept(
            step=each.step,
            path=each.path,
            why=why[each.step],
            bytes=size_of(each.path),
            val_loss=losses.get(each.step),
        )
        for each in checkpoints
    ]


def pruning_of(run: Path | str, *, keep: int | None = 1, every: int | None = None, best: int | None = None) -> Pruning:
    """What pruning a run would delete: checkpoints that no rule keeps, and leftovers.

    The newest checkpoint that is whole stays, whatever the rules say. Raises RunError when the folder is no run,
    UsageError for rules that keep nothing, CorruptCheckpointError when it has checkpoints and none is whole: then
    nothing is safe to delete.
    """
    reader = RunReader(run)
    every_one = kept_by(reader, rules_of(reader, keep=keep, every=every, best=best))
    good = latest_good_checkpoint(run).checkpoint
    older = [each for each in every_one if not each.why and good is not None and each.step < good.step]
    folder = reader.path / "checkpoints"
    beside = sorted(folder.iterdir()) if folder.is_dir() else []
    leftovers = [path for path in beside if _LEFTOVER.fullmatch(path.name)]
    return Pruning(
        doomed=(
            *(Doomed(path=each.path, why="older", bytes=each.bytes) for each in older),
            *(Doomed(path=path, why="leftover", bytes=size_of(path)) for path in leftovers),
        ),
        kept=tuple(_with_whole(each, None if good is None else good.step) for each in every_one if each not in older),
    )


def prune_run(run: Path | str, *, keep: int | None = 1, every: int | None = None, best: int | None = None) -> Pruning:
    """Delete what `pruning_of` names, while holding the run's lock.

    Raises RunLockedError when the run is being written to; else as `pruning_of`.
    """
    lock = FolderLock(RunReader(run).path)
    try:
        plan = pruning_of(run, keep=keep, every=every, best=best)
        for folder in plan.doomed:
            # Renamed before it is emptied: killed half-way, it is a leftover and not a damaged checkpoint.
            leftover = folder.path
            if folder.why == "older":
                leftover = folder.path.with_name(f".{folder.path.name}.pruned")
                shutil.rmtree(leftover, ignore_errors=True)
                folder.path.rename(leftover)
            if leftover.is_symlink() or not leftover.is_dir():
                leftover.unlink(missing_ok=True)
            else:
                shutil.rmtree(leftover)
        return plan
    finally:
        lock.release()


def _with_whole(kept: Kept, good: int | None) -> Kept:
    """A checkpoint that stays with nothing to keep it is newer than the newest whole one, or is that one."""
    if kept.why:
        return kept
    why = ("the newest that is whole",) if kept.step == good else ("newer than the newest that is whole",)
    return Kept(step=kept.step, path=kept.path, why=why, bytes=kept.bytes, val_loss=kept.val_loss)
