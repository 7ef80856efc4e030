"""Ranks, and datatrove's executors that start them: the bytes of one process, and errors that say what to do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from vitruvius.cli.data_work import command as work_command
from vitruvius.data.job.cluster import SlurmOptions, run_on_slurm, run_with_datatrove
from vitruvius.data.job.job import Job
from vitruvius.data.job.ranks import check_done, failures, forget_failures, record_failure, standing, work
from vitruvius.data.job.stages import stages_of
from vitruvius.data.options import PrepareOptions
from vitruvius.data.prepare import prepare
from vitruvius.errors import DataError, MissingExtraError, UsageError

needs_datatrove = pytest.mark.skipif(
    find_spec("datatrove") is None, reason="datatrove is not installed: pip install 'vitruvius[cluster]'"
)
OPTIONS = PrepareOptions(vocab=300)
UNIT_BYTES = 2_000


class StoppedError(Exception):
    """Raised where a test wants the job's folder as it is."""


@pytest.fixture
def pages(tmp_path):
    """Five files of lines, which are ten or so units."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        rows = [{"text": f"{number} page {row} says {'word ' * (row % 9 + 3)}{row * 7919 % 1000}"} for row in range(60)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n\n{"text": "also fine"}\n', encoding="utf-8")
    return folder


@pytest.fixture
def planned(pages, tmp_path):
    """A job's folder with nothing done."""
    kept = tmp_path / "copy.work"

    def stop(job, stages):
        # What is planned and not begun is removed, so keep a copy.
        shutil.copytree(job.directory, kept, ignore=shutil.ignore_patterns("*.lock", ".lock", "lock"))
        raise StoppedError

    with pytest.raises(StoppedError):
        prepare([pages], tmp_path / "planned", OPTIONS, unit_bytes=UNIT_BYTES, execute=stop)
    return kept


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared(pages, out, **ways):
    prepare([pages], out, OPTIONS, unit_bytes=UNIT_BYTES, **ways)
    return files_below(out)


# ----------------------------------------------------------------------------------------------------------------------
# Ranks


def test_ranks_in_any_order_give_the_bytes_of_one_process(pages, tmp_path):
    def with_ranks(job, stages):
        for stage in stages:
            done = [work(job.directory, stage.name, rank=rank, ranks=3) for rank in (2, 0, 1)]
            assert sum(one.ran for one in done) == done[0].tasks
            assert done[-1].left == 0

    assert prepared(pages, tmp_path / "ranks", execute=with_ranks) == prepared(pages, tmp_path / "alone")


def test_a_rank_does_its_own_tasks_and_no_task_twice(planned):
    first = work(planned, "read", rank=1, ranks=4)
    assert first.tasks > 8
    assert first.ran == len(range(1, first.tasks, 4))
    assert first.left == first.tasks - first.ran
    assert Job(planned).done("read") == set(range(1, first.tasks, 4))
    again = work(planned, "read", rank=1, ranks=4)
    assert (again.ran, again.skipped) == (0, first.ran)


def test_a_stage_waits_for_the_one_before(planned):
    second = stages_of(OPTIONS)[1].name
    work(planned, "read", rank=0, ranks=2)
    with pytest.raises(DataError, match="read has to be done before") as refused:
        work(planned, second, rank=0, ranks=1)
    assert "--stage read" in refused.value.fix
    work(planned, "read", rank=1, ranks=2)
    assert work(planned, second, rank=0, ranks=1).left == 0


def test_standing_says_what_is_left_and_what_cannot_be_known_yet(planned):
    before = standing(planned)
    assert [one.name for one in before] == [stage.name for stage in stages_of(OPTIONS)]
    assert before[0].tasks and before[0].done == 0
    assert {one.tasks for one in before[1:]} == {None}
    work(planned, "read", rank=0, ranks=1)
    after = standing(planned)
    assert after[0].done == after[0].tasks
    assert after[1].tasks is not None


@pytest.mark.parametrize(("rank", "ranks"), [(-1, 2), (2, 2), (0, 0), (5, -1)])
def test_a_rank_that_there_is_not_is_refused(planned, rank, ranks):
    with pytest.raises(UsageError, match="no rank"):
        work(planned, "read", rank=rank, ranks=ranks)


def test_an_unknown_stage_and_a_folder_without_a_job_are_refused(planned, tmp_path):
    with pytest.raises(UsageError, match="no stage 'reed'"):
        work(planned, "reed", rank=0, ranks=1)
    with pytest.raises(DataError, match="no job folder"):
        work(tmp_path / "nowhere", "read", rank=0, ranks=1)


def test_ranks_that_work_together_stop_when_one_has_failed(planned):
    record_failure(planned, "read", 3, DataError("the disk is odd", where="disk", fix="look at it"))
    assert work(planned, "read", rank=0, ranks=2, together=True).ran == 0
    job, stage = Job(planned), stages_of(OPTIONS)[0]
    with pytest.raises(DataError, match="the disk is odd") as refused:
        check_done(job, stage)
    assert (refused.value.where, refused.value.fix) == ("disk", "look at it")
    # Another scheduler's ranks know nothing of the attempt that failed.
    assert work(planned, "read", rank=0, ranks=2).ran > 0
    forget_failures(job, "read")
    assert failures(job, "read") == []


