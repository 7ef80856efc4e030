"""`vitruvius train` over several sources: mixed, packed and with growing samples, as a user asks for it."""

from __future__ import annotations

import json
import random

import pytest

from vitruvius.cli.main import run
from vitruvius.runs import RunReader

SPEC = """\
name: small
vocab_size: 320
width: 32
context: 32
head: {kind: lm, tied: true}
blocks:
  a:
    mixer: {kind: attention, heads: 2, kv_heads: 1, sees: causal, position: rope}
    ffn: {kind: swiglu, hidden: 48}
layers: a
"""
QUICK = ("--steps", "4", "--batch", "4", "--set", "train.threads=1", "--set", "train.final_eval_batches=1")
RUN_FILE = """\
spec: small.yaml
data: {data}
out: run
train:
  steps: 4
  batch: 4
  threads: 1
  final_eval_batches: 1
  mix: {{code: 3, web: 1}}
  packing: best-fit
  curriculum:
    - {{until: 1, context: 8}}
    - {{until: 0.5, context: {context}}}
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Prepared from a file of two sources with weights."""
    folder = tmp_path_factory.mktemp("train-data")
    draw = random.Random(0)
    for name, words in {"web": "arch beam stone river mason", "code": "if else while return def"}.items():
        (folder / name).mkdir()
        for number in range(20):
            text = " ".join(draw.choice(words.split()) for _ in range(draw.randrange(20, 300)))
            (folder / name / f"{number}.txt").write_text(text + "\n")
    (folder / "sources.yaml").write_text(
        "web: {inputs: [web], weight: 0.8}\ncode: {inputs: [code], weight: 0.2}\n", encoding="utf-8"
    )
    options = ("--out", str(folder / "data"), "--vocab", "300", "--held-out", "0.2")
    assert run(["data", "prepare", "--sources", str(folder / "sources.yaml"), *options]) == 0
    return folder / "data"


@pytest.fixture
def asked(here, mixed):
    """Write a run file into the working folder."""

    def write(context=16):
        (here / "small.yaml").write_text(SPEC)
        (here / "run.yaml").write_text(RUN_FILE.format(data=mixed, context=context))
        return here

    return write


def test_the_weights_of_the_data_are_those_of_the_run(said, here, mixed):
    (here / "small.yaml").write_text(SPEC)
    code, out, _ = said("train", "small.yaml", "--data", mixed, "--out", "run", *QUICK, "--dry-run", "--json")
    assert code == 0
    use = json.loads(out)["use"]
    assert {source["source"]: source["share"] for source in use["sources"]} == {"code": 0.2, "web": 0.8}
    assert (use["packing"], use["padding_share"], use["left_out"], use["curriculum"]) == ("stream", 0, [], [])


def test_a_run_file_says_what_is_mixed_how_it_is_packed_and_how_long_samples_are(said, asked):
    asked()
    code, out, _ = said("train", "run.yaml", "--dry-run")
    assert code == 0
    assert "code 75.0% of the samples, read " in out
    assert "packing best-fit: " in out
    assert "% padding" in out
    assert "sample lengths: 8 tokens until step 1, 16 tokens until step 2, then 32" in out
    code, _, err = said("train", "run.yaml")
    assert code == 0
    assert "note: sources: code 75.0% of the samples" in err
    record = RunReader("run").record()
    assert [stage["context"] for stage in record["config"]["train"]["curriculum"]] == [8, 16]
    assert record["data"]["use"]["packing"] == "best-fit"
    assert [row["context"] for row in RunReader("run").metrics()] == [8, 16, 32, 32]


def test_the_command_line_changes_the_mix_of_a_run_file(said, asked):
    asked()
    changes = ("--set", "train.mix.web=3", "--set", "train.packing=by-length", "--set", "train.curriculum=[]")
    code, out, err = said("train", "run.yaml", *changes, "--dry-run")
    assert (code, err.count("error")) == (0, 0)
    assert "code 50.0% of the samples" in out
    assert "packing by-length" in out


def test_text_that_is_read_too_often_is_noted_in_the_plan(said, asked):
    asked()
    code, out, _ = said("train", "run.yaml", "--steps", "900", "--dry-run", "--json")
    assert code == 0
    assert [source["repeated_too_often"] for source in json.loads(out)["use"]["sources"]] == [True, True]
    assert "text that is read more than 4 times" in said("train", "run.yaml", "--steps", "900", "--dry-run")[1]


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        (("--set", "train.packing=bestfit"), "--set train.packing=bestfit", "not one of the choices"),
        (("--set", "train.mix={web: 1}"), "train.mix", "source 'code' has no weight"),
        (("--set", "train.mix={web: 1, code: 1, docs: 1}"), "train.mix.docs", "the data has no source 'docs'"),
        (("--set", "train.mix={web: -1, code: 1}"), "train.mix.web", "out of range"),
        (("--set", "train.curriculum=[{until: 2}]"), "train.curriculum.0.context", "context is missing"),
        (("--set", "train.curriculum=[{until: 9, context: 8}]"), "train.curriculum.0.until", "the run has 4"),
        (("--set", "train.packing=by-length"), "train.curriculum", "no stage can cut"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(said, asked, change, place, what):
    folder = asked()
    code, out, err = said("train", "run.yaml", *change)
    assert (code, out) == (2, "")
    assert place in err
    assert what in err
    assert "fix:" in err
    assert not (folder / "run").exists()


def test_a_length_that_does_not_divide_the_context_is_named_at_its_line(said, asked):
    asked(context=12)
    code, _, err = said("train", "run.yaml")
    assert code == 2
    assert "run.yaml:13:29  train.curriculum.1.context" in err
    assert "cannot be cut into equal pieces of 12" in err
