"""Running a job's stages through datatrove's executors: in local processes, or as Slurm jobs on many nodes.

Each rank of an executor does the tasks rank, rank + world size, ... of one stage; what a task writes depends on the job
alone, so the output has the same bytes as that of any other way to run it. All nodes share the job's folder. What is
done is recorded there, task by task, so whoever submits again goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.extras import require
from vitruvius.data.job.ranks import LOGS, check_done, failures, forget_failures, record_failure, work
from vitruvius.data.job.running import todo
from vitruvius.errors import DataError, VitruviusError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from vitruvius.data.job.job import Job
    from vitruvius.data.job.stage import Stage
    from vitruvius.data.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """What a cluster wants to know; handed to datatrove's SlurmPipelineExecutor as it is."""

    partition: str
    """Where the jobs are to run."""
    time: str = "20:00:00"
    """Longest run of a rank, in Slurm's notation."""
    qos: str | None = None
    """Quality of service; None says nothing about it."""
    cpus_per_task: int = 1
    """More only to get more memory: a rank uses one."""
    mem_per_cpu_gb: int = 4
    venv_path: str | None = None
    """The `activate` script of an environment with vitruvius and datatrove, on the nodes."""
    env_command: str | None = None
    """A shell command that brings such an environment, instead."""
    max_array_size: int = 1001
    """The cluster's limit on the size of a job array."""
    sbatch_args: Mapping[str, str] = field(default_factory=dict[str, str])
    """More options of sbatch, such as {"account": "llm"}."""


def run_with_datatrove(
    job: Job,
    stages: Sequence[Stage],
    *,
    workers: int,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
) -> None:
    """Do what is left of `stages`, one after another, each by a LocalPipelineExecutor with `workers` processes.

    Raises:
        DataError: an input is wrong, or a worker died.
        MissingExtraError: datatrove is not installed.
    """
    require("datatrove")
    for stage in stages:
        left, total = todo(job, stage)
        progress(stage.verb, total - len(left), total)
        if left:
            ranks = min(workers, len(left))
            forget_failures(job, stage.name)
            with _quiet():
                _watched(job, stage, _local_executor(job, stage, ranks).run, progress)
            check_done(job, stage)


def run_on_slurm(
    job: Job,
    stages: Sequence[Stage],
    *,
    workers: int,
    slurm: SlurmOptions,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
    poll_seconds: float = 10.0,
) -> None:
    """Submit what is left of `stages` as Slurm job arrays of `workers` ranks, each after the one before, and wait.

    The scripts are datatrove's; they and the logs of the ranks lie in `OUT.work/cluster/STAGE`. A rank that Slurm ends
    and requeues goes on with its next task.

    Raises:
        DataError: sbatch is missing or refuses, a rank failed, or the jobs left the queue with work undone.
        MissingExtraError: datatrove is not installed.
    """
    require("datatrove")
    if shutil.which("sbatch") is None:
        raise DataError(
            "this machine has no sbatch",
            where="--executor slurm",
            fix="give this command on a login node of the cluster, or use --executor local",
        )
    waiting: list[tuple[Stage, Any]] = []
    before: Any = None
    for number, stage in enumerate(stages):
        # How many tasks a later stage has is known when the earlier ones are done: every rank finds its own.
        if number == 0 and not todo(job, stage)[0]:
            continue
        forget_failures(job, stage.name)
        before = _slurm_executor(job, stage, workers, slurm, before)
        waiting.append((stage, before))
    if before is None:
        return
    with _quiet():
        try:
            # It submits the executors it depends on first.
            before.run()
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            raise DataError(
                f"the jobs could not be submitted: {error}",
                where="sbatch",
                fix="check the partition and limits; sbatch has said more above",
            ) from None
    for stage, executor in waiting:
        _wait(job, stage, str(executor.job_id), progress=progress, poll_seconds=poll_seconds)
        check_done(job, stage)


