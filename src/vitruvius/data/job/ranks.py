"""One rank's share of a stage: what a scheduler of any kind starts, and what is left to do."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius import errors
from vitruvius.data.job.job import Job
from vitruvius.data.job.running import run_task, stage_named, todo
from vitruvius.data.job.stages import stages_of
from vitruvius.errors import DataError, MissingExtraError, UsageError, VitruviusError
from vitruvius.runs.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vitruvius.data.job.stage import Stage
    from vitruvius.data.progress import Progress

LOGS = "cluster"
"""Folder in a job's folder for what executors and failed ranks write."""

_GO_ON = "mend that and give the same command again: it goes on where it stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What one rank did."""

    stage: str
    rank: int
    ranks: int
    """How many there are."""
    tasks: int
    """Tasks of the stage in all."""
    ran: int
    """Tasks that this rank ran."""
    skipped: int
    """Tasks of this rank that were done already."""
    left: int
    """Tasks of the stage that nobody has done yet."""


def work(directory: Path | str, stage: str, *, rank: int, ranks: int, together: bool = False) -> Worked:
    """Do the tasks rank, rank + ranks, ... of a stage of the job in `directory`, except those that are done.

    This is what any scheduler calls, once for each rank, and for each stage when the one before is done. Ranks
    that work `together` stop before their next task when one of them has failed.

    Raises:
        UsageError: there is no such stage or rank.
        DataError: the folder holds no job, a stage before this one is not done, or an input is wrong.
    """
    if not 0 <= rank < ranks:
        raise UsageError(
            f"there is no rank {rank} of {ranks}", where="--rank", fix=f"ranks go from 0 to {max(ranks, 1) - 1}"
        )
    job = Job(directory)
    stages = stages_of(job.options)
    wanted = stage_named(stages, stage)
    _check_earlier(job, stages, wanted)
    total = wanted.tasks(job)
    done = job.done(wanted.name)
    mine = range(rank, total, ranks)
    ran = 0
    for task in mine:
        if task in done:
            continue
        if together and failures(job, wanted.name):
            break
        run_task(job, wanted, task)
        ran += 1
    left, _ = todo(job, wanted)
    return Worked(
        stage=wanted.name,
        rank=rank,
        ranks=ranks,
        tasks=total,
        ran=ran,
        skipped=len(done.intersection(mine)),
        left=len(left),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a stage is."""

    name: str
    tasks: int | None
    """None where that is known when the stage before is done."""
    done: int


def standing(directory: Path | str) -> list[Standing]:
    """How far each stage of the job in `directory` is, in order.

    Raises:
        DataError: the folder holds no job.
    """
    job = Job(directory)
    found: list[Standing] = []
    known = True
    for stage in stages_of(job.options):
        if not known:
            found.append(Standing(name=stage.name, tasks=None, done=0))
            continue
        left, total = todo(job, stage)
        found.append(Standing(name=stage.name, tasks=total, done=total - len(left)))
        known = not left
    return found


def wait_for_ranks(
    job: Job,
    stages: Sequence[Stage],
    *,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
    poll_seconds: float = 1.0,
) -> None:
    """Wait until other processes have done `stages`: those in which somebody calls `work`."""
    for stage in stages:
        while True:
            left, total = todo(job, stage)
            progress(stage.verb, total - len(left), total)
            if not left:
                break
            time.sleep(poll_seconds)


def record_failure(directory: Path | str, stage: str, rank: int, error: BaseException) -> None:
    """Leave a note of what a rank failed with; the other ranks of its stage stop before their next task."""
    folder = _failures_folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{stage}-{rank:05d}.json", _as_json(error, str(directory)))


def forget_failures(job: Job, stage: str) -> None:
    """Remove the notes of earlier attempts."""
    for path in _failures_folder(job.directory).glob(f"{stage}-*.json"):
        path.unlink(missing_ok=True)


def failures(job: Job, stage: str) -> list[VitruviusError]:
    """What ranks of a stage have failed with."""
    found: list[VitruviusError] = []
    for path in sorted(_failures_folder(job.directory).glob(f"{stage}-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(_from_json(read_json(path)))
    return found


def check_done(job: Job, stage: Stage) -> None:
    """Check that a stage that was run is done.

    Raises:
        VitruviusError: what a rank has failed with.
        DataError: tasks are left and nobody has said why.
    """
    for failure in failures(job, stage.name):
        raise failure
    left, total = todo(job, stage)
    if left:
        raise DataError(
            f"{len(left):,} of {total:,} tasks were not done while {stage.verb}",
            where=str(job.directory / LOGS / stage.name),
            fix="the logs there say why; give the same command again: it goes on where it stopped",
        )


def _check_earlier(job: Job, stages: Iterable[Stage], wanted: Stage) -> None:
    for stage in stages:
        if stage.name == wanted.name:
            return
        left, total = todo(job, stage)
        if left:
            raise DataError(
                f"the stage {stage.name} has to be done before {wanted.name}, and {len(left):,} of its {total:,} tasks "
                "are left",
                where=str(job.directory),
                fix=f"run every rank of --stage {stage.name} first",
            )


def _failures_folder(directory: Path | str) -> Path:
    return Path(directory, LOGS, "failures")


def _as_json(error: BaseException, directory: str) -> dict[str, Any]:
    if isinstance(error, VitruviusError):
        content = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        if isinstance(error, MissingExtraError):
            content |= {"extra": error.extra, "module": error.module}
        return content
    if isinstance(error, OSError):
        place = str(error.filename or directory)
        return {"error": "DataError", "what": error.strerror or str(error), "where": place, "fix": _GO_ON}
    return {"error": "DataError", "what": "a worker ran out of memory", "where": directory, "fix": _GO_ON}


def _from_json(content: dict[str, Any]) -> VitruviusError:
    kind = getattr(errors, content["error"], DataError)
    if kind is MissingExtraError:
        return MissingExtraError(content["extra"], content["module"])
    return kind(content["what"], where=content["where"], fix=content["fix"])