@pytest.mark.parametrize(
    "error", [MissingExtraError("data", "pyarrow"), UsageError("u", where="w", fix="f"), OSError(28, "No space", "/x")]
)
def test_a_failure_comes_back_as_it_was(planned, error):
    record_failure(planned, "read", 0, error)
    (found,) = failures(Job(planned), "read")
    if isinstance(error, OSError):
        assert (type(found), found.what, found.where) == (DataError, "No space", "/x")
    else:
        assert (type(found), str(found)) == (type(error), str(error))


@pytest.mark.slow
def test_a_command_that_waits_for_others_puts_their_work_in_place(pages, tmp_path):
    out, code = tmp_path / "waited", []
    words = ["data", "prepare", str(pages), "--out", str(out), "--vocab", "300", "--executor", "external", "--json"]
    waiting = subprocess.Popen([sys.executable, "-m", "vitruvius", *words], stdout=subprocess.PIPE)
    try:
        for stage in stages_of(OPTIONS):
            while waiting.poll() is None:
                try:
                    if work(tmp_path / "waited.work", stage.name, rank=0, ranks=1).left == 0:
                        break
                except DataError as error:  # not planned yet
                    assert "job folder" in str(error)
                    time.sleep(0.05)
        shown = json.loads(waiting.communicate(timeout=120)[0])
        code.append(waiting.returncode)
    finally:
        waiting.kill()
    assert code == [0]
    assert shown["documents_in"] == 303
    prepare([pages], tmp_path / "alone", OPTIONS)
    assert files_below(out) == files_below(tmp_path / "alone")


# ----------------------------------------------------------------------------------------------------------------------
# The verb


