"""`vitruvius solve` as a user meets it."""

from __future__ import annotations

import json

import pytest

from vitruvius.spec import read, resolve

SMALL = ["solve", "--parameters", "60M", "--context", "1k", "--vocab", "8192"]


def test_the_document_s_question_is_answered_with_reasons(said):
    code, out, err = said(
        *("solve", "--parameters", "7B", "--context", "100k", "--memory", "80GiB", "--decode-slowdown", "2x"),
    )
    assert code == 0
    assert "7.000 B parameters within 5 %, 102,400 tokens, memory at most 85.90 GB (80.00 GiB)" in out
    for layout in ("latent", "full", "longcontext of", "linear-3:1"):
        assert layout in out
    assert "as in Gemma 3" in out and "Men et al., 2024" in out and "tells sizes apart and not layouts" in out
    assert err == "next: the same command with --out DIR, which writes the specs\n"


def test_specs_are_written_and_are_what_was_said(here, said):
    code, out, err = said(*SMALL, "--out", "designs", "--json")
    document = json.loads(out)
    assert (code, err, document["schema"]) == (0, "", "vitruvius.solve/1")
    assert len(document["files"]) == len(document["candidates"]) > 2
    for path, candidate in zip(document["files"], document["candidates"], strict=True):
        made = read(path)
        assert (made.name, made.width, made.layers) == (candidate["name"], candidate["width"], candidate["layers"])
        assert sum(t.count for t in resolve(made).tensors().values()) == candidate["parameters"]["total"]
        code, shown, _ = said("size", path, "--json")
        assert json.loads(shown)["parameters"]["total"] == candidate["parameters"]["total"]
    code, out, err = said(*SMALL, "--out", "designs")
    assert (code, out) == (2, "") and "is already there" in err
    code, _, err = said(*SMALL, "--out", "designs", "--force")
    assert code == 0 and err.startswith("wrote designs/solved-60m-1.yaml") and "next: vitruvius size designs/" in err


@pytest.mark.slow
def test_what_solve_says_fits_size_says_fits(here, said):
    ask = ("--on", "rtx-3060-12gb", "--batch", "4", "--weights", "nf4")
    code, out, _ = said("solve", "--parameters", "7B", "--context", "16k", *ask, "--out", "d", "--json")
    document = json.loads(out)
    assert code == 0 and document["candidates"]
    for path, candidate in zip(document["files"], document["candidates"], strict=True):
        code, shown, err = said(
            "size", path, "--context", "16k", "--batch", "4", "--dtype", "nf4", "--on", "rtx-3060-12gb", "--json"
        )
        bill = json.loads(shown)
        assert bill["fits"] is True, err
        assert candidate["memory_bytes"] >= bill["memory"]["peak_bytes"]


@pytest.mark.slow
def test_nothing_found_is_an_exit_code_of_one_and_says_what_would_do(said):
    ask = ("solve", "--parameters", "70B", "--memory", "24GB", "--experts", "none")
    code, out, err = said(*ask)
    assert (code, err) == (1, "")
    assert "memory: the weights (or what training keeps of them) alone take more" in out
    assert "any one of these changes is enough" in out
    code, out, _ = said(*ask, "--json")
    document = json.loads(out)
    assert code == 1 and document["candidates"] == [] and document["files"] is None
    needed = {each["constraint"]: each["needed"] for each in document["relaxations"]}
    assert set(needed) == {"memory_bytes", "parameters"}
    # What is said to be enough is enough.
    again = [*ask[:4], f"{int(needed['memory_bytes'] * 1.001)}B", *ask[5:]]
    assert said(*again)[0] == 0


def test_a_vocabulary_larger_than_the_model_is_named(said):
    code, out, _ = said("solve", "--parameters", "1M", "--vocab", "128k")
    assert code == 2 or "lower --vocab" in out
    code, out, _ = said("solve", "--parameters", "1M", "--vocab", "128000")
    assert code == 1 and "the tables of the vocabulary alone have more; lower --vocab" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "give --parameters, --train-flops or --loss"),
        (["--parameters", "7B", "--memory", "80 apples"], "cannot read '80 apples'"),
        (["--parameters", "7B", "--memory", "0B"], "--memory"),
        (["--parameters", "7 GB"], "unknown unit 'GB'"),
        (["--parameters", "7B", "--decode-slowdown", "fast"], "such as 2x"),
        (["--parameters", "7B", "--decode-slowdown", "0.5"], "out of range"),
        (["--parameters", "7B", "--tokens-per-second", "50"], "add --on"),
        (["--parameters", "7B", "--cost", "$5"], "add --on"),
        (["--parameters", "7B", "--cost", "-5", "--on", "rtx-4090"], "cannot read '-5' as dollars"),
        (["--parameters", "7B", "--on", "h100"], "did you mean h100-80gb"),
        (["--parameters", "7B", "--on", "h100-80gb", "--count", "0"], "counted from 1"),
        (["--parameters", "7B", "--loss", "nan"], "out of range"),
        (["--loss", "1.5"], "irreducible part is 1.8172"),
        (["--parameters", "7B", "--experts", "some"], "cannot read 'some'"),
        (["--parameters", "7B", "--experts", "0"], "use 1 (none) to 4,096"),
        (["--parameters", "7B", "--weights", "q9"], "no weight format 'q9'"),
        (["--parameters", "7B", "--law", "kaplan"], "no scaling law 'kaplan'"),
        (["--parameters", "7B", "--from", "seq2seq-small"], "no decoder"),
        (["--parameters", "7B", "--from", "nothing"], "no file or preset"),
        (["--parameters", "7B", "--most", "0"], "use 1 to 64"),
        (["--parameters", "7B", "--mode", "dream"], "dream"),
        (["--parameters", "7B", "--batch", "0"], "counted from 1"),
        (["--parameters", "7B", "--context", "0"], "at least one token"),
        (["--train-flops", "1e99"], "out of range"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(argv, says, said):
    code, out, err = said("solve", *argv)
    assert (code, out) == (2, "") and says in err


def test_a_style_is_taken_over(here, said):
    code, out, _ = said(
        *("solve", "--parameters", "90M", "--from", "gpt2", "--context", "512", "--experts", "none", "--out", "d"),
        *("--json", "--most", "2"),
    )
    document = json.loads(out)
    assert code == 0 and document["asked"]["vocab_size"] == 50_257
    made = read(document["files"][0])
    assert {block.ffn.kind for block in made.blocks.values()} == {"mlp"} and made.head.tied
