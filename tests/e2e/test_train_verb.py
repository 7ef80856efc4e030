"""`vitruvius train` as a user meets it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from vitruvius.runs import RunReader

SPEC = """\
name: small
vocab_size: 320
width: 32
context: 32
head: {kind: lm, tied: true}
blocks:
  dense:
    mixer: {kind: attention, heads: 2, kv_heads: 1, sees: causal & sliding(8), position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 48}
  moe:
    extends: dense
    mixer: {sees: causal}
    ffn: {kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 24}}
layers: dense moe
"""
QUICK = (
    "--batch",
    "4",
    "--set",
    "train.threads=1",
    "--set",
    "train.eval_every=0",
    "--set",
    "train.final_eval_batches=2",
)
ENDLESS = 100_000


@pytest.fixture(scope="session")
def corpus(data_of_words):
    return data_of_words(20, 300)


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def manifest(run):
    return (RunReader(run).checkpoints()[-1].path / "manifest.json").read_text()


def begin(tmp_path, *args):
    """The command, started and left running."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitruvius", "train", *map(str, args)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process, text):
    """Read what it says up to the line that holds `text`."""
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    pytest.fail(f"it never said {text!r}: {said}")


def wait_for(run, process, *, step):
    """Wait until a checkpoint of `step` or later is there."""
    while process.poll() is None:
        if (run / "run.json").exists() and any(c.step >= step for c in RunReader(run).checkpoints()):
            return
        time.sleep(0.02)
    pytest.fail(f"it ended too early: {process.communicate()}")


@pytest.mark.slow
def test_train_leaves_a_run_folder_that_says_everything_and_names_the_next_step(vitruvius, spec, corpus, tmp_path):
    done = vitruvius(
        "train", str(spec), "--data", str(corpus), "--out", "runs/one", "--steps", "4", "--seed", "7", *QUICK
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "one"
    assert {p.name for p in run.iterdir()} >= {
        "run.json",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
        "tokenizer.json",
    }
    assert (run / "checkpoints" / "step-4" / "model.safetensors").is_file()
    rows = RunReader(run).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row.keys() >= {"loss", "grad_norm", "lr", "tokens", "tokens_per_second"} for row in rows)
    record = RunReader(run).record()
    assert record["spec"]["text"] == SPEC
    assert record["config"]["train"]["seed"] == 7
    assert record["command"][:2] == ["vitruvius", "train"]
    assert "finished at step 4 of 4" in done.stdout
    assert "bits/byte" in done.stdout
    assert "next: vitruvius generate runs/one --prompt" in done.stderr
    assert "step 4/4" in done.stderr
    assert "of the architecture's 320 tokens" in done.stderr


@pytest.mark.slow
def test_json_prints_one_summary_on_stdout(vitruvius, spec, corpus, tmp_path):
    done = vitruvius("train", str(spec), "--data", str(corpus), "--out", "one", "--steps", "2", *QUICK, "--json")
    summary = json.loads(done.stdout)
    assert summary["schema"] == "vitruvius.train/1"
    assert (summary["status"], summary["step"], summary["steps"], summary["exit_code"]) == ("finished", 2, 2, 0)
    assert summary["tokens"] == 2 * 4 * 32
    assert summary["val_bits_per_byte"] > 0


@pytest.mark.slow
def test_a_dry_run_prints_settings_and_bill_and_makes_nothing(vitruvius, spec, corpus, tmp_path):
    args = ("train", str(spec), "--data", str(corpus), "--steps", "50", "--dry-run")
    done, as_json = vitruvius(*args, "--out", "one"), vitruvius(*args, "--json")
    assert done.returncode == as_json.returncode == 0
    assert done.stderr.endswith("without --dry-run\n")
    assert as_json.stderr.endswith("without --dry-run, with --out runs/first\n")
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "runs").exists()
    plan = json.loads(as_json.stdout)
    assert plan["schema"] == "vitruvius.train-plan/1"
    assert plan["tokens"] == plan["tokens_per_step"] * 50 == 50 * 8 * 32
    assert (plan["train"]["steps"], plan["train"]["context"]) == (50, 32)
    assert f"{plan['parameters']['total']:,} total" in done.stdout
    assert "steps: 50" in done.stdout


@pytest.mark.slow
def test_a_run_file_with_settings_over_it_trains(vitruvius, spec, corpus, tmp_path):
    text = f"spec: {spec.name}\ndata: {corpus}\nout: one\ntrain: {{steps: 9, batch: 2, threads: 1}}\n"
    (tmp_path / "run.yaml").write_text(text)
    done = vitruvius("train", "run.yaml", "--steps", "2", "--set", "train.lr=1e-3", "--set", "width=16", "--json")
    assert done.returncode == 0, done.stderr
    record = RunReader(tmp_path / "one").record()
    assert (record["config"]["train"]["steps"], record["config"]["train"]["lr"]) == (2, 1e-3)
    assert record["spec"]["data"]["width"] == 16


