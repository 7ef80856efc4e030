"""The run folder: one record of everything that runs.

run.json                 what was run, on what, with what; status, start and end
metrics.jsonl            one row per step
events.jsonl             what happened when
checkpoints/step-N/      whole checkpoints only, each with its manifest
.lock                    one writer at a time
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, final, get_args

from vitruvius.errors import RunError
from vitruvius.runs.environment import environment, now_utc
from vitruvius.runs.files import not_written, read_json, sync_directory, write_json
from vitruvius.runs.lines import LineLog, finite, read_lines
from vitruvius.runs.lock import LOCK_NAME, FolderLock
from vitruvius.runs.manifest import Beside, verify_manifest, write_manifest
from vitruvius.runs.shapes import (
    COUNT,
    MAPPING,
    MAPPING_OR_NULL,
    NUMBER,
    TEXT,
    TEXT_OR_NULL,
    Shape,
    first_misfit,
    one_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from types import TracebackType

RUN_SCHEMA = "vitruvius.run/1"
RunStatus = Literal["running", "finished", "stopped", "failed"]
"""`stopped` is a run that left a checkpoint and can be resumed; `failed` is one that ended with an error."""

_CHECKPOINT_NAME = re.compile(r"step-(0|[1-9][0-9]*)")


_RECORD: Shape = {
    "command": [TEXT],
    "config": MAPPING,
    "spec": {"text": TEXT_OR_NULL, "data": MAPPING_OR_NULL},
    "data": MAPPING_OR_NULL,
    "environment": MAPPING,
    "status": one_of(*get_args(RunStatus)),
    "started": TEXT,
    "finished": TEXT_OR_NULL,
    "result": MAPPING,
}
"""What `run.json` holds besides its schema."""

_UPDATE: Shape = {"step": COUNT}
_APPLIED: Shape = {"step": COUNT, "loss": NUMBER, "grad_norm": NUMBER}
"""What a row of `metrics.jsonl` holds at least, where its update was left out and where it was applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was completely written."""

    step: int
    """Steps done when it was written."""
    path: Path
    """Its folder, `checkpoints/step-N`."""
    beside: Beside = "nothing"
    """What may stand in the folder that its manifest does not list."""

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            CorruptCheckpointError: names the file and what differs.
        """
        verify_manifest(self.path, beside=self.beside)


@final
class RunReader:
    """A run folder, read only: no lock, so a run can be watched while it writes."""

    __slots__ = ("path",)

    def __init__(self, path: Path | str) -> None:
        """Look at the run folder `path`.

        Raises:
            RunError: it is not a run folder.
        """
        self.path = Path(path)
        if not (self.path / "run.json").is_file():
            raise RunError(
                "there is no run.json, so this is not a run folder",
                where=str(self.path),
                fix="name the folder that was given to `vitruvius train --out`",
            )

    def record(self) -> dict[str, Any]:
        """What `run.json` holds.

        Raises:
            RunError: the file is not JSON, has another schema, or lacks what a record holds.
        """
        file = self.path / "run.json"
        try:
            value: object = read_json(file)
        except ValueError as error:
            raise RunError(f"the file is not JSON ({error})", where=str(file), fix="restore it from a copy") from None
        schema = cast("dict[str, Any]", value).get("schema") if isinstance(value, dict) else None
        if schema != RUN_SCHEMA:
            raise RunError(
                f"the schema is {schema!r}, this version reads {RUN_SCHEMA!r}",
                where=str(file),
                fix="read it with the version of vitruvius that wrote it",
            )
        misfit = first_misfit(_RECORD, cast("object", value))
        if misfit is not None:
            raise RunError(f"the record is damaged: {misfit}", where=str(file), fix="restore it from a copy")
        return cast("dict[str, Any]", value)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, oldest first; a torn last line is passed over."""
        return list(read_lines(self.path / "metrics.jsonl"))

    def updates(self, *, until: int) -> list[dict[str, Any]]:
        """The rows of the first `until` updates, for a run that goes on after them.

        Raises:
            RunError: a row lacks what an update writes; names file and line.
        """
        found: list[dict[str, Any]] = []
        for line, row in enumerate(self.metrics(), start=1):
            misfit = first_misfit(_APPLIED if row.get("applied", 1) else _UPDATE, row)
            if misfit is not None:
                raise RunError(
                    f"this row is no update of a run: {misfit}",
                    where=f"{self.path / 'metrics.jsonl'}:{line}",
                    fix="put the file back from a copy, or delete the line; it was changed after it was written",
                )
            if row["step"] <= until:
                found.append(row)
        return found

    def events(self) -> list[dict[str, Any]]:
        """The rows of `events.jsonl`, oldest first; a torn last line is passed over."""
        return list(read_lines(self.path / "events.jsonl"))

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints, oldest first. Folders still being written have other names and do not appear."""
        folder = self.path / "checkpoints"
        paths = folder.iterdir() if folder.is_dir() else ()
        named = ((_CHECKPOINT_NAME.fullmatch(path.name), path) for path in paths)
        found = [Checkpoint(step=int(name[1]), path=path) for name, path in named if name]
        return sorted(found, key=lambda checkpoint: checkpoint.step)


