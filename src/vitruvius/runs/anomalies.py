"""What the guard of a run has set aside: a folder for each update that something was wrong with. No torch.

anomalies/step-N/anomaly.json     what was seen in update N, where it came from, what was done
                 samples.jsonl    its batch: ids, epochs, losses, tokens and text of every sample
                 step-M/          the state before it, a checkpoint of M = N - 1 updates (only where it was not applied)
                 manifest.json    SHA-256 of each, written last
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitruvius.runs.files import read_json, sync_directory
from vitruvius.runs.manifest import write_manifest

if TYPE_CHECKING:
    from collections.abc import Generator

FOLDER = "anomalies"
ANOMALY_FILE, SAMPLES_FILE = "anomaly.json", "samples.jsonl"
ANOMALY_SCHEMA = "vitruvius.anomaly/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One of the folders."""

    step: int
    """The update, counted from 1."""
    path: Path
    kind: str
    """`not-finite`, `spike` or `alarm`; `unreadable` where its file cannot be read."""
    verdict: str
    """What was done."""
    has_checkpoint: bool
    """Whether the state before the update is there."""

    def __str__(self) -> str:
        """In a list: `step 120 (spike: skip, with the state before it)`."""
        state = ", with the state before it" if self.has_checkpoint else ""
        return f"step {self.step:,} ({self.kind}: {self.verdict}{state})"


def anomalies_of(run: Path | str) -> tuple[Anomaly, ...]:
    """What a run has set aside, the oldest first; half-written folders do not count."""
    found: list[Anomaly] = []
    with contextlib.suppress(OSError):
        for path in (Path(run) / FOLDER).iterdir():
            number = re.fullmatch(r"step-(\d{1,18})", path.name)
            if number is not None and path.is_dir():
                found.append(_read(int(number[1]), path))
    return tuple(sorted(found, key=lambda each: each.step))


@contextlib.contextmanager
def setting_aside(run: Path, step: int, *, keep: int) -> Generator[Path]:
    """A folder to write an anomaly into; it appears as `anomalies/step-N` when the block ends, whole.

    Then all but the `keep` newest go. After an error in the block nothing is left of it. Raises OSError.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder / f".step-{step}.partial"
    partial.mkdir()
    try:
        yield partial
        write_manifest(partial)
        final = folder / f"step-{step}"
        if final.exists():
            # The same update again, after the run went back: what was seen last counts.
            final.rename(folder / f".step-{step}.replaced")
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(folder)
    shutil.rmtree(folder / f".step-{step}.replaced", ignore_errors=True)
    # By when they were written: a run that went back has old folders of later updates.
    known = sorted(anomalies_of(run), key=lambda each: (each.path.stat().st_mtime_ns, each.step))
    for old in known[:-keep]:
        gone = old.path.with_name(f".{old.path.name}.pruned")
        old.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _read(step: int, path: Path) -> Anomaly:
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        value = read_json(path / ANOMALY_FILE)
        known = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return Anomaly(
        step=step,
        path=path,
        kind=str(known.get("kind", "unreadable"))[:40],
        verdict=str(known.get("verdict", "unknown"))[:40],
        has_checkpoint=any(path.glob("step-*/manifest.json")),
    )
