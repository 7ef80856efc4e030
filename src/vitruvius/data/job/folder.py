"""The output folder of `data prepare`: made aside, then put in place in one go."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from vitruvius.data.replaced import check_replaceable
from vitruvius.runs.files import sync_directory

if TYPE_CHECKING:
    from pathlib import Path

_OURS = re.compile(
    r"index\.json|tokenizer\.json|counts\.json|quarantine\.jsonl|(train|validation)(/shard-\d{5,}\.(bin|idx|origins\.jsonl\.gz))?"
)
EVIDENCE = ("counts.json", "quarantine.jsonl")


def check_output(out: Path) -> None:
    """Check that `out` is free, or holds nothing but prepared data, before any work is done.

    Raises:
        DataError: it is a file or a link, holds other files, or is the working folder or above it.
    """
    if out.name:
        _recover(out)
    check_replaceable(out, holds="prepared data", foreign=_foreign)


def publish(work: Path, out: Path) -> None:
    """Put the folder `work` in the place of `out`: a reader finds the earlier data or the new, never a mixture."""
    previous = _previous(out)
    for folder in (*(path for path in work.rglob("*") if path.is_dir()), work):
        sync_directory(folder)
    if out.exists():
        out.rename(previous)
    work.rename(out)
    sync_directory(out.parent)
    shutil.rmtree(previous, ignore_errors=True)


def evidence_folder(out: Path) -> Path:
    """Where counts and quarantine of a refused corpus go: `out`, or beside it when earlier data is there."""
    return rejected_folder(out) if (out / "index.json").exists() else out


def rejected_folder(out: Path) -> Path:
    """Where evidence goes when `out` holds earlier data."""
    return out.with_name(f"{out.name}.rejected")


def leave_evidence(work: Path, folder: Path) -> None:
    """Move counts and quarantine out of `work` into `folder`."""
    folder.mkdir(exist_ok=True)
    for name in EVIDENCE:
        (work / name).replace(folder / name)
    sync_directory(folder)


def _previous(out: Path) -> Path:
    return out.with_name(f".{out.name}.previous")


def _recover(out: Path) -> None:
    """Finish what a process killed between the two renames of `publish` left undone."""
    previous = _previous(out)
    if previous.is_dir() and not out.exists():
        previous.rename(out)
    elif previous.is_dir() and not _foreign(previous):
        shutil.rmtree(previous)


def _foreign(folder: Path) -> list[str]:
    """Names below `folder` that `prepare` does not write."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")))
    return [name for name in names if not _OURS.fullmatch(name)]
