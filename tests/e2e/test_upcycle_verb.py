"""`vitruvius upcycle` as a user meets it: a dense run becomes a mixture that goes on from where it was."""

from __future__ import annotations

import json

import pytest
import torch

from vitruvius.cli.main import run as vitruvius
from vitruvius.nn.weights import load_model
from vitruvius.runs import RunReader

SPEC = """\
name: NAME
vocab_size: 320
width: 32
context: 32
head: {kind: lm, tied: true}
blocks:
  layer:
    mixer: {kind: attention, heads: 2, sees: causal, position: {kind: rope}}
    ffn: FFN
layers: layer*2
"""
DENSE = "{kind: swiglu, hidden: 48}"
MOE = "{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 48}, router: sigmoid}"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_of_words):
    """A folder with data, both specs and a short dense run."""
    folder = tmp_path_factory.mktemp("upcycle")
    data_of_words(20, 300, folder)
    for name, ffn in (("dense", DENSE), ("moe", MOE)):
        (folder / f"{name}.yaml").write_text(SPEC.replace("NAME", name).replace("FFN", ffn))
    quick = ["--steps", "3", "--batch", "4", "--set", "train.threads=1", "--set", "train.final_eval_batches=1"]
    argv = ["train", str(folder / "dense.yaml"), "--data", str(folder / "data"), "--out", str(folder / "dense"), *quick]
    assert vitruvius([*argv, "--set", "train.dtype=fp32"]) == 0
    return folder


def upcycled(place, out, *more):
    return vitruvius(["upcycle", str(place / "dense"), "--to", str(place / "moe.yaml"), "--out", str(out), *more])


def test_the_new_run_computes_the_same_and_trains_on(place, tmp_path, capsys):
    out = tmp_path / "moe"
    assert upcycled(place, out, "--steps", "4", "--set", "train.threads=1") == 0
    said = capsys.readouterr()
    assert "2 layers" in said.out
    assert f"next: vitruvius train --resume {out}" in said.err
    tokens = torch.arange(60).view(2, 30)
    with torch.no_grad():
        new, old = (load_model(folder, dtype="fp64")(tokens) for folder in (out, place / "dense"))
    assert (new - old).abs().max() <= 1e-9
    record = RunReader(out).record()
    assert (record["status"], record["result"]["step"]) == ("stopped", 0)
    assert record["config"]["train"]["batch"] == 4, "settings of the dense run"
    assert record["config"]["train"]["dtype"] == "fp32"
    assert vitruvius(["train", "--resume", str(out)]) == 0
    rows = RunReader(out).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    dense_rows = RunReader(place / "dense").metrics()
    assert rows[0]["loss"] < dense_rows[0]["loss"], "it goes on from where the dense model was"
    assert rows[-1]["router_bias_max"] > 0


def test_a_run_made_so_resumes_to_the_same_bits(place, tmp_path):
    manifests = []
    for name in ("one", "two"):
        assert upcycled(place, tmp_path / name, "--steps", "2", "--set", "train.threads=1") == 0
        assert vitruvius(["train", "--resume", str(tmp_path / name)]) == 0
        newest = RunReader(tmp_path / name).checkpoints()[-1].path
        manifests.append(json.loads((newest / "manifest.json").read_text())["files"])
    assert manifests[0] == manifests[1]


def test_json_says_what_was_made_of_what(place, tmp_path, capsys):
    assert upcycled(place, tmp_path / "moe", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "vitruvius.upcycle/1"
    assert result["step"] == 3
    assert result["layers"] == 2
    assert result["parameters"] == result["parameters_before"] + 2 * (3 * 3 * 32 * 48 + 4 * 32)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "blocks.layer.ffn.expert.hidden=40"], "an expert is to be a copy"),
        (["--set", "width=64"], "it differs from the dense model's (32)"),
        (["--set", "blocks.layer.ffn.top_k=5"], "5 experts per token"),
        (["--data", "nowhere"], "nowhere"),
        (["--lr", "-1"], "--lr"),
    ],
)
def test_what_does_not_fit_is_said_and_leaves_nothing_behind(place, tmp_path, capsys, more, says):
    assert upcycled(place, tmp_path / "moe", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(place, capsys):
    assert upcycled(place, place / "dense") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_something_that_is_no_run_is_named(place, tmp_path, capsys):
    argv = ["upcycle", str(tmp_path), "--to", str(place / "moe.yaml"), "--out", str(tmp_path / "moe")]
    assert vitruvius(argv) == 2
    assert "not a run folder" in capsys.readouterr().err
