"""Letting go of what runs no longer need: old checkpoints, leftovers of kills, damaged ones that were set aside."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.runs.checkpoints import latest_good_checkpoint
from vitruvius.runs.folder import RunReader
from vitruvius.runs.lock import FolderLock
from vitruvius.runs.summary import size_of

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


def doomed(run: Path | str, *, keep: int) -> list[Doomed]:
    """What pruning a run would delete: all but the `keep` newest checkpoints, and leftovers.

    The newest checkpoint that is whole stays, whatever `keep` says. Raises RunError when the folder is no run,
    CorruptCheckpointError when it has checkpoints and none is whole: then nothing is safe to delete.
    """
    if keep < 1:
        raise UsageError(f"{keep} is below 1", where="--keep", fix="keep at least the newest checkpoint")
    reader = RunReader(run)
    good = latest_good_checkpoint(run).checkpoint
    older = [
        checkpoint.path
        for checkpoint in reader.checkpoints()[:-keep]
        if good is not None and checkpoint.step < good.step
    ]
    folder = reader.path / "checkpoints"
    beside = sorted(folder.iterdir()) if folder.is_dir() else []
    leftovers = [path for path in beside if _LEFTOVER.fullmatch(path.name)]
    return [
        Doomed(path=path, why=why, bytes=size_of(path))
        for why, paths in (("older", older), ("leftover", leftovers))
        for path in paths
    ]


def prune_run(run: Path | str, *, keep: int) -> list[Doomed]:
    """Delete what `doomed` names, while holding the run's lock.

    Raises RunLockedError when the run is being written to; else as `doomed`.
    """
    lock = FolderLock(RunReader(run).path)
    try:
        gone = doomed(run, keep=keep)
        for folder in gone:
            # Renamed before it is emptied: killed half-way, it is a leftover and not a damaged checkpoint.
            leftover = folder.path
            if folder.why == "older":
                leftover = folder.path.with_name(f".{folder.path.name}.pruned")
                shutil.rmtree(leftover, ignore_errors=True)
                folder.path.rename(leftover)
            shutil.rmtree(leftover)
        return gone
    finally:
        lock.release()
