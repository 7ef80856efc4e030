"""`vitruvius scale-down` as a user meets it: what it writes is what `vitruvius train` runs."""

from __future__ import annotations

import json

import pytest
import yaml

from vitruvius.spec import preset, read, resolve
from vitruvius.training.request import read_request


@pytest.fixture(scope="module")
def corpus(data_of_words):
    """Some forty thousand tokens in a vocabulary of 300."""
    return data_of_words(40, 700)


TRAINED = ["longcontext", "llama-moe", "deepseek-v3", "jamba-like", "gated-deltanet-hybrid", "seq2seq-small"]


@pytest.mark.slow
@pytest.mark.parametrize("source", TRAINED)
def test_the_written_run_trains_two_steps(source, corpus, here, said):
    code, out, err = said(
        "scale-down", source, "--parameters", "400K", "--context", 128, "--vocab", 512, "--out", "p", "--data", corpus
    )
    assert code == 0 and f"a prototype of {source}" in out and "wrote p/" in err
    (run_file,) = (here / "p").glob("*-run.yaml")
    assert f"next: vitruvius train p/{run_file.name}\n" in err
    quick = ["train.threads=1", "train.eval_every=0", "train.final_eval_batches=1", "train.warmup=1"]
    sets = [word for text in quick for word in ("--set", text)]
    code, out, err = said("train", f"p/{run_file.name}", "--steps", 2, *sets, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["status"], result["step"]) == ("finished", 2)


@pytest.mark.parametrize("source", TRAINED)
def test_the_written_run_says_what_the_report_says(source, corpus, here, said):
    code, out, _ = said("scale-down", source, "--parameters", "2M", "--out", "p", "--data", corpus, "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["of"]) == (0, "vitruvius.scale-down/1", source)
    request = read_request(document["files"]["run"])
    made, asked = request.reading.architecture, document["run"]
    assert sum(t.count for t in resolve(made).tensors().values()) == document["parameters"]["total"]
    assert abs(document["parameters"]["missed_by"]) < 0.05
    config = request.config
    assert (config.batch, config.steps, config.lr, config.context) == tuple(
        asked[name] for name in ("batch", "steps", "lr", "context")
    )
    assert config.batch * config.context * config.steps == asked["tokens"]
    assert config.batch % config.accumulate == 0 and config.warmup == asked["warmup"]


def test_without_data_the_run_file_leaves_the_folder_to_the_command(here, said, corpus):
    code, _, err = said("scale-down", "tiny-llama", "--parameters", "200K", "--out", "p")
    assert code == 0 and err.endswith("--data DIR\n")
    (run_file,) = (here / "p").glob("*-run.yaml")
    assert "data" not in yaml.safe_load(run_file.read_text())
    assert read_request(str(run_file), data=str(corpus)).config.steps > 0


def test_without_out_nothing_is_written(here, said):
    code, out, err = said("scale-down", "tiny-llama", "--parameters", "200K")
    assert code == 0 and "what it can no longer catch" in out
    assert err == "next: vitruvius scale-down tiny-llama --parameters 200000 --out prototypes\n"
    assert list(here.iterdir()) == []


def test_overrides_come_before_scaling(said):
    _, out, _ = said("scale-down", "llama-moe", "--parameters", "5M", "--set", "blocks.moe.ffn.experts=4", "--json")
    document = json.loads(out)
    assert not [row for row in document["deviations"] if row["field"].endswith("experts")]


def test_files_that_are_there_are_not_overwritten_unless_told_to(here, said):
    ask = ["scale-down", "tiny-llama", "--parameters", "200K", "--out", "p"]
    assert said(*ask)[0] == 0
    code, out, err = said(*ask)
    assert (code, out) == (2, "") and "is already there" in err and "--force" in err
    assert said(*ask, "--force")[0] == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--parameters", "9T"], "and fewer than"),
        (["--parameters", "1"], "has no prototype of 1 parameters"),
        (["--parameters", "0"], "a prototype of 0 is asked for"),
        (["--parameters", "-5"], "cannot read '-5'"),
        (["--parameters", "15M", "--context", "1m"], "is made for 102,400"),
        (["--parameters", "15M", "--vocab", "0"], "a vocabulary of 0"),
        (["--parameters", "15M", "--vocab", "99999999"], "use at most 32,000"),
        (["--parameters", "15 MB"], "unknown unit 'MB'"),
        ([], "--parameters"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(argv, says, said):
    code, out, err = said("scale-down", "longcontext", *argv)
    assert (code, out) == (2, "") and says in err


def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(here, said):
    (here / "p").write_text("a file")
    code, out, err = said("scale-down", "tiny-llama", "--parameters", "200K", "--out", "p")
    assert (code, out) == (2, "") and "p" in err


def test_mup_is_carried_with_its_base_width_and_its_learning_rate(here, said):
    # muP's rate is that of its base width whatever the width, so prototypes of two sizes have the same.
    rates = set()
    for parameters in ("1M", "300K"):
        _, out, _ = said(
            *("scale-down", "tiny-llama-moe", "--parameters", parameters, "--json", "--out", parameters),
            *("--set", "init={kind: mup, base_width: 64}"),
        )
        document = json.loads(out)
        assert (
            read(document["files"]["spec"]).init
            == preset("tiny-llama-moe", overrides=["init={kind: mup, base_width: 64}"]).init
        )
        rates.add(document["run"]["lr"])
        assert not [spot for spot in document["blind_spots"] if "learning rate that is too high" in spot["what"]]
    assert rates == {0.006}
