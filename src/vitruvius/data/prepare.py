"""Documents to packed token shards: plan the job, run its stages, put the result in place, account for everything."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.data.extras import require
from vitruvius.data.job.assembling import WHOLE, tally_of, write_evidence
from vitruvius.data.job.folder import check_output, evidence_folder, leave_evidence, publish, rejected_folder
from vitruvius.data.job.job import Job
from vitruvius.data.job.plan import PLAN, InputRecord, Plan, read_plan, write_plan
from vitruvius.data.job.running import run_stage
from vitruvius.data.job.stages import stages_of
from vitruvius.data.job.tokenizing import TOKENIZER
from vitruvius.data.options import PrepareOptions
from vitruvius.data.packing.index import read_index
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.reading.units import units_of
from vitruvius.data.tokenization.tokenizer import load_tokenizer
from vitruvius.errors import DataError, UsageError
from vitruvius.runs.files import read_json, write_atomically
from vitruvius.runs.lock import LOCK_NAME, FolderLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.data.job.stage import Stage
    from vitruvius.data.ledger import Tally
    from vitruvius.data.progress import Progress
    from vitruvius.data.reading.units import Unit

UNIT_BYTES = 8 * 2**20
"""About how much of the inputs is one task. It changes no byte of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `prepare` made."""

    directory: Path
    """The data folder."""
    counts: dict[str, Any]
    """The content of `counts.json`."""
    index: dict[str, Any]
    """The content of `index.json`."""
    files: int
    """Files read."""
    passed_over: dict[str, int]
    """Files in folders that were not taken: suffix -> count."""
    resumed: int
    """Tasks that an earlier run had done."""


def prepare(
    inputs: Sequence[str | Path],
    out: Path | str,
    options: PrepareOptions | None = None,
    *,
    workers: int = 1,
    unit_bytes: int = UNIT_BYTES,
    progress: Progress = lambda stage, done, total: None,  # noqa: ARG005 (a listener who does not listen)
    execute: Callable[[Job, Sequence[Stage]], None] | None = None,
) -> Prepared:
    """Turn documents into packed token shards under `out`.

    The same documents give the same bytes, whatever the order of `inputs`, the number of `workers` (processes; 1 is
    this one) and the times it was stopped on the way: what is done so far lies in the folder `out.work`, and the same
    call goes on from there. Nothing changes under `out` until everything is written; then it appears at once, in the
    place of earlier data. `execute` runs stages elsewhere: see `vitruvius.data.job.cluster`.

    Raises:
        DataError: an input or `out` is wrong, or no document is left.
        TooMuchBadDataError: more is bad than allowed. Counts and quarantine lie in `out`, or in
            `out.rejected` when `out` holds earlier data; there is no index.
        RunLockedError: another process works on `out.work`.
        MissingExtraError: a package that these inputs or this recipe need is not installed.
    """
    require("numpy", "tokenizers")
    if workers < 1:
        raise UsageError(f"{workers} is below 1", where="--workers", fix="use a whole number from 1 on")
    options = options or PrepareOptions()
    out = Path(out)
    check_output(out)
    plan = plan_of(inputs, out, options, unit_bytes=unit_bytes)
    work = work_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(FolderLock(work).release)
        job = _opened(work, plan, options)
        stages = stages_of(options)
        stack.callback(_remove_unless_begun, job, stages)
        resumed = sum(len(job.done(stage.name)) for stage in stages)
        for stage in stages:
            if execute is None:
                run_stage(job, stage, workers=workers, progress=progress)
            else:
                execute(job, (stage,))
            if stage.name == "read":
                _check(job, out, tally_of(job))
        whole = job.directory / WHOLE
        counts = read_json(whole / "counts.json")
        publish(whole, out)
        shutil.rmtree(work, ignore_errors=True)
    return Prepared(
        directory=out,
        counts=counts,
        index=read_index(out),
        files=len(plan.files),
        passed_over=plan.passed_over,
        resumed=resumed,
    )


def work_folder(out: Path) -> Path:
    """Where a job for `out` keeps what is done so far."""
    return out.with_name(f"{out.name}.work")


def plan_of(inputs: Sequence[str | Path], out: Path, options: PrepareOptions, *, unit_bytes: int = UNIT_BYTES) -> Plan:
    """What is to be done to make `out` of `inputs`.

    Raises:
        DataError: an input is missing, or there is none to read.
        UsageError: there are inputs without a source beside sources.
    """
    if options.sources and inputs:
        raise UsageError("sources name their own inputs", where="IN", fix="put these inputs under a source")
    ours = (out, rejected_folder(out), work_folder(out))
    units: list[Unit] = []
    sources: list[str] = []
    files: list[InputRecord] = []
    passed_over: Counter[str] = Counter()
    for part in sorted(options.parts, key=lambda part: part.name):
        named = part.inputs if options.sources else inputs
        found = find_inputs(named, kind=part.kind, extensions=part.extensions, exclude=ours)
        here = units_of(found, unit_bytes=unit_bytes)
        units += here
        sources += [part.name] * len(here)
        files += [
            InputRecord(source=part.name, name=file.name, kind=file.kind, size_bytes=file.path.stat().st_size)
            for file in found.files
        ]
        passed_over.update(found.passed_over)
    loaded = None if options.tokenizer is None else load_tokenizer(options.tokenizer, eos=options.eos)
    return Plan(
        out=str(out),
        options=options,
        units=tuple(units),
        sources=tuple(sources),
        tokenizer_sha256=None if loaded is None else hashlib.sha256(loaded.text.encode()).hexdigest(),
        eos=None if loaded is None else loaded.eos,
        files=tuple(files),
        passed_over=dict(sorted(passed_over.items())),
    )


def _opened(work: Path, plan: Plan, options: PrepareOptions) -> Job:
    """The job folder with this plan: an earlier one if it was to do the same, else empty but for the plan."""
    if not _same(work, plan):
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_NAME:
                path.unlink()
        if options.tokenizer is not None:
            text = load_tokenizer(options.tokenizer, eos=options.eos).text
            write_atomically(work / TOKENIZER, text.encode())
    write_plan(work / PLAN, plan)
    return Job(work)


def _same(work: Path, plan: Plan) -> bool:
    """Whether an earlier job was to do the same, but for the rate of bad data, which changes nothing that is kept."""
    try:
        earlier = read_plan(work / PLAN)
    except DataError:
        return False
    mine = replace(plan, options=plan.options.with_rate(0))
    return replace(earlier, options=earlier.options.with_rate(0)).as_json() == mine.as_json()


def _check(job: Job, out: Path, tally: Tally) -> None:
    """Stop where too much is bad or nothing is left, and leave the evidence."""
    evidence = evidence_folder(out)
    try:
        tally.check(job.options.max_bad_rate, evidence=str(evidence))
    except DataError:
        whole = job.directory / WHOLE
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        write_evidence(job, whole, after="reading")
        leave_evidence(whole, evidence)
        raise


def _remove_unless_begun(job: Job, stages: Sequence[Stage]) -> None:
    """Leave nothing behind where nothing was done that a later run could use."""
    if job.directory.exists() and not any(job.done(stage.name) for stage in stages):
        shutil.rmtree(job.directory, ignore_errors=True)
