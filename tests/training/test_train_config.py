from __future__ import annotations

import itertools
import json
import math

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.checking import config_hash, ensure, from_plain
from vitruvius.training.config import resolved, to_plain
from vitruvius.training.rules import divisors
from vitruvius.training.schedules import learning_rate


def finding_of(plain):
    with pytest.raises(SpecError) as caught:
        from_plain(plain)
    (finding,) = caught.value.findings
    return finding


def test_a_config_survives_its_plain_form_through_json():
    config = TrainConfig(steps=7, betas=(0.8, 0.9), clip=None, warmup=0)
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def test_every_setting_has_a_documented_default():
    assert from_plain({}) == TrainConfig()


@pytest.mark.parametrize(
    ("plain", "path", "fix"),
    [
        ({"stpes": 5}, "train.stpes", "did you mean 'steps'?"),
        ({"steps": 0}, "train.steps", "use a number from 1"),
        ({"steps": 4.0}, "train.steps", "write a whole number"),
        ({"steps": True}, "train.steps", "write a whole number"),
        ({"steps": "many"}, "train.steps", "write a whole number"),
        ({"lr": 0}, "train.lr", "use a number above 0"),
        ({"lr": "fast"}, "train.lr", "write a number"),
        ({"schedule": "cosin"}, "train.schedule", "use 'cosine', 'linear', 'constant' or 'wsd'"),
        ({"betas": [0.9]}, "train.betas", "write"),
        ({"betas": [0.9, 1.0]}, "train.betas.1", "use a number below 1"),
        ({"min_lr": 1.5}, "train.min_lr", "use a number at most 1"),
        ({"accumulate": 3, "batch": 8}, "train.accumulate", "use one of 1, 2, 4, 8"),
        ({"optimizer": "moun"}, "train.optimizer", "'adamw-8bit-paged' or 'muon'"),
        ({"muon_lr": 0.02}, "train.muon_lr", "add optimizer: muon"),
        ({"muon_iterations": 0}, "train.muon_iterations", "use a number from 1"),
        ({"muon_momentum": 1.0}, "train.muon_momentum", "use a number below 1"),
        ({"warmup": 10, "steps": 10}, "train.warmup", "use fewer warm-up steps, or more steps"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(plain, path, fix):
    finding = finding_of(plain)
    assert finding.path == path
    assert fix in finding.fix


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value):
    assert finding_of({"lr": value}).path == "train.lr"


def test_all_wrong_settings_are_reported_at_once():
    with pytest.raises(SpecError) as caught:
        from_plain({"steps": -1, "bacth": 3, "dtype": "fp8"})
    assert {finding.path for finding in caught.value.findings} == {"train.steps", "train.bacth", "train.dtype"}


def test_a_config_built_in_python_goes_through_the_same_check():
    with pytest.raises(SpecError, match=r"train\.steps"):
        ensure(TrainConfig(steps=-1), preset("tiny-llama"))


def test_a_context_longer_than_the_architectures_is_refused():
    with pytest.raises(SpecError, match=r"512 tokens are more than the architecture's context=256"):
        ensure(TrainConfig(context=512), preset("tiny-llama"))


def test_a_resolved_config_says_every_number_and_resolving_is_a_fixed_point():
    config = ensure(TrainConfig(steps=400), preset("tiny-llama"))
    assert (config.context, config.warmup, config.checkpoint_every, config.eval_every) == (256, 20, 40, 40)
    assert resolved(config, preset("tiny-llama")) == config


def test_the_hash_tells_configs_specs_and_data_apart():
    config = TrainConfig()
    hashes = {
        config_hash(config, {}, "a"),
        config_hash(TrainConfig(lr=1e-3), {}, "a"),
        config_hash(config, {"width": 1}, "a"),
        config_hash(config, {}, "b"),
    }
    assert len(hashes) == 4
    assert config_hash(config, {}, "a") == config_hash(TrainConfig(), {}, "a")


def rates(**settings):
    config = ensure(TrainConfig(**settings), preset("tiny-llama"))
    return [learning_rate(config, step) for step in range(config.steps)]


def test_warm_up_rises_in_equal_steps_to_the_peak():
    assert rates(steps=20, warmup=4, lr=1.0)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_schedule_falls_from_the_peak_to_min_lr_exactly_at_the_last_step(schedule):
    found = rates(steps=20, warmup=4, lr=2.0, min_lr=0.25, schedule=schedule)
    assert found[-1] == pytest.approx(0.5)
    assert all(earlier >= later for earlier, later in itertools.pairwise(found[3:]))


def test_wsd_stays_at_the_top_and_goes_down_as_one_minus_the_root_over_its_share():
    config = TrainConfig(steps=101, warmup=0, schedule="wsd", wsd_decay=0.25, lr=1.0, min_lr=0.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:76] == [1.0] * 76
    assert rates[76] < 1.0
    assert rates[80] == pytest.approx(1 - math.sqrt(0.05 / 0.25))
    assert rates[100] == 0.0
    assert sorted(rates, reverse=True) == rates


def test_cosine_is_half_way_down_in_the_middle():
    found = rates(steps=21, warmup=0, lr=1.0, min_lr=0.0)
    assert found[10] == pytest.approx(0.5)


def test_constant_stays_at_the_peak():
    assert set(rates(steps=9, warmup=0, lr=1e-3, schedule="constant")) == {1e-3}


def test_a_run_of_one_step_trains_at_the_peak():
    assert rates(steps=1, lr=1e-3) == [1e-3]


@pytest.mark.parametrize("number", [1, 2, 12, 36, 97, 360, 1024])
def test_divisors_are_all_that_divide(number):
    assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


def test_an_absurd_batch_is_answered_at_once():
    with pytest.raises(SpecError, match="does not divide batch=2147483647"):
        from_plain({"batch": 2**31 - 1, "accumulate": 2})


@pytest.mark.parametrize("plain", [{"decay": "\ud800"}, {"mix": {"\ud800": 1.0}}, {"betas": "a\udfff"}])
def test_half_a_character_in_the_settings_is_a_finding(plain):
    with pytest.raises(SpecError, match="the settings cannot be read"):
        from_plain(plain)
