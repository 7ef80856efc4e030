"""The record of a sweep, `sweep.json` in its folder: what was asked for, how far each run is, what came out.

The run folders are the truth, and are read again each time; the record says which they are. No torch.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.errors import RunError
from vitruvius.lab.sweeping_plan import identity
from vitruvius.runs import RunReader
from vitruvius.runs.checkpoints import TOKENIZER_FILE
from vitruvius.runs.environment import now_utc
from vitruvius.runs.files import read_json, write_json
from vitruvius.runs.lock import LOCK_NAME, FolderLock, is_held
from vitruvius.training.checking import from_plain

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from vitruvius.lab.sweeping_plan import PlannedRun, SweepPlan

SWEEP_SCHEMA = "vitruvius.sweep/1"
RECORD_FILE = "sweep.json"
PAGE_FILE = "sweep.html"
LOGS = "logs"
_OURS = frozenset({LOCK_NAME, RECORD_FILE, PAGE_FILE, LOGS})


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far one run of a sweep is."""

    planned: PlannedRun
    status: str = "waiting"
    """`waiting` (not begun), `running`, `finished`, `stopped`, `failed`."""
    step: int = 0
    val_loss: float | None = None
    """Nats per token after the last step."""
    val_bits_per_byte: float | None = None
    val_tokens: int | None = None
    """Targets that were scored."""
    loss: float | None = None
    """Training loss of the last update."""
    tokens_per_second: float | None = None
    """Median of the last updates."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "seed": self.planned.seed,
            "folder": self.planned.folder,
            "belongs_to": self.planned.belongs_to,
            "status": self.status,
            "step": self.step,
            "steps": self.planned.config.steps,
            "loss": self.loss,
            "val_loss": self.val_loss,
            "val_bits_per_byte": self.val_bits_per_byte,
            "val_tokens": self.val_tokens,
            "tokens_per_second": self.tokens_per_second,
            "error": self.error,
        }


@final
class SweepFolder:
    """A sweep's folder, held for writing."""

    def __init__(self, plan: SweepPlan, command: Sequence[str]) -> None:
        """Use `opened`."""
        self.plan, self.path, self.command = plan, plan.out, list(command)
        self.started = now_utc()
        self.states = [RunState(planned=run) for run in plan.runs]

    def of_arm(self, name: str) -> list[RunState]:
        """The runs of an arm, by seed."""
        return [state for state in self.states if state.planned.arm == name]

    def folder(self, run: PlannedRun) -> Path:
        """Where a run lives."""
        return self.path / run.folder

    def look(self, state: RunState) -> None:
        """Read how far a run is from its own folder."""
        folder = self.folder(state.planned)
        if not (folder / "run.json").is_file():
            state.status = "waiting" if state.status != "failed" else "failed"
            return
        from vitruvius.runs.summary import summary_of

        summary, record = summary_of(folder), RunReader(folder).record()
        result: dict[str, Any] = record["result"]
        state.status = {"died": "stopped"}.get(summary.status, summary.status)
        state.step, state.loss, state.tokens_per_second = summary.step, summary.loss, summary.tokens_per_second
        done = state.status == "finished"
        state.val_loss = result.get("val_loss") if done else None
        state.val_bits_per_byte = result.get("val_bits_per_byte") if done else None
        state.val_tokens = result.get("val_tokens") if done else None
        state.error = str(result.get("error")) if state.status == "failed" else None

    def write(self, result: dict[str, Any]) -> None:
        """Put what is known now in the place of the record, atomically."""
        write_json(self.path / RECORD_FILE, result)


@contextlib.contextmanager
def opened(plan: SweepPlan, command: Sequence[str]) -> Generator[SweepFolder]:
    """The folder of a sweep, new or gone on with, held until the block ends; its runs are looked at.

    Raises RunError when it holds something else, or a run in it is not the one that was asked for; RunLockedError
    when another process sweeps there, or trains one of its runs.
    """
    path = plan.out
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunError("this is a file, not a folder", where=str(path), fix="choose another --out") from None
    lock = FolderLock(path)
    try:
        folder = SweepFolder(plan, command)
        known = _known(path)
        if known is None:
            _refuse_others(path)
        else:
            _refuse_another_sweep(path, known, plan)
            folder.started = str(known["started"])
        for state in folder.states:
            _refuse_another_run(folder, state.planned)
            folder.look(state)
        yield folder
    finally:
        lock.release()


