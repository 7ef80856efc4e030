"""`vitruvius train --dry-run` and `--plan`: what a run will cost and take, before anything is spent."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

SMALL = ["--set", "vocab_size=300", "--set", "train.threads=1", "--batch", 2, "--context", 32, "--steps", 4]


@pytest.fixture
def asked(prepared, said, here):
    def call(*argv):
        return said("train", "tiny-llama", "--data", prepared / "data", "--out", "r", *SMALL, *argv)

    return call


def test_a_dry_run_bounds_the_time_on_hardware_without_torch(prepared, here):
    words = [
        "train",
        "tiny-llama",
        "--data",
        str(prepared / "data"),
        "--out",
        "r",
        *map(str, SMALL),
        "--dry-run",
        "--on",
        "rtx-4090",
    ]
    code = f"import sys; from vitruvius.cli.main import run; sys.exit(run({words!r}) or 10 * ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "time         at least" in done.stdout and "on rtx-4090" in done.stdout
    assert "checkpoints of" in done.stdout and not (here / "r").exists()


def test_the_time_is_null_until_somebody_asks(asked):
    _, out, _ = asked("--dry-run", "--json")
    assert json.loads(out)["time"] is None
    assert "--measure does a few updates" in asked("--dry-run")[1]


def test_a_measured_time_says_how_far_off_it_can_be(asked, here):
    code, out, err = asked("--dry-run", "--measure", "--json")
    found = json.loads(out)["time"]
    assert code == 0 and found["source"] == "measured" and found["on"] == "this machine"
    assert 0 < found["seconds_low"] <= found["seconds"] <= found["seconds_high"]
    assert found["counts"] == {
        "updates": 4,
        "validations": 1,
        "windows": found["counts"]["windows"],
        "checkpoints": 1,
        "samples": 0,
    }
    assert "another load on the machine is not in it" in found["notes"][0]
    assert "thrown away" in err and list(here.iterdir()) == []


def test_a_plan_is_a_run_file_and_a_command(said, here, prepared):
    code, out, err = said("train", "llama-3-8b", "--plan", "--on", "h100-80gb", "--gpus", 8, "--batch", 16, "--json")
    found = json.loads(out)
    assert code == 0 and found["schema"] == "vitruvius.train-placing/1" and found["fits"]
    assert "-m vitruvius train run.yaml --batch 16" in found["command"] and found["command"] in err
    (here / "run.yaml").write_text(found["yaml"])
    words = shlex.split(found["command"].partition("-m vitruvius ")[2])
    # What was printed is a run file that the command takes.
    code, out, _ = said("config", "show", "run.yaml", "--batch", 16, "--json")
    rows = {row["path"]: row["value"] for row in json.loads(out)["settings"]}
    assert code == 0 and rows["train.engine.kind"] == found["train"]["engine"]["kind"]
    assert words[:2] == ["train", "run.yaml"]
    shown = said("train", "run.yaml", "--plan", "--on", "h100-80gb", "--gpus", 8)[1]
    assert "# for the run file\ntrain:\n" in shown and "not chosen, though it fits:" in shown


def test_a_kind_that_is_named_is_planned_alone_and_what_was_said_does_not_take_it_back(said, here):
    asked = ("train", "llama-3-8b", "--plan", "--on", "h100-80gb", "--gpus", 8, "--batch", 16)
    setting = "train.engine={kind: fsdp2, timeout: 99}"
    _, out, err = said(*asked, "--set", setting, "--set", "train.accumulate=16", "--set", "vocab_size=128000", "--json")
    found = json.loads(out)
    assert found["kind"] == "fsdp2" and {each["name"].split()[0] for each in found["others"]} <= {"FSDP", "tensor"}
    assert found["train"]["engine"]["timeout"] == 99
    assert "train.engine" not in found["command"] and "train.accumulate" not in found["command"]
    assert "vocab_size=128000" in found["command"] and found["command"] in err
    code, out, _ = said(*asked, "--set", "train.engine.kind=ddp")
    assert code == 1 and "kind: ddp as named" in out and "DDP 8  needs" in out
    (here / "run.yaml").write_text("spec: llama-3-8b\ntrain: {batch: 16, engine: {kind: ddp}}\n")
    assert said("train", "run.yaml", "--plan", "--on", "h100-80gb", "--gpus", 8)[0] == 1


def test_what_does_not_fit_leaves_with_one(said, here):
    code, out, err = said("train", "llama-3-8b", "--plan", "--on", "rtx-4090")
    assert code == 1 and "nothing fits that can be run here" in out and "next: vitruvius plan llama-3-8b" in err
    assert json.loads(said("train", "llama-3-8b", "--plan", "--on", "rtx-4090", "--json")[1])["yaml"] is None


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--plan", "--dry-run", "--on", "rtx-4090"], "--plan"),
        (["--gpus", "4"], "--gpus"),
        (["--on", "rtx-4090"], "--on"),
        (["--measure"], "--measure"),
        (["--dry-run", "--measure", "--on", "rtx-4090"], "--measure"),
        (["--dry-run", "--on", "rtx-409"], "did you mean rtx-4090"),
        (["--plan", "--on", "rtx-4090", "--gpus", "0"], "0 devices are out of range"),
        (["--plan", "--on", "rtx-4090", "--gpus", "x"], "x"),
        (["--dry-run", "--measure", "--set", "train.engine={kind: ddp}"], "one process is measured"),
    ],
)
def test_options_that_say_nothing_together_are_refused(asked, here, argv, says):
    code, out, err = asked(*argv)
    assert (code, out) == (2, "") and says in err and "fix:" in err
    assert list(here.iterdir()) == []


def test_a_name_with_hostile_characters_cannot_leave_the_line(said, here):
    (here / "a b\x1b[2J.yaml").write_text("spec: tiny-llama\ntrain: {steps: 3}\n")
    code, out, err = said("train", "a b\x1b[2J.yaml", "--plan", "--on", "rtx-4090")
    assert code == 0 and "\x1b" not in out + err


def test_a_resumed_run_takes_none_of_these(said, here):
    code, _, err = said("train", "--resume", "r", "--plan")
    assert code == 2 and "fix:" in err
