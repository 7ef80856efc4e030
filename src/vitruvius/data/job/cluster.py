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
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.extras import require
from vitruvius.data.job.ranks import LOGS, check_done, failures, forget_failures, record_failure, work
from vitruvius.data.job.running import todo
from vitruvius.errors import DataError, VitruviusError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vitruvius.data.job.job import Job
    from vitruvius.data.job.stage import Stage
    from vitruvius.data.progress import Progress


_POLL_SECONDS = 0.3


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
            forget_failures(job, stage.name)
            _run_ranks(job, stage, min(workers, len(left)), progress)
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
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one rank, one core
        try:
            work(self.directory, self.stage, rank=rank, ranks=world_size, together=True)
        except (VitruviusError, OSError, MemoryError) as error:
            record_failure(self.directory, self.stage, rank, error)
            if self.on_failure == "raise":
                raise

    def __repr__(self) -> str:
        return f"vitruvius: stage {self.stage} of {self.directory}"


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


def _run_ranks(job: Job, stage: Stage, ranks: int, progress: Progress) -> None:
    """Each rank of a stage in a process of its own; all of them end with this block.

    Raises:
        DataError: a process died.
    """
    directory = str(job.directory.resolve())
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_rank_process(directory, stage.name, rank, ranks)) for rank in range(ranks)]
        running = True
        while running:
            time.sleep(_POLL_SECONDS)
            codes = [process.poll() for process in processes]
            running = None in codes
            left, total = todo(job, stage)
            progress(stage.verb, total - len(left), total)
            if any(codes) and not failures(job, stage.name):
                raise DataError(
                    f"a worker died while it was {stage.verb}",
                    where=str(job.directory),
                    fix="give the same command again: it goes on where it stopped; fewer --workers need less memory",
                )


@contextlib.contextmanager
def _rank_process(directory: str, stage: str, rank: int, ranks: int) -> Generator[subprocess.Popen[bytes]]:
    """A process with a session of its own, so that Ctrl-C reaches only this one, and what it starts ends with it."""
    command = [sys.executable, "-m", "vitruvius.data.job.datatrove_rank", directory, stage, str(rank), str(ranks)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 (our own module)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


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