def test_the_verb_lists_stages_and_works_on_one(planned, capsys):
    work_command.main([str(planned), "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "vitruvius.data-work/1"
    assert shown["worked"] is None
    assert shown["stages"][0]["done"] == 0
    work_command.main([str(planned), "--stage", "read", "--rank", "0", "--of", "1"], standalone_mode=False)
    said = capsys.readouterr().err
    assert "rank 0 of 1 ran" in said
    assert f"--stage {shown['stages'][1]['name']}" in said


# ----------------------------------------------------------------------------------------------------------------------
# datatrove


@needs_datatrove
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_datatrove_gives_the_bytes_of_one_process(pages, tmp_path, workers, capfd):
    told = []

    def execute(job, stages):
        run_with_datatrove(job, stages, workers=workers, progress=lambda *news: told.append(news))

    found = prepared(pages, tmp_path / "datatrove", execute=execute)
    assert found == prepared(pages, tmp_path / "alone")
    assert found["index.json"]
    assert any(done == total for _, done, total in told)
    shown = capfd.readouterr()
    assert "datatrove" not in shown.out + shown.err


@needs_datatrove
@pytest.mark.slow
def test_datatrove_reports_a_bad_input_as_the_error_it_is(pages, planned):
    (pages / "3.jsonl").unlink()
    job = Job(planned)
    with pytest.raises(DataError) as refused:
        run_with_datatrove(job, stages_of(OPTIONS)[:1], workers=2)
    assert "3.jsonl" in refused.value.where


@needs_datatrove
@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_and_the_next_run_goes_on(pages, tmp_path):
    killed = []

    def kill(stage, done, total):
        if not killed and done:
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    words = process.read_bytes().decode().split("\0")
                    if "vitruvius.data.job.datatrove_rank" in words and str((tmp_path / "out.work").resolve()) in words:
                        killed.append(int(process.parent.name))
                        os.kill(killed[-1], signal.SIGKILL)
                        return

    def execute(job, stages):
        run_with_datatrove(job, stages, workers=2, progress=kill)

    with pytest.raises(DataError, match="a worker died while it was reading"):
        prepare([pages], tmp_path / "out", OPTIONS, unit_bytes=200, execute=execute)
    assert killed
    prepare([pages], tmp_path / "out", OPTIONS, unit_bytes=200, execute=execute)
    prepare([pages], tmp_path / "straight", OPTIONS)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "straight")


@needs_datatrove
@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(planned):
    code = (
        "import os, signal, sys\n"
        "from vitruvius.data.job.cluster import run_with_datatrove\n"
        "from vitruvius.data.job.job import Job\n"
        "from vitruvius.data.job.stages import stages_of\n"
        "job = Job(sys.argv[1])\n"
        "die = lambda stage, done, total: done and os.kill(os.getpid(), signal.SIGKILL)\n"
        "run_with_datatrove(job, stages_of(job.options), workers=2, progress=die)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(planned)], check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    for _ in range(600):
        alive = subprocess.run(["pgrep", "-f", str(planned)], capture_output=True, check=False).stdout
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    run_with_datatrove(Job(planned), stages_of(OPTIONS), workers=2)
    assert all(stage.done == stage.tasks for stage in standing(planned))


def test_without_datatrove_the_extra_is_named(planned, monkeypatch):
    from vitruvius.data import extras

    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="'cluster' extra"):
        run_with_datatrove(Job(planned), stages_of(OPTIONS), workers=2)


# ----------------------------------------------------------------------------------------------------------------------
# Slurm, played by scripts that run what they are given

SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
here = Path(__file__).parent
script = Path(sys.argv[-1]).read_text()
number = len(list(here.glob("job-*"))) + 1
(here / f"job-{{number}}").write_text(" ".join(sys.argv[1:-1]) + "\\n" + script)
environment = dict(os.environ, SLURM_NODELIST="node1")
for option in sys.argv[1:-1]:
    if option.startswith("--export=ALL,"):
        environment.update(pair.split("=", 1) for pair in option.removeprefix("--export=ALL,").split(","))
last = int(re.search(r"--array=0-(\\d+)", script)[1])
for rank in reversed(range(last + 1)):
    with (here / f"log-{{number}}-{{rank}}").open("w") as log:
        environment["SLURM_ARRAY_TASK_ID"] = str(rank)
        subprocess.run(["bash", sys.argv[-1]], env=environment, stdout=log, stderr=log)
print("Submitted batch job", number)
"""
SRUN = '#!/bin/sh\nwhile [ "$1" != launch_pickled_pipeline ]; do shift; done\nexec "$@"\n'
TOOL = '#!/bin/sh\nexec {python} -m datatrove.tools.{name} "$@"\n'


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with sbatch, srun, scontrol and squeue, first on the PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {
        "sbatch": SBATCH.format(python=sys.executable),
        "srun": SRUN,
        "scontrol": "#!/bin/sh\necho node1\n",
        "squeue": "#!/bin/sh\nexit 0\n",
        "launch_pickled_pipeline": TOOL.format(python=sys.executable, name="launch_pickled_pipeline"),
        "merge_stats": TOOL.format(python=sys.executable, name="merge_stats"),
    }
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


CLUSTER = SlurmOptions(partition="cpu", time="01:00:00", sbatch_args={"account": "llm"}, mem_per_cpu_gb=3)


@needs_datatrove
@pytest.mark.slow
def test_slurm_jobs_give_the_bytes_of_one_process(pages, tmp_path, slurm):
    def execute(job, stages):
        run_on_slurm(job, stages, workers=2, slurm=CLUSTER, poll_seconds=0.01)

    assert prepared(pages, tmp_path / "slurm-out", execute=execute) == prepared(pages, tmp_path / "alone")
    script = (slurm / "job-1").read_text(encoding="utf-8")
    for line in ("partition=cpu", "time=01:00:00", "account=llm", "mem-per-cpu=3G", "array=0-1"):
        assert f"#SBATCH --{line}" in script
    assert "qos" not in script


@needs_datatrove
@pytest.mark.slow
def test_several_stages_are_submitted_as_a_chain(planned, slurm):
    job, stages = Job(planned), stages_of(OPTIONS)
    run_on_slurm(job, stages, workers=2, slurm=CLUSTER, poll_seconds=0.01)
    assert all(one.done == one.tasks for one in standing(planned))
    heads = [path.read_text(encoding="utf-8").split("\n", 1) for path in sorted(slurm.glob("job-*"), key=_number)]
    arrays = [head for head, script in heads if "launch_pickled_pipeline" in script]
    assert len(arrays) == len(stages)
    assert "dependency" not in arrays[0]
    assert all("--dependency=afterok:" in head for head in arrays[1:])


def _number(path):
    return int(path.name.rpartition("-")[2])


@needs_datatrove
@pytest.mark.slow
def test_a_rank_that_fails_on_slurm_is_reported_with_its_reason(pages, planned, slurm):
    (pages / "3.jsonl").unlink()
    with pytest.raises(DataError) as refused:
        run_on_slurm(Job(planned), stages_of(OPTIONS)[:1], workers=2, slurm=CLUSTER, poll_seconds=0.01)
    assert "3.jsonl" in refused.value.where


@needs_datatrove
@pytest.mark.slow
def test_jobs_that_leave_the_queue_with_work_undone_are_an_error(planned, slurm):
    (slurm / "srun").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="were not done") as refused:
        run_on_slurm(Job(planned), stages_of(OPTIONS)[:1], workers=2, slurm=CLUSTER, poll_seconds=0.01)
    assert "cluster/read" in refused.value.where


@needs_datatrove
def test_sbatch_that_refuses_or_is_missing_is_an_error(planned, slurm, monkeypatch):
    stages = stages_of(OPTIONS)[:1]
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="could not be submitted"):
        run_on_slurm(Job(planned), stages, workers=2, slurm=CLUSTER, poll_seconds=0.01)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="no sbatch"):
        run_on_slurm(Job(planned), stages, workers=2, slurm=CLUSTER)
