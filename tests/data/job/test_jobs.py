"""A job: the same bytes for any number of workers and any cut of the inputs, and after a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitruvius.data import PrepareOptions, prepare
from vitruvius.data.cleaning.recipe import Recipe, read_recipe
from vitruvius.data.dedup.settings import DedupSettings, NearSettings
from vitruvius.data.job.running import run_stage
from vitruvius.data.prepare import work_folder
from vitruvius.data.sources import read_sources
from vitruvius.errors import DataError, RunLockedError, SpecError, UsageError
from vitruvius.runs.lock import FolderLock

WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")
PLAIN = read_recipe("plain")
DEDUP = Recipe(name="twins", steps=PLAIN.steps, deduplicate=DedupSettings(exact="text", near=NearSettings()))
OPTIONS = PrepareOptions(vocab=300, max_bad_rate=1, recipe=DEDUP, held_out=0.1)
STAGES = ("read", "split", "tokenizer", "encode", "assemble")
SMALL_UNITS = 3000


def document(number: int) -> str:
    drawn = random.Random(number)
    return f"document {number}: " + " ".join(drawn.choices(WORDS, k=80)) + "\n"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Lines, texts and a page, with damage, copies and near copies among them."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": document(number)}) for number in range(60)]
    lines[7:7] = ["not json", "", json.dumps({"text": document(3)})]
    lines.append(json.dumps({"text": document(5).replace("document 5", "document five")}))
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    for number in range(60, 70):
        (folder / f"{number}.txt").write_text(document(number))
    (folder / "page.html").write_text(f"<title>no</title><p>{document(70)}<p>{document(71)}")
    (folder / "copy.txt").write_text(document(65))
    return folder


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes in one go."""
    return tree(prepare([corpus], tmp_path_factory.mktemp("straight") / "out", OPTIONS).directory)


def test_duplicates_are_in_the_counts_and_in_the_quarantine_with_their_keeper(straight):
    counts = json.loads(straight["counts.json"])
    assert counts["dropped"] == {"blank_line": 1, "exact_duplicate": 2, "invalid_json": 1, "near_duplicate": 1}
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())
    rows = [json.loads(line) for line in straight["quarantine.jsonl"].splitlines()]
    twins = [row for row in rows if row["reason"].endswith("duplicate")]
    assert all(0.8 <= row["jaccard"] <= 1 and row["keeper"] != row["id"] for row in twins)
    dropped = {row["id"] for row in rows}
    assert not dropped & {row["keeper"] for row in twins}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "unit_bytes"), [(1, SMALL_UNITS), (2, SMALL_UNITS), (2, 10**9)], ids=str)