@final
class StageWork:
    """A block of a datatrove pipeline that does a rank's share of a stage."""

    __slots__ = ("directory", "on_failure", "stage")

    def __init__(self, directory: str, stage: str, on_failure: str) -> None:
        self.directory = directory
        self.stage = stage
        self.on_failure = on_failure
        """`record`: leave a note in the job's folder and end; `raise`: fail too, so that Slurm does not go on."""

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Work; `data` is what an earlier block would have handed on."""
        del data
        try:
            work(self.directory, self.stage, rank=rank, ranks=world_size, together=True)
        except (VitruviusError, OSError, MemoryError) as error:
            record_failure(self.directory, self.stage, rank, error)
            if self.on_failure == "raise":
                raise

    def __repr__(self) -> str:
        return f"vitruvius: stage {self.stage} of {self.directory}"

    def __reduce__(self) -> tuple[Callable[..., StageWork], tuple[str, str, str]]:
        return _arrived, (self.directory, self.stage, self.on_failure)


def _arrived(directory: str, stage: str, on_failure: str) -> StageWork:
    """A block unpickled, maybe in another process, where nothing but this runs before datatrove talks."""
    multiprocess = importlib.import_module("multiprocess")
    if on_failure == "record" and multiprocess.parent_process() is not None:
        importlib.import_module("loguru").logger.disable("datatrove")
        # As in `_interrupts_ignored`, where somebody else has started the server of processes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core
    return StageWork(directory, stage, on_failure)


def _local_executor(job: Job, stage: Stage, ranks: int) -> Any:
    directory = job.directory.resolve()
    return importlib.import_module("datatrove.executor.local").LocalPipelineExecutor(
        [StageWork(str(directory), stage.name, "record")],
        tasks=ranks,
        workers=ranks,
        logging_dir=str(directory / LOGS / stage.name),
        # What is done is known task by task; datatrove's marks are by rank.
        skip_completed=False,
    )


def _slurm_executor(job: Job, stage: Stage, ranks: int, slurm: SlurmOptions, before: Any) -> Any:
    directory = job.directory.resolve()
    return importlib.import_module("datatrove.executor.slurm").SlurmPipelineExecutor(
        [StageWork(str(directory), stage.name, "raise")],
        tasks=ranks,
        time=slurm.time,
        partition=slurm.partition,
        cpus_per_task=slurm.cpus_per_task,
        mem_per_cpu_gb=slurm.mem_per_cpu_gb,
        job_name=f"vitruvius-{stage.name}",
        qos=slurm.qos,
        venv_path=slurm.venv_path,
        env_command=slurm.env_command,
        sbatch_args=dict(slurm.sbatch_args),
        max_array_size=slurm.max_array_size,
        depends=before,
        logging_dir=str(directory / LOGS / stage.name),
        skip_completed=False,
    )


def _watched(job: Job, stage: Stage, run: Callable[[], object], progress: Progress) -> None:
    """Run an executor, and stop it where one of its processes dies: its pool would wait for that one for ever."""
    multiprocess = importlib.import_module("multiprocess")
    with _interrupts_ignored():
        importlib.import_module("multiprocess.forkserver").ensure_running()
    crash: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 (raised again below, in the thread that was asked)
            crash.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    pids: set[int] = set()
    try:
        while thread.is_alive():
            thread.join(0.3)
            left, total = todo(job, stage)
            progress(stage.verb, total - len(left), total)
            now = {child.pid for child in multiprocess.active_children()}
            if left and pids - now:
                # At the end of its work, with or without an error, the pool ends its processes too.
                thread.join(3.0)
                _check_alive(thread, job, stage)
            pids |= now
    except BaseException:
        _abandon_pools()
        for child in multiprocess.active_children():
            child.kill()
        raise
    if crash:
        raise crash[0]


def _abandon_pools() -> None:
    """Let pools go whose workers are to be killed.

    A process that dies may hold the lock of the queue that a pool gives its orders to, and a pool waits for that lock
    when the interpreter ends: for ever. So it must not start new workers, and not be tidied up.
    """
    registry: dict[Any, Any] = importlib.import_module("multiprocess.util")._finalizer_registry  # noqa: SLF001
    for finalizer in list(registry.values()):
        callback = getattr(finalizer, "_callback", None)
        if getattr(callback, "__name__", "") != "_terminate_pool":
            continue
        pool = finalizer._weakref()  # noqa: SLF001
        if pool is not None:
            pool._worker_handler._state = "TERMINATE"  # noqa: SLF001
            pool._change_notifier.put(None)  # noqa: SLF001
            pool._worker_handler.join(10.0)  # noqa: SLF001
        finalizer.cancel()


@contextlib.contextmanager
def _interrupts_ignored() -> Generator[None]:
    """Processes that are started here ignore Ctrl-C, which reaches all of a terminal: this one decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _check_alive(thread: threading.Thread, job: Job, stage: Stage) -> None:
    if thread.is_alive() and not failures(job, stage.name):
        raise DataError(
            f"a worker died while it was {stage.verb}",
            where=str(job.directory),
            fix="give the same command again: it goes on where it stopped; fewer --workers need less memory",
        )


def _wait(job: Job, stage: Stage, job_id: str, *, progress: Progress, poll_seconds: float) -> None:
    """Wait until a stage is done, or nobody is left to do it."""
    gone = 0
    while True:
        left, total = todo(job, stage)
        progress(stage.verb, total - len(left), total)
        if not left or failures(job, stage.name):
            return
        # Files of other nodes may show up late on a shared disk, so one empty look at the queue is not enough.
        gone = 0 if _queued(job_id) else gone + 1
        if gone >= 3:
            return
        time.sleep(poll_seconds)


def _queued(job_id: str) -> bool:
    """Whether Slurm still has the job; where nobody can say, it has."""
    try:
        done = subprocess.run(  # noqa: S603 (a number that sbatch gave)
            ["squeue", "--noheader", f"--jobs={job_id}"],  # noqa: S607 (where it is, the cluster knows)
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return True
    return bool(done.stdout.strip()) if done.returncode == 0 else "Invalid job id" not in done.stderr


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without datatrove's log on this process's stderr, where our own talk is."""
    logger = importlib.import_module("loguru").logger
    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
