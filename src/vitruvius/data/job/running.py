"""Running a job's stages: in this process, or in several on this machine.

A worker is a process that is told one task after another. It needs nothing from the one that started it but the job's
folder, so a script may call `prepare` without a guard, and a worker that dies takes nothing with it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from vitruvius import errors
from vitruvius.errors import DataError, VitruviusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vitruvius.data.job.job import Job
    from vitruvius.data.job.stage import Stage
    from vitruvius.data.progress import Progress


def todo(job: Job, stage: Stage) -> tuple[list[int], int]:
    """The tasks of a stage that are not done yet, and how many there are in all."""
    total = stage.tasks(job)
    done = job.done(stage.name)
    return [task for task in range(total) if task not in done], total


def run_task(job: Job, stage: Stage, task: int) -> None:
    """Do a task and record that it is done."""
    job.record(stage.name, task, stage.run(job, task))


def run_stage(job: Job, stage: Stage, *, workers: int, progress: Progress) -> None:
    """Do what is left of a stage, in `workers` processes (1 is this one).

    Raises:
        DataError: an input is wrong, or a worker died.
    """
    left, total = todo(job, stage)
    progress(stage.verb, total - len(left), total)
    if min(workers, len(left)) <= 1:
        for number, task in enumerate(left, total - len(left) + 1):
            run_task(job, stage, task)
            progress(stage.verb, number, total)
    else:
        _Pool(job, stage, left, workers=min(workers, len(left)), total=total, progress=progress).run()


class _Pool:
    """Workers, each with a thread that hands it tasks; the first failure stops all."""

    def __init__(
        self, job: Job, stage: Stage, left: Sequence[int], *, workers: int, total: int, progress: Progress
    ) -> None:
        self._job = job
        self._stage = stage
        self._left: queue.SimpleQueue[int] = queue.SimpleQueue()
        for task in left:
            self._left.put(task)
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._count = len(left)
        self._workers = workers
        self._total = total
        self._progress = progress

    def run(self) -> None:
        """Do every task."""
        with contextlib.ExitStack() as stack:
            for _ in range(self._workers):
                process = stack.enter_context(_worker(self._job))
                threading.Thread(target=self._feed, args=(process,), daemon=True).start()
            for number in range(self._total - self._count + 1, self._total + 1):
                failure = self._answers.get()
                if failure is not None:
                    raise failure
                self._progress(self._stage.verb, number, self._total)

    def _feed(self, process: subprocess.Popen[str]) -> None:
        while True:
            try:
                task = self._left.get_nowait()
            except queue.Empty:
                return
            failure = self._ask(process, task)
            self._answers.put(failure)
            if failure is not None:
                return

    def _ask(self, process: subprocess.Popen[str], task: int) -> BaseException | None:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = ""
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(f"{self._stage.name} {task}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if answer:
            return _failure(json.loads(answer))
        return DataError(
            f"a worker {_end_of(process)} while it was {self._stage.verb}, in task {task}",
            where=str(self._job.directory),
            fix="give the same command again: it goes on where it stopped; fewer --workers need less memory",
        )


@contextlib.contextmanager
def _worker(job: Job) -> Any:
    """A worker process, ended with the block whatever it is doing: its tasks are whole or not there."""
    command = [sys.executable, "-m", "vitruvius.data.job.worker", str(job.directory)]
    process = subprocess.Popen(  # noqa: S603 (our own module)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _failure(answer: dict[str, Any]) -> BaseException | None:
    """The error that a worker reports, as it was raised there."""
    if "error" not in answer:
        return None
    kind = getattr(errors, answer["error"], DataError)
    if kind is errors.MissingExtraError:
        return kind(answer["extra"], answer["module"])
    error: VitruviusError = kind(answer["what"], where=answer["where"], fix=answer["fix"])
    return error


def _end_of(process: subprocess.Popen[str]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout=10)
        if code < 0:
            return f"was killed ({signal.Signals(-code).name})"
        return f"left with code {code}"
    return "fell silent"


def stage_named(stages: Iterable[Stage], name: str) -> Stage:
    """The stage of that name.

    Raises:
        UsageError: there is none.
    """
    known = {stage.name: stage for stage in stages}
    if name not in known:
        raise errors.UsageError(f"there is no stage {name!r}", where="--stage", fix=f"use one of {', '.join(known)}")
    return known[name]
