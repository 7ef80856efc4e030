"""Many runs by listing values: each arm with each seed is an ordinary run folder, and the sweep has one record.

    plan = plan_sweep("run.yaml", data="data/books", out="sweeps/a", settings=["train.lr=[1e-3,3e-3]"], seeds=2)
    result = sweep(plan)

Runs are trained in processes of their own; this one never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, final

from vitruvius.errors import RunError
from vitruvius.lab.sweeping_jobs import Jobs, Task
from vitruvius.lab.sweeping_record import LOGS, PAGE_FILE, clear_unborn, opened
from vitruvius.lab.sweeping_results import document
from vitruvius.report.run_history import history_of
from vitruvius.report.sweep_page import sweep_page
from vitruvius.runs import RunReader
from vitruvius.runs.files import write_atomically
from vitruvius.spec import to_data
from vitruvius.training.config import to_plain
from vitruvius.training.stopping import StopRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.lab.sweeping_plan import SweepPlan
    from vitruvius.lab.sweeping_record import RunState, SweepFolder
    from vitruvius.report.run_history import History

FAILED = 1


class SweepListener(Protocol):
    """Told how a sweep goes."""

    def kept(self, state: RunState) -> None:
        """A run was found finished."""
        ...

    def began(self, state: RunState) -> None:
        """Training of a run starts, or goes on."""
        ...

    def stepped(self, state: RunState) -> None:
        """It has done some updates."""
        ...

    def noted(self, state: RunState, text: str) -> None:
        """A warning of a run."""
        ...

    def ended(self, state: RunState) -> None:
        """It is finished, stopped or failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    path: Path
    document: dict[str, Any]
    """Schema `vitruvius.sweep/1`; it is `sweep.json` too."""
    page: Path
    exit_code: int
    """0; 1 where a run failed; 75 after SIGTERM, 130 after Ctrl-C."""


def sweep(
    plan: SweepPlan,
    *,
    command: Sequence[str] = (),
    listener: SweepListener | None = None,
    stop: StopRequest | None = None,
) -> SweepResult:
    """Train what is not finished yet, and say what all of it came to.

    A run that fails is recorded and tried again by the next call; the others go on. `stop` is looked at all the time:
    runs save a checkpoint and end, and the next call goes on. Raises RunError where the folder holds something else,
    RunLockedError where another process is at work in it.
    """
    stop = stop or StopRequest()
    with opened(plan, command) as folder:
        folder.write(document(folder))
        watch = _Watching(folder, listener)
        tasks: list[Task] = []
        for state in folder.states:
            if state.status == "finished":
                watch.kept(state)
            else:
                tasks.append(watch.task(state))
        if tasks:
            Jobs(jobs=plan.jobs, threads=plan.threads, logs=folder.path / LOGS, listener=watch).run(tasks, stop)
        found = document(folder)
        folder.write(found)
        page = folder.path / PAGE_FILE
        write_atomically(page, sweep_page(found, histories(folder)).encode("utf-8", "backslashreplace"))
    code = stop.exit_code or (FAILED if found["runs"]["failed"] else 0)
    if stop.asked and found["runs"]["finished"] == len(folder.states):
        code = 0
    return SweepResult(path=plan.out, document=found, page=page, exit_code=code)


def histories(folder: SweepFolder) -> dict[str, History]:
    """The curves of the runs that have any, by folder."""
    found: dict[str, History] = {}
    for state in folder.states:
        path = folder.folder(state.planned)
        if (path / "run.json").is_file():
            found[state.planned.folder] = history_of(RunReader(path).metrics())
    return found


@final
class _Watching:
    """Keeps the record while jobs go, and passes on what happens."""

    def __init__(self, folder: SweepFolder, listener: SweepListener | None) -> None:
        self._folder, self._listener = folder, listener
        self._states: dict[str, RunState] = {state.planned.folder: state for state in folder.states}

    def task(self, state: RunState) -> Task:
        """What a job is told of a run."""
        folder, run = self._folder, state.planned
        arm = next(arm for arm in folder.plan.arms if arm.arm.name == run.arm)
        reading = arm.request.reading
        path = folder.folder(run)
        return Task(
            name=run.folder,
            order={
                "run": str(path),
                "resume": clear_unborn(path),
                "data": str(folder.plan.data),
                "spec": to_data(reading.architecture),
                "spec_text": reading.text,
                "config": to_plain(run.config),
                "command": folder.command,
            },
        )

    def kept(self, state: RunState) -> None:
        if self._listener is not None:
            self._listener.kept(state)

    def began(self, task: Task) -> None:
        state = self._states[task.name]
        state.status, state.error = "running", None
        self._folder.write(document(self._folder))
        if self._listener is not None:
            self._listener.began(state)

    def stepped(self, task: Task, step: int, loss: float | None) -> None:
        state = self._states[task.name]
        state.step, state.loss = step, loss if loss is not None and isfinite(loss) else state.loss
        if self._listener is not None:
            self._listener.stepped(state)

    def noted(self, task: Task, text: str) -> None:
        if self._listener is not None:
            self._listener.noted(self._states[task.name], text)

    def ended(self, task: Task, status: str, error: str | None) -> None:
        """The run folder knows best; what a process could not write there stands here."""
        state = self._states[task.name]
        try:
            self._folder.look(state)
        except RunError as damaged:
            status, error = "failed", str(damaged)
        if status == "failed":
            state.status, state.error = "failed", error or state.error
        self._folder.write(document(self._folder))
        if self._listener is not None:
            self._listener.ended(state)
