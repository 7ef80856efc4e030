"""`vitruvius train` knows what a run takes before it starts, and trains the same with less."""

from __future__ import annotations

import json

import pytest

from vitruvius.runs import RunReader

QUICK = ("--batch", "4", "--context", "24", "--set", "train.threads=1", "--set", "train.final_eval_batches=1")
SMALL = ("--set", "width=32", "--set", "vocab_size=320", "--set", "layers=dense moe")


@pytest.fixture(scope="module")
def corpus(data_of_words):
    return data_of_words(10, 200)


def losses(run):
    return [(row["loss"], row["grad_norm"], row["samples"]) for row in RunReader(run).metrics()]


@pytest.mark.slow
def test_a_run_with_checkpointing_has_the_very_losses_of_one_without(vitruvius, corpus, tmp_path):
    base = ("train", "tiny-llama-moe", "--data", str(corpus), *QUICK, *SMALL, "--steps", "4", "--checkpoint-every", "2")
    plain = vitruvius(*base, "--out", str(tmp_path / "plain"))
    assert plain.returncode == 0, plain.stderr
    again = vitruvius(*base, "--set", "train.checkpointing=layers", "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["config"]["train"]["checkpointing"] == "layers"


@pytest.mark.slow
def test_a_dry_run_says_the_peak_its_moment_and_what_there_is(vitruvius, corpus, tmp_path):
    base = ("train", "tiny-llama", "--data", str(corpus), "--out", str(tmp_path / "x"), "--batch", "4", "--dry-run")
    planned = json.loads(vitruvius(*base, "--json").stdout)["memory"]
    assert planned["peak_bytes"] == planned["weights_and_optimizer_bytes"] + planned["activations_bytes"]
    less = json.loads(vitruvius(*base, "--json", "--set", "train.checkpointing=layers").stdout)["memory"]
    assert less["peak_bytes"] < planned["peak_bytes"]
    assert planned["highest_moment"]
    assert "at the highest moment" in vitruvius(*base).stdout


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(vitruvius, corpus, tmp_path):
    out = tmp_path / "huge"
    refused = vitruvius(
        "train", "llama-3-8b", "--data", str(corpus), "--out", str(out), "--batch", "1024", "--set", "context=1048576"
    )
    assert refused.returncode == 2, refused.stderr
    assert "at its highest moment" in refused.stderr
    assert "train.memory_check=warn" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_setting_that_is_none_of_the_choices_is_refused(vitruvius, corpus, tmp_path):
    for setting in ("checkpointing=blocks", "memory_check=force", "checkpointing=true"):
        refused = vitruvius(
            "train", "tiny-llama", "--data", str(corpus), "--out", str(tmp_path / "no"), "--set", f"train.{setting}"
        )
        assert refused.returncode == 2
        assert setting.partition("=")[0] in refused.stderr
