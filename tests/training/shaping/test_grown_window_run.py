"""The run file that grows a window: what it resolves to, and a short run of it by the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vitruvius.cli.main import run
from vitruvius.nn.weights import load_model
from vitruvius.runs import RunReader
from vitruvius.training.request import read_request
from vitruvius.training.shaping.costs import flops_of_run

RUNS = Path(__file__).resolve().parents[3] / "runs"
WINDOW = "blocks.local.mixer.sees.sliding.window"


def test_the_window_grows_to_what_the_spec_says():
    request = read_request(str(RUNS / "grown-window.yaml"), data="data", out="out")
    (schedule,) = request.config.shape
    assert schedule.steps == {"0": 32, "50": 64, "100": 128, "150": 256}
    assert request.reading.architecture.blocks["local"].mixer.sees == "causal & sliding(256)"
    fixed = read_request(str(RUNS / "grown-window.yaml"), data="data", out="out", settings=["train.shape=[]"])
    assert fixed.config.shape == ()
    grown, wide = (flops_of_run(r.reading.architecture, r.config) for r in (request, fixed))
    assert grown == pytest.approx(0.93 * wide, rel=0.05)
    assert grown < wide


def test_it_trains_by_the_command_and_its_model_has_the_last_window(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("grown-window.yaml", "tiny-local.yaml"):
        shutil.copy(RUNS / name, tmp_path / name)
    small = ["--steps", "4", "--batch", "2", "--context", "64", "--set", "train.threads=1"]
    arguments = ["train", "grown-window.yaml", "--data", str(data), "--out", "r", *small]
    assert run([*arguments, "--dry-run"]) == 0
    assert f"{WINDOW}: 32 from 0, 64 from 1, 128 from 2, 256 from 3" in capsys.readouterr().out
    assert run(arguments) == 0
    told = [row[f"shape/{WINDOW}"] for row in RunReader("r").metrics()]
    assert told == [32, 64, 128, 256]
    assert load_model("r").architecture.blocks["local"].mixer.sees == "causal & sliding(256)"
    assert run(["generate", "r", "--prompt", "The", "--max-tokens", "4", "--seed", "1"]) == 0


def test_a_mistake_in_set_is_shown_with_its_way_out(data, tmp_path, capsys):
    shape = "train.shape=[{field: blocks.local.mixer.sees.slidin, steps: {0: 4}}]"
    code = run(
        ["train", str(RUNS / "grown-window.yaml"), "--data", str(data), "--out", str(tmp_path / "r"), "--set", shape]
    )
    told = capsys.readouterr().err
    assert code == 2
    assert "did you mean 'sliding'?" in told
    assert "train.shape.0.field" in told
    assert "Traceback" not in told
