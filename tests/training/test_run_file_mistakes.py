"""Mistakes in run files and settings are answered at the place where they stand, with the way out."""

from __future__ import annotations

import pytest

from vitruvius.errors import SpecError, UsageError
from vitruvius.spec.source import parse_text
from vitruvius.spec.tree import to_plain
from vitruvius.training.checking import from_plain
from vitruvius.training.config import TrainConfig
from vitruvius.training.plan import settings_text
from vitruvius.training.request import read_request

HEAD = "spec: tiny-llama\ndata: d\nout: o\n"


@pytest.fixture
def refused(tmp_path):
    """What a run file of a text, with `--set` texts, is refused with."""

    def read(text, settings=()):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises((SpecError, UsageError)) as caught:
            read_request(str(path), settings=settings)
        return str(caught.value)

    return read


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("train:\n  guard:\n    loss_z: 5\n    spike: no\n", "run.yaml:7:12  train.guard.spike"),
        ("train:\n  guard:\n    loss_z: 5\n    spik: note\n", "run.yaml:7:5  train.guard.spik"),
        ("train:\n  watch:\n    every: 5\n    sinks:\n      - wandbb\n", "run.yaml:8:9  train.watch.sinks.0"),
        ("train:\n  steps: 100\n  guard:\n    spike: skip\n    window: 120\n", "run.yaml:8:13  train.guard.window"),
        ("train:\n  engine: {zero: 2,\n    kind: local}\n", "run.yaml:5:18  train.engine.zero"),
        ("train:\n  betas:\n    - 0.9\n    - 2\n", "run.yaml:7:7  train.betas.1"),
    ],
)
def test_a_mistake_inside_a_section_is_reported_at_its_own_line(refused, section, place):
    assert place in refused(HEAD + section)


@pytest.mark.parametrize(
    "setting",
    ["train.guard.spik=skip", "train.guard.spike=no", "train.watch.sinks=[wandbb]", "train.loader.workers=99"],
)
def test_a_mistake_inside_a_section_that_only_an_argument_has_names_the_argument(refused, setting):
    argument = f"--set '{setting}':1:" if "[" in setting else f"--set {setting}:1:"
    assert f"error: {refused(HEAD, [setting])}".startswith(f"error: {argument}")


def test_what_an_argument_makes_wrong_by_a_default_beside_it_names_the_argument(refused):
    # The window of 64 is the default; that spikes are answered is what makes it too long for 30 updates.
    found = refused(f"{HEAD}train: {{steps: 30}}\n", ["train.guard.spike=skip"])
    assert found.startswith("--set train.guard.spike=skip:1:1  train.guard.window")


def test_a_setting_outside_of_train_is_told_where_it_belongs(refused):
    found = refused(f"{HEAD}steps: 4\nguard: {{spike: skip}}\n")
    assert "run.yaml:4:1  steps" in found
    assert "write it under train: `train: {steps: ...}`" in found
    assert "write it under train: `train: {guard: ...}`" in found


@pytest.mark.parametrize("section", ["data", "out"])
def test_an_empty_folder_name_is_refused_and_not_taken_for_this_folder(tmp_path, section):
    folders = {"data": "d", "out": "o"} | {section: ""}
    with pytest.raises(UsageError, match=f"--{section}.*\n.*is empty"):
        read_request("tiny-llama", **folders)
    path = tmp_path / "run.yaml"
    path.write_text(f"spec: tiny-llama\n{section}: ''\n", encoding="utf-8")
    with pytest.raises(SpecError, match=rf"run\.yaml:2:\d+  {section}\n.*is empty"):
        read_request(str(path), **(folders | {section: None}))


def test_a_spec_that_is_not_there_is_reported_where_the_run_file_names_it(refused):
    found = refused("data: d\nout: o\nspec: tiny-lama\n")
    assert "run.yaml:3:7  spec\n  there is no file or preset 'tiny-lama'" in found
    assert "did you mean tiny-llama" in found


def test_null_is_offered_to_those_who_write_none(refused):
    assert "write null" in refused(f"{HEAD}train: {{clip: None}}\n")
    assert "write null" in refused(HEAD, ["train.checkpoint_every=none"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "lr"),
        ("max_steps", "steps"),
        ("batch_size", "batch"),
        ("global_batch_size", "batch"),
        ("gradient_accumulation_steps", "accumulate"),
        ("seq_len", "context"),
        ("max_norm", "clip"),
        ("grad_clip", "clip"),
        ("precision", "dtype"),
        ("warmup_steps", "warmup"),
        ("lr_scheduler", "schedule"),
        ("save_steps", "checkpoint_every"),
        ("eval_interval", "eval_every"),
        ("sample_packing", "packing"),
    ],
)
def test_names_of_other_trainers_are_answered_with_ours(refused, theirs, ours):
    assert f"it is called {ours!r} here" in refused(f"{HEAD}train: {{{theirs}: 1}}\n")


def test_a_misspelt_train_is_told_from_a_field_of_the_spec(refused):
    assert "did you mean 'train.lr'?" in refused(HEAD, ["trian.lr=1"])
    assert "train.NAME=VALUE" in refused(HEAD, ["train={lr: 1e-3}"])


def test_the_settings_that_a_plan_prints_read_back_as_what_they_were():
    plain = {
        "steps": 9,
        "clip": None,
        "guard": {"alarms": {"attention-logit": {"above": 50}, "dead-experts": None}},
        "samples": {"every": 3, "prompts": ["", "no", "a: b", "null", "tab\there"]},
        "curriculum": [{"until": 0.3, "context": 64}],
        "mix": {"web text": 1.0},
    }
    config = from_plain(plain)
    read = to_plain(parse_text("\n".join(settings_text(config)), file="train"))
    assert from_plain(read) == config
    assert TrainConfig() == from_plain(to_plain(parse_text("\n".join(settings_text(TrainConfig())), file="train")))
