"""Each probe can fail: bugs planted on purpose are caught by the probe that is there for them."""

from __future__ import annotations

from pathlib import Path

import planted
import pytest
from mutants import MUTANTS, SPEC
from planted import PLANTED

from vitruvius.checks import PROBES, check
from vitruvius.nn import build
from vitruvius.nn.mixers.keyvalue import KeyValueStore
from vitruvius.spec import ensure, read_text

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = {**MUTANTS, **PLANTED}
VICTIMS = sorted({mutant.spec for mutant in EVERY.values()})
PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
NEW = {
    "attention-distribution",
    "receptive-field",
    "residual",
    "routing",
    "derivative",
    "tokens-ahead",
    "init-scale",
    "adversarial",
    "length-stress",
}
"""Probes that stand in the report before anything else notices some bug."""


def name_of(text: str) -> str:
    return read_text(text).architecture.name


def red(examined) -> set[str]:
    return {outcome.name for outcome in check(examined).failures}


@pytest.mark.parametrize("text", VICTIMS, ids=name_of)
def test_a_healthy_victim_passes_every_probe(text):
    report = check(read_text(text).architecture)
    assert report.passed, str(report)


def test_a_healthy_model_passes_too():
    assert red(build(read_text(SPEC).architecture, seed=5)) == set()


@pytest.mark.parametrize("name", EVERY)
def test_a_planted_bug_is_caught_by_the_probe_that_is_there_for_it(name, monkeypatch):
    mutant = EVERY[name]
    examined = mutant.plant(monkeypatch, read_text(mutant.spec).architecture)
    report = check(examined, only=[mutant.by])
    assert not report[mutant.by].passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_planted_bug_turns_exactly_these_probes_red(name, monkeypatch):
    mutant = EVERY[name]
    assert red(mutant.plant(monkeypatch, read_text(mutant.spec).architecture)) == mutant.red


def test_every_probe_has_a_bug_that_turns_it_red():
    assert {probe for mutant in EVERY.values() for probe in mutant.red} == {probe.name for probe in PROBES}


def test_every_probe_has_a_bug_that_it_is_there_for():
    assert {mutant.by for mutant in EVERY.values()} == {probe.name for probe in PROBES}


def test_each_new_probe_catches_something_before_all_others():
    order = [probe.name for probe in PROBES]
    first = {min(mutant.red, key=order.index) for mutant in EVERY.values()}
    assert first >= NEW


def test_there_are_at_least_twenty_planted_bugs_and_none_twice():
    assert len(PLANTED) >= 20
    assert not MUTANTS.keys() & PLANTED.keys()
    assert len({mutant.plant for mutant in EVERY.values()}) == len(EVERY)


def test_the_page_says_which_probe_catches_which_bug():
    text = PAGE.read_text(encoding="utf-8")
    missing = [name for name, mutant in EVERY.items() if f"| {name} | {mutant.by} |" not in text]
    assert not missing


def test_the_victim_of_most_has_both_kinds_of_layer():
    victim = read_text(planted.SPEC).architecture
    assert [layer.name for layer in ensure(victim).layers] == ["local", "full"]
    assert isinstance(build(victim).cache(1, capacity=8).layers[0].mixer, KeyValueStore)
