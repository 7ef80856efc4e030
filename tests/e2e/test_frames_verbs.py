"""Encoders, encoder-decoders and prefix models through the commands: train, generate or fill in, embed."""

from __future__ import annotations

import json
import math

import pytest

from vitruvius.cli.main import run
from vitruvius.data import PrepareOptions, prepare

pytestmark = pytest.mark.timeout(300)

HEAD = "name: small\nvocab_size: 301\nwidth: 32\ncontext: 32\n"
BLOCK = "mixer: {kind: attention, heads: 2, sees: SEES, position: rope}, ffn: {kind: swiglu, hidden: 48}"
ENCODER = HEAD + "head: mlm\nblocks:\n  a: {" + BLOCK.replace("SEES", "everything") + "}\nlayers: a*2\n"
PREFIX = (
    HEAD
    + "blocks:\n  a: {"
    + BLOCK.replace("SEES", "causal").replace("rope}", "rope, prefix: open}")
    + "}\nlayers: a*2\n"
)
BOTH = (
    f"{HEAD}blocks:\n  e: {{{BLOCK.replace('SEES', 'everything')}}}\n"
    f"  d: {{{BLOCK.replace('SEES', 'causal')}, cross: {{kind: attention, heads: 2}}}}\n"
    "encoder: {layers: e}\nlayers: d\n"
)
FRAMES = {"masked-lm": ENCODER, "prefix-lm": PREFIX, "continuation": BOTH}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames-verbs")
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / "texts" / f"{number}.txt").write_text(f"number {number} of the stones by the river\n" * 20)
    prepare([folder / "texts"], folder / "data", PrepareOptions(vocab=300, held_out=0.2))
    return folder / "data"


@pytest.mark.parametrize("objective", FRAMES)
def test_a_frame_goes_from_text_to_a_run_to_text_and_vectors(objective, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(FRAMES[objective])
    train = ["train", "small.yaml", "--data", str(corpus), "--out", "run", "--steps", "3", "--batch", "4"]
    assert run([*train, "--set", f"train.objective={objective}"]) == 0
    said = capsys.readouterr()
    assert ("[MASK]" in said.err) == (objective == "masked-lm")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert run(["generate", "run", "--prompt", "the [MASK] by the river", "--max-tokens", "4"]) == 0
    written = capsys.readouterr().out
    assert written.strip()
    assert "[MASK]" not in written
    assert run(["generate", "run", "--prompt", "the [MASK] by the river", "--max-tokens", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vitruvius.generate/1"
    assert document["text"] == written.removesuffix("\n")
    assert document["finish_reason"] in {"length", "stop", None}
    assert run(["embed", "run", "the river", "a stone", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "vitruvius.embed/1"
    assert [len(vector) for vector in found["vectors"]] == [32, 32]
    assert math.sqrt(sum(x * x for x in found["vectors"][0])) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["embed", "run", ""], "text 1 is empty"),
        (["embed", "run", "stone " * 500], "the context holds 32"),
        (["embed", "nowhere", "text"], "nowhere"),
        (["generate", "run", "--prompt", "no mask here"], "nothing is masked"),
        (["generate", "run", "--prompt", "[MASK]" * 40], "the context holds 32"),
    ],
)
def test_what_a_reading_model_cannot_do_is_refused(argv, what, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(ENCODER)
    assert run(["train", "small.yaml", "--data", str(corpus), "--out", "run", "--steps", "1", "--batch", "2"]) == 0
    capsys.readouterr()
    assert run(argv) == 2
    said = capsys.readouterr()
    assert what in said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_a_new_architecture_says_where_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["new", "mine", "--from", "tiny-llama-moe", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    expected = {"schema": "vitruvius.new/1", "name": "mine", "from": "tiny-llama-moe", "file": "mine.yaml"}
    assert document == expected
    assert (tmp_path / "mine.yaml").is_file()
