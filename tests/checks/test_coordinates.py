"""The coordinate check: muP and CompleteP pass it, and every rule that is left out turns it red."""

from __future__ import annotations

import json
from math import inf, nan, sqrt

import pytest

from vitruvius.checks.coordinates import coordinates, exponent
from vitruvius.checks.coordinates_text import to_dict, to_text
from vitruvius.cli.main import run
from vitruvius.spec import preset
from vitruvius.spec.parametrisations import CompleteP, WidthParametrisation

pytestmark = pytest.mark.usefixtures("one_thread")
MU, COMPLETE = "init={kind: mup, base_width: 128}", "init={kind: completep, base_width: 128, base_depth: 4}"
SMALL = "layers=layer"


@pytest.fixture(autouse=True)
def three_widths(monkeypatch):
    """64 to 256 channels, one seed: a second for each check."""
    monkeypatch.setattr("vitruvius.checks.coordinates.FACTORS", (1, 2, 4))
    monkeypatch.setattr("vitruvius.checks.coordinates.SEEDS", 1)


def check(name, *overrides):
    return coordinates(preset(name, overrides=list(overrides)))


def faults(found):
    return {place.name for sweep in found.sweeps for place in sweep.own.places if not place.passed}


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2", "tiny-llama-moe"])
def test_mup_holds_across_width_where_the_standard_parametrisation_grows(name):
    found = check(name, MU)
    assert found.passed, to_text(found)
    (sweep,) = found.sweeps
    assert sweep.scales == (64, 128, 256)
    assert (sweep.own.init, sweep.beside.init) == ("mup", "normal")
    grown = {place.name: place.size_exponent for place in sweep.beside.places}
    assert min(exponent for name, exponent in grown.items() if name.endswith((".mixer", ".ffn"))) > 1
    assert grown["stream"] > 1


def test_the_standard_parametrisation_fails_and_is_told_the_way_out():
    found = check("tiny-llama", SMALL)
    assert not found.passed
    assert {"layer.mixer", "layer.ffn", "stream", "logits"} <= faults(found)
    text = to_text(found)
    assert "✗ stream" in text
    assert "fix: init: {kind: mup, base_width: 128}" in text


def test_completep_holds_across_depth_where_mup_grows():
    found = check("tiny-gpt2", COMPLETE)
    assert found.passed, to_text(found)
    width, depth = found.sweeps
    assert (width.axis, depth.axis, depth.beside.init) == ("width", "depth", "mup")
    assert depth.scales == (2, 4, 8)
    assert next(place for place in depth.beside.places if place.name == "stream").size_exponent > 0.7


RULES = {
    "hidden learning rates": ("learning_rate_scale", lambda self, weight, scope: 1.0, "layer.ffn"),
    "hidden variances": ("std_of", lambda self, weight, scope: self.std, "layer.mixer"),
    "the scale of the logits": ("logit_scale", lambda self, width: 1.0, "logits"),
    "the embedding's learning rate": (
        "learning_rate_scale",
        lambda self, weight, scope: self.base_width / scope.width,
        "embedding",
    ),
    "half of the learning rate's power": (
        "learning_rate_scale",
        lambda self, weight, scope: sqrt(self.base_width / scope.width) if weight.width_class == "hidden" else 1.0,
        "layer.mixer",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_parametrisation_without_one_of_its_rules_fails(rule, monkeypatch):
    method, wrong, place = RULES[rule]
    monkeypatch.setattr(WidthParametrisation, method, wrong)
    assert place in faults(check("tiny-gpt2", MU))


def test_completep_without_the_scale_of_its_sublayers_fails_across_depth(monkeypatch):
    # Any other number that depends on the depth, so that depth is looked at.
    monkeypatch.setattr(CompleteP, "branch_scale", lambda self, depth: 1.0 + 1e-6 * depth)
    found = check("tiny-gpt2", COMPLETE)
    assert [sweep.own.passed for sweep in found.sweeps] == [True, False]


def test_an_embedding_scale_that_grows_with_the_width_is_found():
    assert "embedding" in faults(check("tiny-llama", SMALL, MU, "embedding={scale: sqrt(width)}"))


def test_kaiming_keeps_fresh_layers_constant_and_their_learning_grows():
    found = check("tiny-llama", SMALL, "init={kind: kaiming, nonlinearity: linear}")
    assert not found.passed


def test_an_exponent_is_the_slope_of_the_logarithms():
    assert exponent((1, 2, 4), (3.0, 6.0, 12.0)) == pytest.approx(1)
    assert exponent((10, 1000), (8.0, 0.08)) == pytest.approx(-1)
    assert exponent((1, 2), (0.0, 0.0)) == 0
    assert exponent((1, 2), (1.0, nan)) == exponent((1, 2), (1.0, inf)) == inf


def test_the_json_has_its_schema_and_no_number_that_is_not_one():
    found = to_dict(check("tiny-llama", SMALL, MU))
    assert found["schema"] == "vitruvius.coordinates/1"
    assert found["passed"] is True
    json.dumps(found, allow_nan=False)
    (sweep,) = found["sweeps"]
    assert {arm["init"]: arm["passed"] for arm in (sweep["own"], sweep["beside"])} == {"mup": True, "normal": False}
    assert all(len(place["sizes"]) == len(sweep["scales"]) for place in sweep["own"]["places"])


def test_equal_seeds_give_equal_tables():
    assert to_text(check("tiny-llama", SMALL, MU)) == to_text(check("tiny-llama", SMALL, MU))


def test_the_command_leaves_with_0_or_1(capsys):
    assert run(["check", "tiny-llama", "--mup", "--set", SMALL, "--set", MU]) == 0
    assert "passed: under mup" in capsys.readouterr().out
    assert run(["check", "tiny-llama", "--mup", "--set", SMALL, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize("extra", [["--only", "flops"], ["--lengths", "8"], ["--record", "x.md"]], ids=" ".join)
def test_the_command_refuses_what_does_not_go_together(extra, capsys):
    assert run(["check", "tiny-llama", "--mup", *extra]) == 2
    assert "--mup goes without" in capsys.readouterr().err
