"""`vitruvius sweep` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vitruvius.runs import RunReader

SPEC = """\
name: small
vocab_size: 320
width: 32
context: 32
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, kv_heads: 1, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 48}
layers: a
"""
RUN = """\
spec: small.yaml
data: data
train: {steps: 6, batch: 4, threads: 1, checkpoint_every: 2, eval_every: 3, eval_batches: 1, final_eval_batches: 2}
sweep:
  train.lr: [1e-3, 3e-3]
  seeds: 2
"""


@pytest.fixture(scope="session")
def swept_data(data_of_words):
    return data_of_words(12, 300)


@pytest.fixture
def files(here, swept_data):
    (here / "small.yaml").write_text(SPEC)
    (here / "run.yaml").write_text(RUN)
    (here / "data").symlink_to(swept_data)
    return here


def manifest(run):
    return (RunReader(run).checkpoints()[-1].path / "manifest.json").read_text()


def began(*argv):
    """The command, started and left running."""
    words = [sys.executable, "-m", "vitruvius", *map(str, argv)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(what, limit=60.0):
    """Wait for something to be so."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < limit, "it did not come to it"
        time.sleep(0.02)


def rows(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_a_sweep_trains_its_arms_and_says_what_they_came_to(files, said):
    code, out, err = said("sweep", "run.yaml", "--out", "s", "--json")
    assert code == 0
    document = json.loads(out)
    assert document == json.loads((files / "s" / "sweep.json").read_text())
    assert document["schema"] == "vitruvius.sweep/1" and document["runs"]["finished"] == 4
    assert [arm["name"] for arm in document["arms"]] == ["lr=0.001", "lr=0.003"]
    for arm in document["arms"]:
        found = [RunReader(files / "s" / run["folder"]).record() for run in arm["runs"]]
        assert [record["config"]["train"]["seed"] for record in found] == [0, 1]
        assert {record["config"]["train"]["lr"] for record in found} == {arm["values"]["train.lr"]}
        losses = [record["result"]["val_loss"] for record in found]
        assert arm["val_loss"]["mean"] == pytest.approx(sum(losses) / 2)
        assert arm["val_loss"]["ci_low"] < arm["val_loss"]["mean"] < arm["val_loss"]["ci_high"]
        assert arm["origins"]["train.lr"].startswith("run.yaml:5:")
    (pair,) = document["verdict"]["pairs"]
    assert pair["seeds"] == 2
    page = (files / "s" / "sweep.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<svg") >= 4 and "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "next: vitruvius runs show s/lr=" in err

    # Once more: nothing is trained again, and seeds may be added.
    before = manifest(files / "s" / "lr=0.001" / "seed-0")
    code, out, err = said("sweep", "run.yaml", "--out", "s")
    assert code == 0 and err.count("finished before") == 4
    assert "lr=0.003" in out and "val loss" in out
    assert manifest(files / "s" / "lr=0.001" / "seed-0") == before
    code, _, err = said("sweep", "run.yaml", "--out", "s", "--set", "train.lr=[1e-3,2e-3]")
    assert code == 2 and "another sweep" in err
    code, _, err = said("sweep", "run.yaml", "--out", "s", "--steps", 8)
    assert code == 2 and "with other settings" in err

    # An arm is a run like any other.
    assert said("train", "run.yaml", "--out", "alone", "--seed", 1, "--lr", "3e-3")[0] == 0
    assert manifest(files / "alone") == manifest(files / "s" / "lr=0.003" / "seed-1")
    assert said("runs", "list", "s")[1].count("finished") == 4


@pytest.mark.slow
def test_a_failed_arm_is_recorded_and_the_rest_goes_on(files, said):
    settings = ["--set", "train.lr=[1e-3,1e9]", "--set", "train.clip=null", "--set", "train.dtype=fp32", "--seeds", 1]
    code, out, err = said("sweep", "run.yaml", "--out", "s", *settings)
    assert code == 1
    document = json.loads((files / "s" / "sweep.json").read_text())
    states = {arm["name"]: arm["runs"][0]["status"] for arm in document["arms"]}
    assert states == {"lr=0.001": "finished", "lr=1000000000.0": "failed"}
    assert "failed: lr=1000000000.0, seed 0: " in out and "without a finished run" in out
    assert "tries them again" in err


@pytest.mark.slow
def test_sigterm_saves_every_arm_and_the_same_command_goes_on_to_the_same_bits(files, said):
    more = ["--set", "train.steps=60", "--set", "train.checkpoint_every=20", "--set", "train.lr=[1e-3,3e-3]"]
    arguments = ["sweep", "run.yaml", "--out", "s", *more, "--seeds", 1, "--jobs", 2]
    process = began(*arguments)
    runs = [files / "s" / "lr=0.001", files / "s" / "lr=0.003"]
    until(lambda: all(rows(run) >= 3 for run in runs))
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err and "the same command goes on" in err
    document = json.loads((files / "s" / "sweep.json").read_text())
    assert document["runs"]["stopped"] >= 1 and document["runs"]["running"] == 0
    assert all(RunReader(run).checkpoints() for run in runs)
    code, _, err = said(*arguments)
    assert code == 0 and "going on after step" in err
    assert json.loads((files / "s" / "sweep.json").read_text())["runs"]["finished"] == 2
    assert said("train", "run.yaml", "--out", "alone", *more[:4], "--lr", "3e-3")[0] == 0
    assert manifest(files / "alone") == manifest(runs[1])


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_process_and_loses_nothing(files, said):
    more = ["--set", "train.steps=100000", "--set", "train.lr=[1e-3]", "--seeds", 1]
    process = began("sweep", "run.yaml", "--out", "s", *more)
    run = files / "s" / "lr=0.001"
    until(lambda: rows(run) >= 3)
    pid = json.loads((run / ".lock").read_text())["pid"]
    process.kill()
    process.communicate(timeout=30)
    until(lambda: RunReader(run).record()["status"] == "stopped")
    status = Path(f"/proc/{pid}/status")
    until(lambda: not status.exists() or "\nState:\tZ" in status.read_text())
    assert RunReader(run).checkpoints()


def test_every_arm_is_checked_before_anything_is_made(files, said):
    (files / "run.yaml").write_text(
        RUN.replace("train.lr: [1e-3, 3e-3]", "train.lr: [1e-3, -1]\n  width: [32,\n          33]")
    )
    code, out, err = said("sweep", "run.yaml", "--out", "s")
    assert (code, out) == (2, "")
    assert "run.yaml:5:20  train.lr\n  -1 is out of range" in err
    assert "small.yaml:8:37  blocks.a.mixer.heads\n  2 does not divide width=33 (in lr=0.001,width=33" in err
    code, _, err = said("sweep", "run.yaml", "--out", "s", "--set", "train.lr=[1e-3,-2]", "--set", "width=32")
    assert code == 2 and "--set 'train.lr=[1e-3,-2]':1:16  train.lr" in err
    code, _, err = said(
        "sweep", "run.yaml", "--out", "s", "--set", "train.lr=1", "--set", "width=[32]", "--set", "vocab_size=[320,100]"
    )
    assert code == 2 and "arm width=32,vocab_size=100: data" in err.replace(str(files) + "/", "")
    assert not (files / "s").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["small.yaml", "--data", "data", "--out", "s"], "one arm with one seed is no sweep"),
        (["run.yaml"], "--out is missing"),
        (["run.yaml", "--out", "s", "--jobs", "0"], "0 jobs are out of range"),
        (["run.yaml", "--out", "s", "--measure"], "--measure and --on are for --dry-run"),
        (["run.yaml", "--out", "s", "--set", "train.seed=[1,2]"], "seeds are no arms"),
        (["run.yaml", "--out", "s", "--set", "train.engine={kind: ddp}"], "an arm is one process"),
        (["run.yaml", "--out", "run.yaml"], "this is a file, not a folder"),
        (["run.yaml", "--out", "full"], "this folder holds other files ('mine.txt')"),
        (["run.yaml", "--out", "odd"], "the record is not JSON"),
        (["run.yaml", "--out", "other"], "the schema is 'x/1'"),
    ],
)
def test_bad_input_is_answered_and_nothing_is_touched(files, said, argv, says):
    (files / "full").mkdir()
    (files / "full" / "mine.txt").write_text("mine")
    for name, text in (("odd", '{"schema": '), ("other", '{"schema": "x/1"}')):
        (files / name).mkdir()
        (files / name / "sweep.json").write_text(text)
    code, out, err = said("sweep", *argv)
    assert (code, out) == (2, "") and says in err and "fix:" in err
    assert not (files / "s").exists() and (files / "full" / "mine.txt").read_text() == "mine"
    assert (files / "odd" / "sweep.json").read_text() == '{"schema": '


