"""`vitruvius score`: a run on its held-out pairs beside two baselines, and refusals that name the way out."""

from __future__ import annotations

import json

import pytest

from vitruvius.cli import main
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.spec import read_text
from vitruvius.training import TrainConfig, train
from vitruvius.training.settings import Pairs

pytest.importorskip("tokenizers")
SPEC = """
name: small
vocab_size: 320
width: 32
context: 48
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: everything, position: rope}, ffn: {kind: swiglu, hidden: 48}}
  d:
    mixer: {kind: attention, heads: 2, position: rope}
    cross: {kind: attention, heads: 2}
    ffn: {kind: swiglu, hidden: 48}
layers: d
encoder: {layers: a}
"""


def prepared(folder, name, *, vocab=300, count=60):
    path = folder / f"{name}.jsonl"
    rows = [{"source": f"{name} number {i} please", "target": f"call_{i % 4}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare_pairs([path], folder / name, PairOptions(vocab=vocab, held_out=0.3))
    return folder / name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    data = prepared(folder, "one")
    config = TrainConfig(
        objective="seq2seq", steps=4, batch=8, threads=1, eval_batches=1, pairs=Pairs(source=30, target=12, score=2)
    )
    return train(read_text(SPEC).architecture, data=data, out=folder / "run", config=config).run


def test_json_has_the_model_and_both_baselines_on_the_same_pairs(run, capsys):
    assert main.run(["score", str(run), "--json", "--show", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "vitruvius.score/1"
    assert found["step"] == 4 and found["split"] == "validation"
    assert {row["pairs"] for row in (found["model"], *found["baselines"].values())} == {found["pairs"]}
    assert found["baselines"]["nearest_source"]["f1"] > 0
    assert len(found["shown"]) == 3 and set(found["shown"][0]) == {"source", "target", "written"}
    assert main.run(["score", str(run), "--json", "--most", "5", "--split", "train"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 5
    assert found["baselines"] == {"most_frequent": None, "nearest_source": None}


def test_a_table_for_people(run, capsys):
    assert main.run(["score", str(run)]) == 0
    said = capsys.readouterr()
    assert "nearest source" in said.out and "most frequent" in said.out
    assert "next: " in said.err
    assert (
        main.run(["generate", str(run), "--prompt", "one number 3 please", "--max-tokens", "8", "--temperature", "0"])
        == 0
    )


def test_what_cannot_be_scored_is_refused_with_the_way_out(run, tmp_path, capsys):
    other = prepared(tmp_path, "two", vocab=280)
    assert main.run(["score", str(run), "--data", str(other)]) == 2
    assert "another tokenizer" in capsys.readouterr().err
    assert main.run(["score", str(tmp_path)]) == 2
    assert "fix:" in capsys.readouterr().err
    record = json.loads((run / "run.json").read_text())
    record["config"]["train"]["objective"] = "continuation"
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "checkpoints").symlink_to(run / "checkpoints")
    (changed / "run.json").write_text(json.dumps(record))
    assert main.run(["score", str(changed)]) == 2
    assert "train.objective=seq2seq" in capsys.readouterr().err