@pytest.mark.slow
def test_a_run_killed_without_warning_resumes_to_the_same_bits(vitruvius, spec, corpus, tmp_path):
    settings = ("--steps", "60", "--checkpoint-every", "5", *QUICK)
    straight = vitruvius("train", str(spec), "--data", str(corpus), "--out", "straight", *settings)
    assert straight.returncode == 0, straight.stderr
    process = begin(tmp_path, spec, "--data", corpus, "--out", "killed", *settings)
    wait_for(tmp_path / "killed", process, step=5)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert RunReader(tmp_path / "killed").checkpoints()[-1].step < 60, "it was killed before its end"
    resumed = vitruvius("train", "--resume", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert manifest(tmp_path / "killed") == manifest(tmp_path / "straight")
    losses = [
        [(row["step"], row["loss"]) for row in RunReader(tmp_path / run).metrics()] for run in ("killed", "straight")
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_a_signal_saves_a_checkpoint_and_leaves_with_the_documented_code(number, code, spec, corpus, tmp_path):
    process = begin(
        tmp_path, spec, "--data", corpus, "--out", "run", "--steps", ENDLESS, "--checkpoint-every", "3", *QUICK
    )
    wait_for(tmp_path / "run", process, step=3)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "next: vitruvius train --resume run" in err
    record = RunReader(tmp_path / "run").record()
    last = RunReader(tmp_path / "run").checkpoints()[-1]
    assert (record["status"], record["result"]["exit_code"]) == ("stopped", code)
    assert last.step == record["result"]["step"] == RunReader(tmp_path / "run").metrics()[-1]["step"]
    last.verify()
    assert f"stopped at step {last.step:,} of {ENDLESS:,}" in err
    assert "run: stopped" in out


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once_and_quietly(spec, corpus, tmp_path):
    slow = ("--set", "context=4096", "--set", "train.context=4096", "--batch", "512", "--set", "train.threads=1")
    process = begin(tmp_path, spec, "--data", corpus, "--out", "run", "--steps", ENDLESS, *slow)
    read_until(process, "training: step 0")
    time.sleep(0.5)  # into the first step, which takes minutes
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C again leaves at once")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == ""
    assert RunReader(tmp_path / "run").checkpoints() == []


@pytest.mark.slow
def test_a_run_stopped_before_its_first_step_leaves_a_checkpoint_too(vitruvius, spec, corpus, tmp_path):
    slow = ("--set", "context=4096", "--set", "train.context=4096", "--batch", "512", "--set", "train.accumulate=512")
    process = begin(tmp_path, spec, "--data", corpus, "--out", "run", "--steps", ENDLESS, *slow)
    read_until(process, "training: step 0")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert "stopped at step 0" in err
    (checkpoint,) = RunReader(tmp_path / "run").checkpoints()
    assert checkpoint.step == 0
    checkpoint.verify()


@pytest.mark.slow
def test_a_run_in_use_is_refused_until_it_is_free(vitruvius, spec, corpus, tmp_path):
    process = begin(
        tmp_path, spec, "--data", corpus, "--out", "run", "--steps", ENDLESS, "--checkpoint-every", "3", *QUICK
    )
    wait_for(tmp_path / "run", process, step=3)
    refused = vitruvius("train", "--resume", "run")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert refused.returncode == 2
    assert "another run is writing to this folder" in refused.stderr
    assert process.returncode == 75


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_refused_with_the_way_on(vitruvius, spec, corpus):
    args = ("train", str(spec), "--data", str(corpus), "--out", "one", "--steps", "1", *QUICK)
    assert vitruvius(*args).returncode == 0
    again = vitruvius(*args)
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert "vitruvius train --resume one" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "name a SPEC to train"),
        (("tiny-llama",), "--data is missing"),
        (("tiny-llama", "--data", "d"), "--out is missing"),
        (("tiny-llama", "--data", "nowhere", "--out", "o"), "not prepared data"),
        (("tiny-llama", "--data", "d", "--out", "o", "--steps", "0"), "--steps  train.steps"),
        (("tiny-llama", "--data", "d", "--out", "o", "--set", "train.stepz=1"), "did you mean 'steps'?"),
        (("tiny-llama", "--data", "d", "--out", "o", "--context", "1m"), "--context  train.context"),
        (("tiny-lama", "--data", "d", "--out", "o"), "did you mean tiny-llama"),
        (("--resume", "nowhere"), "not a run folder"),
        (("--resume", "nowhere", "--steps", "9"), "--steps cannot be given"),
        (("tiny-llama", "--resume", "nowhere"), "SPEC cannot be given"),
    ],
)
def test_a_mistake_is_answered_with_2_and_the_way_out(args, message, vitruvius, tmp_path):
    done = vitruvius("train", *args)
    assert done.returncode == 2
    assert message in done.stderr
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_help_shows_examples(vitruvius):
    done = vitruvius("train", "--help")
    assert done.stdout.count("  vitruvius train ") >= 3


ON_A_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("vitruvius", run_name="__main__")
"""


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_a_checkpoint(spec, corpus, tmp_path):
    ours, theirs = os.openpty()
    argv = ["train", spec, "--data", corpus, "--out", "run", "--steps", ENDLESS, "--checkpoint-every", "3", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *map(str, argv)],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    closing = threading.Event()

    def read_until_closed():
        while not closing.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                os.read(ours, 65_536)
        os.close(ours)

    reader = threading.Thread(target=read_until_closed, daemon=True)
    reader.start()
    wait_for(tmp_path / "run", process, step=3)
    closing.set()
    reader.join()
    assert process.wait() == 75
    run = RunReader(tmp_path / "run")
    assert run.record()["status"] == "stopped"
    assert run.checkpoints()[-1].step == run.metrics()[-1]["step"]