def test_a_dry_run_bills_every_arm_without_torch(files):
    code = (
        "import sys; from vitruvius.cli.main import run;"
        "code = run(['sweep', 'run.yaml', '--out', 's', '--dry-run', '--on', 'rtx-4090', '--json']);"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = json.loads(done.stdout)
    assert bill["schema"] == "vitruvius.sweep-plan/1" and not (files / "s").exists()
    total = bill["total"]
    assert total["runs"] == 4 and total["tokens"] == sum(arm["tokens"] for arm in bill["arms"]) * 2
    assert total["peak_bytes"] == max(arm["peak_bytes"] for arm in bill["arms"])
    assert total["flops"] == pytest.approx(sum(arm["flops"] for arm in bill["arms"]) * 2)
    assert total["run_seconds"] == pytest.approx(2 * sum(arm["time"]["seconds"] for arm in bill["arms"]))
    assert all(arm["origins"]["train.lr"].startswith("run.yaml:5:") for arm in bill["arms"])


def test_a_dry_run_can_measure(files, said):
    code, out, _ = said("sweep", "run.yaml", "--out", "s", "--dry-run", "--measure")
    assert code == 0 and not (files / "s").exists()
    assert "total    4 runs (seeds 0, 1; 1 at a time)" in out and "of runs" in out


def test_train_leaves_the_sweep_section_alone_and_says_so(files, said):
    code, _, err = said("train", "run.yaml", "--out", "r", "--dry-run")
    assert code == 0 and "sweep section is for `vitruvius sweep`" in err
