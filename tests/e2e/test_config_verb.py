"""`vitruvius config show`: every value, and the place it comes from."""

from __future__ import annotations

import json

import pytest

RUN = """\
spec: small.yaml
train:
  steps: 200
  lr: 1e-3
"""
SPEC = """\
name: small
vocab_size: 300
width: 32
context: 64
blocks:
  a:
    mixer: {kind: attention, heads: 2, sees: causal, position: {kind: rope}}
    ffn: {kind: swiglu, hidden: 24}
  b: {extends: a, ffn: {hidden: 48}}
layers: a b
"""


@pytest.fixture
def files(here):
    (here / "run.yaml").write_text(RUN)
    (here / "small.yaml").write_text(SPEC)
    return here


@pytest.fixture
def shown(files, said):
    def call(*argv):
        code, out, _ = said("config", "show", *argv, "--json")
        assert code == 0
        return {row["path"]: row for row in json.loads(out)["settings"]}

    return call


def test_set_goes_before_flags_and_flags_before_the_file_and_each_says_so(shown):
    rows = shown("run.yaml", "--lr", "2e-3", "--steps", "50", "--set", "train.steps=70")
    assert (rows["train.lr"]["value"], rows["train.lr"]["where"]) == (0.002, "--lr")
    assert (rows["train.steps"]["value"], rows["train.steps"]["where"]) == (70, "--set train.steps=70")
    rows = shown("run.yaml")
    assert (rows["train.lr"]["value"], rows["train.lr"]["where"]) == (0.001, "run.yaml:4:7")
    assert rows["train.batch"]["origin"] == "default"


def test_what_follows_from_other_settings_is_a_rule(shown):
    rows = shown("run.yaml")
    assert (rows["train.warmup"]["value"], rows["train.warmup"]["origin"]) == (10, "rule")
    assert (rows["train.context"]["value"], rows["train.context"]["origin"]) == (64, "rule")


def test_an_inherited_value_is_named_where_it_was_written(shown):
    rows = shown("small.yaml", "--set", "width=64")
    assert rows["blocks.b.mixer.heads"]["where"] == rows["blocks.a.mixer.heads"]["where"] == "small.yaml:7:37"
    assert rows["blocks.b.ffn.hidden"]["where"] == "small.yaml:9:33"
    assert rows["width"]["where"] == "--set width=64"
    assert rows["blocks.a.mixer.kv_heads"]["origin"] == "default"


def test_the_values_are_those_that_a_dry_run_prints(files, shown, said):
    (files / "a.txt").write_text("words of a text " * 400)
    assert said("data", "prepare", "a.txt", "--out", "data", "--vocab", "270", "--document-bytes", "500")[0] == 0
    argv = ["run.yaml", "--set", "train.batch=4", "--lr", "5e-4"]
    planned = json.loads(said("train", *argv, "--data", "data", "--out", "r", "--dry-run", "--json")[1])["train"]
    rows = shown(*argv)
    for name, value in planned.items():
        if not isinstance(value, dict):
            assert rows[f"train.{name}"]["value"] == value


def test_changed_leaves_defaults_out(files, said):
    code, out, _ = said("config", "show", "run.yaml", "--changed")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["train.steps", "train.lr"]
    assert "kv_heads" not in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.yaml"], "there is no file"),
        (["run.yaml", "--set", "train.stps=1"], "did you mean 'steps'?"),
        (["run.yaml", "--set", "width=-1"], "width"),
        (["run.yaml", "--lr", "nan"], "--lr"),
    ],
)
def test_a_mistake_is_reported_as_train_does(files, said, argv, message):
    code, _, err = said("config", "show", *argv)
    assert code == 2
    assert message in err


def test_it_loads_no_torch(files):
    import subprocess
    import sys

    code = "import sys; from vitruvius.cli.main import run; run(['config', 'show', 'run.yaml']); "
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