def clear_unborn(folder: Path) -> bool:
    """Whether a run can go on; one that ended before its first checkpoint is removed, and begins anew."""
    if not (folder / "run.json").is_file():
        return False
    reader = RunReader(folder)
    if reader.checkpoints() and (folder / TOKENIZER_FILE).is_file():
        return True
    lock = FolderLock(folder)  # nobody is at work on it
    try:
        shutil.rmtree(folder)
    finally:
        lock.release()
    return False


def read_sweep(path: Path) -> dict[str, Any]:
    """The record in a sweep's folder. Raises RunError where there is none, or it is damaged."""
    known = _known(path)
    if known is None:
        what = f"there is no {RECORD_FILE}, so this is not the folder of a sweep"
        raise RunError(what, where=str(path), fix="name the folder that was given to `vitruvius sweep --out`")
    return known


def _known(path: Path) -> dict[str, Any] | None:
    file = path / RECORD_FILE
    if not file.is_file():
        return None
    fix = "restore it from a copy, or delete it to begin a record anew; run folders stay as they are"
    try:
        value: object = read_json(file)
    except (OSError, ValueError) as error:
        raise RunError(f"the record is not JSON ({error})", where=str(file), fix=fix) from None
    record = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if record.get("schema") != SWEEP_SCHEMA:
        what = f"the schema is {record.get('schema')!r}, this version reads {SWEEP_SCHEMA!r}"
        raise RunError(what, where=str(file), fix="choose another --out")
    try:
        for arm in record["arms"]:
            for run in arm["runs"]:
                _ = str(run["folder"]), str(run["belongs_to"]), str(arm["name"])
        _ = record["started"]
    except (KeyError, TypeError):
        raise RunError("the record is damaged", where=str(file), fix=fix) from None
    return record


def _refuse_others(path: Path) -> None:
    found = sorted({entry.name for entry in path.iterdir()} - _OURS)
    runs = [name for name in found if (path / name / "run.json").is_file()]
    strange = [name for name in found if name not in runs and not any((path / name).glob("seed-*/run.json"))]
    if strange or (path / "run.json").exists():
        what = f"this folder holds other files ({(strange or ['run.json'])[0]!r})"
        raise RunError(what, where=str(path), fix="choose a new or empty folder")


def _refuse_another_sweep(path: Path, known: dict[str, Any], plan: SweepPlan) -> None:
    """A sweep may grow by arms and seeds; what it has must stay what it is."""
    wanted = {run.folder: run.belongs_to for run in plan.runs}
    for arm in known["arms"]:
        for run in arm["runs"]:
            folder, begun = str(run["folder"]), run.get("status") != "waiting"
            if folder in wanted and (wanted[folder] == run["belongs_to"] or not begun):
                continue
            if folder not in wanted and not begun:
                continue
            how = "with other settings, spec or data" if folder in wanted else "which is not asked for"
            raise RunError(
                f"this folder holds another sweep: it has the run {folder}, {how}",
                where=str(path),
                fix="choose another --out; the same sweep may only gain values and seeds",
            )


def _refuse_another_run(folder: SweepFolder, planned: PlannedRun) -> None:
    path = folder.folder(planned)
    if not (path / "run.json").is_file():
        return
    record = RunReader(path).record()
    data: dict[str, Any] = record["data"] or {}
    spec = record["spec"]["data"]
    train = record["config"].get("train")
    same = (
        isinstance(train, dict)
        and spec is not None
        and identity(from_plain(cast("dict[str, Any]", train)), spec, str(data.get("fingerprint")))
        == planned.belongs_to
    )
    if not same:
        raise RunError(
            "this run has other settings, another spec or other data than the arm of its name",
            where=str(path),
            fix="choose another --out, or move the folder away",
        )
    if is_held(path):
        FolderLock(path).release()  # raises, and says who holds it