def test_neither_workers_nor_the_cut_into_units_changes_a_byte(corpus, straight, tmp_path, workers, unit_bytes):
    prepare([corpus], tmp_path / "out", OPTIONS, workers=workers, unit_bytes=unit_bytes)
    assert tree(tmp_path / "out") == straight
    assert not work_folder(tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_jobs import OPTIONS, SMALL_UNITS
from vitruvius.data import prepare
from vitruvius.runs import files
left = {operations}
def counted(kind):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return kind(*args, **kwargs)
    return wrapped
Path.replace = counted(Path.replace)
Path.rename = counted(Path.rename)
prepare([{corpus!r}], {out!r}, OPTIONS, unit_bytes=SMALL_UNITS)
"""


@pytest.mark.slow
def test_a_kill_before_any_rename_is_made_good_by_the_same_command(corpus, straight, tmp_path):
    out = tmp_path / "out"
    kills, operations = 0, 1
    while True:
        code = KILLED.format(here=str(Path(__file__).parent), operations=operations, corpus=str(corpus), out=str(out))
        ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=300)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        assert not (out / "index.json").exists() or tree(out) == straight
        kills += 1
        operations += 3
    assert kills >= 8
    assert tree(out) == straight


def test_what_is_done_is_not_done_again(corpus, straight, tmp_path):
    class StopError(Exception):
        """Raised by the listener."""

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "encoding" and done:
            raise StopError

    with pytest.raises(StopError):
        prepare([corpus], tmp_path / "out", OPTIONS, unit_bytes=SMALL_UNITS, progress=stop)
    reads = sorted((work_folder(tmp_path / "out") / "read").glob("*.texts"))
    before = [path.stat().st_mtime_ns for path in reads]
    with pytest.raises(StopError):
        prepare([corpus], tmp_path / "out", OPTIONS, unit_bytes=SMALL_UNITS, progress=stop)
    assert [path.stat().st_mtime_ns for path in reads] == before
    done = prepare([corpus], tmp_path / "out", OPTIONS, unit_bytes=SMALL_UNITS)
    assert done.resumed > len(reads)
    assert tree(tmp_path / "out") == straight


def test_other_options_or_other_inputs_begin_anew(corpus, straight, tmp_path):
    def stop(stage: str, done: int, total: int | None) -> None:
        if stage == "encoding" and done:
            raise KeyboardInterrupt

    for other in (PrepareOptions(vocab=280, max_bad_rate=1), OPTIONS):
        with pytest.raises(KeyboardInterrupt):
            prepare([corpus], tmp_path / "out", other, progress=stop)
    (tmp_path / "more.txt").write_text(document(99))
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus, tmp_path / "more.txt"], tmp_path / "out", OPTIONS, progress=stop)
    assert prepare([corpus], tmp_path / "out", OPTIONS).resumed == 0
    assert tree(tmp_path / "out") == straight


def test_a_larger_rate_of_bad_data_goes_on_from_the_refused_run(corpus, tmp_path):
    strict = PrepareOptions(vocab=300, max_bad_rate=0, recipe=DEDUP, held_out=0.1)
    with pytest.raises(DataError, match="are bad"):
        prepare([corpus], tmp_path / "out", strict)
    assert prepare([corpus], tmp_path / "out", OPTIONS).resumed == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_the_next_run_goes_on(corpus, straight, tmp_path):
    killed = []

    def kill(stage: str, done: int, total: int | None) -> None:
        if stage == "encoding" and done == 1 and not killed:
            children = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            for child in children:
                if "vitruvius.data.job.worker" in child:
                    killed.append(int(child.split()[0]))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(killed[-1], signal.SIGKILL)

    with pytest.raises(DataError, match=r"a worker was killed \(SIGKILL\) while it was encoding"):
        prepare([corpus], tmp_path / "out", OPTIONS, workers=2, unit_bytes=200, progress=kill)
    assert killed
    prepare([corpus], tmp_path / "out", OPTIONS, workers=2, unit_bytes=200)
    assert tree(tmp_path / "out") == straight


def test_an_error_in_a_worker_is_raised_as_it_was_there(corpus, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / f"{name}.txt").write_text(document(1) * 10)

    def change(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("reading") and done == 0:
            (tmp_path / "in" / "b.txt").write_text("changed")

    with pytest.raises(DataError, match="since the work was planned") as caught:
        prepare([tmp_path / "in"], tmp_path / "out", OPTIONS, workers=2, unit_bytes=100, progress=change)
    assert caught.value.where.endswith("b.txt")


def test_two_processes_do_not_work_on_one_job(corpus, tmp_path):
    work_folder(tmp_path / "out").mkdir()
    lock = FolderLock(work_folder(tmp_path / "out"))
    with pytest.raises(RunLockedError):
        prepare([corpus], tmp_path / "out", OPTIONS)
    lock.release()
    prepare([corpus], tmp_path / "out", OPTIONS)


@pytest.mark.slow
def test_sigterm_leaves_with_75_and_the_same_command_goes_on(corpus, straight, tmp_path):
    recipe = tmp_path / "twins.yaml"
    recipe.write_text("steps: [html]\nduplicates: {exact: text, near: {threshold: 0.8}}\n")
    command = [sys.executable, "-m", "vitruvius", "data", "prepare", str(corpus), "--out", str(tmp_path / "out")]
    command += ["--vocab", "300", "--max-bad-rate", "1", "--held-out", "0.1", "--recipe", str(recipe), "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("splitting"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
        code = process.wait(timeout=120)
    # It may have been done already: then there is nothing to go on with.
    assert code in {75, 0}, rest
    assert code == 0 or "the same command goes on" in rest
    subprocess.run(command, check=True, capture_output=True)
    again = tree(tmp_path / "out")
    assert again["train/shard-00000.bin"] == straight["train/shard-00000.bin"]


def test_every_stage_is_a_pure_function_of_the_plan(corpus, straight, tmp_path):
    # Each task twice, in reverse order: what it leaves is the same.
    def twice(job, stages):
        for stage in stages:
            for task in reversed(range(stage.tasks(job))):
                first = stage.run(job, task)
                assert stage.run(job, task) == first
                job.record(stage.name, task, first)

    prepare([corpus], tmp_path / "out", OPTIONS, unit_bytes=SMALL_UNITS, execute=twice)
    assert tree(tmp_path / "out") == straight


@pytest.mark.slow
def test_sources_have_their_own_recipes_and_shards(corpus, tmp_path):
    (tmp_path / "sources.yaml").write_text(
        f"lines: {{inputs: ['{corpus}/*.jsonl'], weight: 3}}\ntexts: {{inputs: ['{corpus}'], kind: text, weight: 1}}\n"
    )
    options = PrepareOptions(vocab=300, max_bad_rate=1, sources=read_sources(tmp_path / "sources.yaml"))
    done = prepare([], tmp_path / "out", options, unit_bytes=SMALL_UNITS)
    train = done.index["splits"]["train"]
    assert {name: part["weight"] for name, part in train["sources"].items()} == {"lines": 3, "texts": 1}
    assert done.counts["sources"]["texts"]["documents_in"] == 11
    parts = done.counts["sources"].values()
    assert done.counts["documents_in"] == sum(part["documents_in"] for part in parts)
    assert {shard["source"] for shard in train["shards"]} == {"lines", "texts"}
    again = prepare([], tmp_path / "again", options, workers=2)
    assert tree(again.directory) == tree(done.directory)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "a mapping of fields"),
        ("web: 3", "a mapping"),
        ("web: {inputs: []}", "no inputs"),
        ("web: {inputs: [x], weigth: 2}", "did you mean 'weight'"),
        ("web: {inputs: [x], weight: -1}", "weight"),
        ("web: {inputs: [x], recipe: wbe}", "wbe"),
        ("'../x': {inputs: [x]}", "cannot name a source"),
    ],
)
def test_a_wrong_sources_file_is_refused_at_its_line(tmp_path, text, said):
    (tmp_path / "sources.yaml").write_text(text)
    with pytest.raises((SpecError, UsageError)) as caught:
        read_sources(tmp_path / "sources.yaml")
    assert said in str(caught.value)
    assert "sources.yaml:1" in str(caught.value)


def test_inputs_beside_sources_are_refused(corpus, tmp_path):
    (tmp_path / "sources.yaml").write_text(f"web: {{inputs: ['{corpus}']}}\n")
    options = PrepareOptions(vocab=300, sources=read_sources(tmp_path / "sources.yaml"))
    with pytest.raises(UsageError, match="sources name their own inputs"):
        prepare([corpus], tmp_path / "out", options)


@pytest.mark.slow
def test_run_stage_in_this_process_and_in_two_tell_the_same_progress(corpus, tmp_path):
    told: dict[int, list[tuple[str, int]]] = {}
    for workers in (1, 2):
        seen: list[tuple[str, int]] = []

        def execute(job, stages, seen=seen, workers=workers):
            for stage in stages:
                run_stage(job, stage, workers=workers, progress=lambda name, done, total: seen.append((name, done)))

        prepare([corpus], tmp_path / str(workers), OPTIONS, unit_bytes=SMALL_UNITS, execute=execute)
        told[workers] = seen
    assert told[1] == told[2]