@final
class RunFolder:
    """A run folder, held for writing: its lock is taken until `close`. Use it as a context manager."""

    __slots__ = ("_events", "_lock", "_metrics", "path", "reader")

    def __init__(self, path: Path, lock: FolderLock) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._lock = lock
        self.reader = RunReader(path)
        self._metrics = LineLog(path / "metrics.jsonl")
        self._events = LineLog(path / "events.jsonl")

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        command: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        spec_text: str | None = None,
        spec: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make a new run folder and hold it.

        `config` is the resolved configuration, `spec_text` the architecture as written and `spec` as plain
        data, `data` where the data lies and its fingerprint. The environment is recorded by itself.

        Raises:
            RunError: `path` already holds a run or someone else's files, or is not a folder.
            RunLockedError: another process is making a run there.
        """
        path = Path(path)
        _refuse_name(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError("this is a file, not a folder", where=str(path), fix="choose another --out") from None
        if not (path / "run.json").exists():
            _refuse_to_overwrite(path)  # nothing is left in a folder of others, not even a lock
        lock = FolderLock(path)
        try:
            _refuse_to_overwrite(path)
            record = {
                "schema": RUN_SCHEMA,
                "command": list(command),
                "config": dict(config or {}),
                "spec": {"text": spec_text, "data": None if spec is None else dict(spec)},
                "data": None if data is None else dict(data),
                "environment": environment(),
                "status": "running",
                "started": now_utc(),
                "finished": None,
                "result": {},
            }
            write_json(path / "run.json", record)
            (path / "checkpoints").mkdir()
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Hold an existing run folder for writing, to resume it. Torn last lines and half checkpoints are removed.

        Raises:
            RunError: it is not a run folder.
            RunLockedError: another process is writing to it.
        """
        path = Path(path)
        RunReader(path).record()
        lock = FolderLock(path)
        try:
            (path / "checkpoints").mkdir(exist_ok=True)
            for leftover in (path / "checkpoints").glob(".step-*"):
                shutil.rmtree(leftover)
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        self._metrics.close()
        self._events.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def update(self, **fields: Any) -> None:
        """Replace fields of `run.json`, atomically.

        Raises:
            RunError: a field that the record does not have, or a file that cannot be written.
        """
        record = self.reader.record()
        unknown = sorted(fields.keys() - record.keys())
        if unknown:
            raise RunError(f"run.json has no field {unknown[0]!r}", where=str(self.path), fix=f"use {sorted(record)}")
        file = self.path / "run.json"
        try:
            write_json(file, record | fields)
        except OSError as error:
            raise not_written(file, error) from None

    def finish(self, status: RunStatus, **result: Any) -> None:
        """Record how the run ended, when, and what came out; NaN and infinities as in a row of metrics."""
        self.update(status=status, finished=now_utc(), result=finite(result))

    def resume(self) -> None:
        """Record that the run goes on, under which environment."""
        self.event("resumed", environment=environment())
        self.update(status="running", finished=None)

    def metric(
        self,
        *,
        step: int,
        loss: float,
        grad_norm: float | None,
        lr: float,
        tokens: int,
        tokens_per_second: float | None,
        **extra: Any,
    ) -> None:
        """Append a row to `metrics.jsonl`. `tokens` counts the run's tokens so far, this step included."""
        row = {"step": step, "loss": loss, "grad_norm": grad_norm, "lr": lr, "tokens": tokens}
        self._metrics.append({**row, "tokens_per_second": tokens_per_second, **extra})

    def event(self, kind: str, **fields: Any) -> None:
        """Append a row to `events.jsonl`, with the time in UTC."""
        self._events.append({"time": now_utc(), "kind": kind, **fields})

    def truncate_metrics(self, *, after_step: int) -> int:
        """Drop the rows past `after_step`, which a resumed run writes again, and those of no step; returns how many."""
        return self._metrics.keep(lambda row: COUNT.fits(row.get("step")) and row["step"] <= after_step)

    @contextlib.contextmanager
    def checkpoint(self, step: int) -> Generator[Path]:
        """A folder to write checkpoint `step` into; it appears as `checkpoints/step-N` when the block ends, whole.

        The manifest is written last, then the folder is renamed, so `step-N` either has every byte on
        the disk or does not exist. After an error in the block nothing is left of it.
        """
        final_path = self.path / "checkpoints" / f"step-{step}"
        partial = final_path.with_name(f".step-{step}.partial")
        replaced = final_path.with_name(f".step-{step}.replaced")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            self._metrics.sync()
            self._events.sync()
            write_manifest(partial)
            if final_path.exists():
                # The same step again, after a resume from an older checkpoint: the old one steps aside first.
                final_path.rename(replaced)
            partial.rename(final_path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(final_path.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _refuse_name(path: Path) -> None:
    """Refuse a name that is not UTF-8: the library that reads safetensors could not open what is written there."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise RunError("the path is not UTF-8", where=str(path), fix="choose another --out") from None


def _refuse_to_overwrite(path: Path) -> None:
    entries = sorted({entry.name for entry in path.iterdir()} - {LOCK_NAME})
    if "run.json" in entries:
        raise RunError(
            "this folder already holds a run",
            where=str(path),
            fix=f"go on with it: vitruvius train --resume {path}; or choose another --out",
        )
    if entries:
        raise RunError(
            f"this folder holds other files ({entries[0]!r})", where=str(path), fix="choose a new or empty folder"
        )
