"""The run file of the course project resolves to the values of its document."""

from __future__ import annotations

import json
from pathlib import Path

from vitruvius.cli.main import run
from vitruvius.training.request import read_request

RUN = Path(__file__).resolve().parents[2] / "runs" / "longcontext.yaml"


def test_the_trainer_is_that_of_the_document():
    request = read_request(str(RUN), data="data", out="out")
    config, architecture = request.config, request.reading.architecture
    assert architecture.name == "longcontext"
    assert (config.optimizer, config.lr, config.betas, config.weight_decay) == ("adamw", 1e-4, (0.9, 0.95), 0.1)
    assert (config.accumulate, config.clip, config.dtype) == (4, 1.0, "bf16")
    assert config.decay == "everything"
    assert (config.schedule, config.warmup) == ("constant", 0)
    assert config.context == architecture.context == 102_400
    assert config.batch // config.accumulate == 1


def test_flags_and_set_go_before_the_file():
    request = read_request(str(RUN), data="data", out="out", flags={"lr": 3e-4}, settings=["train.batch=8"])
    assert (request.config.lr, request.config.batch) == (3e-4, 8)
    assert request.config.weight_decay == 0.1


def test_its_twin_trains_with_the_same_trainer(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN.read_text().replace("spec: longcontext", "spec: tiny-longcontext"))
    small = ["--steps", "2", "--context", "64", "--set", "train.threads=1", "--set", "vocab_size=300"]
    assert run(["train", "run.yaml", "--data", str(data), "--out", "r", *small]) == 0
    recorded = json.loads((tmp_path / "r" / "run.json").read_text())["config"]["train"]
    assert (recorded["lr"], recorded["accumulate"], recorded["decay"]) == (1e-4, 4, "everything")
