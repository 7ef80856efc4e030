"""Adversarial inputs, saturated gates, long sequences, positions at the end of the context."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from vitruvius.checks import check, numerics, stress
from vitruvius.checks.adversarial import MODES, adversarial_tokens, gates_of, saturated
from vitruvius.checks.stress import affordable_length, at_the_end, stretched
from vitruvius.checks.subject import subject_of
from vitruvius.nn import build
from vitruvius.spec import preset, preset_names, read_text, resolve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("vocabulary", [1, 2, 61])
def test_adversarial_texts_stay_inside_the_vocabulary(vocabulary):
    for name, tokens in adversarial_tokens(vocabulary, 20).items():
        assert tokens.shape == (20,), name
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary, name


def test_periods_are_what_they_say():
    texts = adversarial_tokens(50, 12)
    assert texts["a period of 2"].tolist() == [0, 1] * 6
    assert texts["a period of 3"].tolist() == [0, 1, 2] * 4
    assert texts["one token, then another"].tolist() == [0] * 6 + [49] * 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (planted.FORGETTING, "layers.0.mixer.position.gate.bias"),
        (planted.STATE, "layers.0.mixer.dt_bias"),
        (planted.STATE, "layers.1.mixer.A_log"),
        (planted.PLAIN, None),
    ],
)
def test_gates_are_found_by_their_names_and_those_of_an_ffn_are_left_alone(name, expected):
    found = gates_of(build(read_text(name).architecture))
    assert found == [] if expected is None else expected in found


@pytest.mark.parametrize("mode", MODES)
def test_a_saturated_model_gets_its_weights_back(mode):
    model = build(read_text(planted.STATE).architecture)
    gates = gates_of(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with saturated(model, gates, mode):
        changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
        assert set(changed) <= set(gates)
        assert changed or mode == "steep"  # of these gates none has a map of its own
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_biases_are_saturated_at_both_ends():
    model = build(read_text(planted.FORGETTING).architecture)
    with saturated(model, gates_of(model), "apart"):
        assert set(model.layers[0].mixer.position.gate.bias.tolist()) == {-100.0, 100.0}


def test_large_embeddings_are_a_warning_where_no_norm_brings_the_stream_back():
    text = planted.spec("bare", "a: {ffn: {kind: swiglu, hidden: 32}, norm_place: none}", "a*6", more="init: kaiming")
    outcome = check(read_text(text).architecture, only=["adversarial"])["adversarial"]
    assert outcome.passed
    assert "no norm brings the stream back" in outcome.warning


# ----------------------------------------------------------------------------------------------------------------------
# Length


@pytest.mark.parametrize("name", preset_names())
def test_positions_of_every_preset_hold_at_the_end_of_its_context(name):
    assert at_the_end(resolve(preset(name))) == ""


def test_a_check_runs_what_it_can_afford_and_says_what_stopped_it():
    graph = resolve(stretched(subject_of(preset("llama-3-8b"), 0)))
    length, why = affordable_length(graph, None)
    assert 24 <= length < graph.scope.context
    assert "operations" in why
    assert affordable_length(graph, 100) == (100, "as asked")
    assert affordable_length(graph, 10**9) == (graph.scope.context, "")


def test_memory_stops_a_run_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(stress, "_memory", lambda: 50_000_000)
    length, why = affordable_length(resolve(preset("tiny-longcontext")), 1600)
    assert length < 1600
    assert "memory" in why


def test_a_longer_run_is_made_when_it_is_asked_for():
    outcome = check(preset("tiny-longcontext"), only=["length-stress"], longest=400)["length-stress"]
    assert outcome.passed
    assert outcome.values["tokens_run"] == 400
    assert outcome.detail.startswith("400 of 1,600 tokens (as asked)")


def test_a_learned_table_serves_its_last_row_in_decoding_and_not_one_more(monkeypatch):
    from vitruvius.nn.positions.tables import LearnedPositionModule

    small = replace(preset("tiny-simple-transformer"), context=64)
    table = replace(small.embedding.position, size=64, start=32)
    small = replace(small, embedding=replace(small.embedding, position=table))
    assert check(small, only=["length-stress"]).passed
    honest = LearnedPositionModule.rows
    monkeypatch.setattr(LearnedPositionModule, "rows", lambda self, at, like: honest(self, at.clamp(max=63), like))
    outcome = check(small, only=["length-stress"])["length-stress"]
    assert "past a table of 64 positions" in outcome.detail


# ----------------------------------------------------------------------------------------------------------------------
# bf16 where weights amplify errors

NARROW = """
name: narrow
vocab_size: 97
width: 24
context: 48
init: kaiming
embedding: {{norm: rmsnorm}}
blocks:
  a:
    mixer: {{kind: rwkv7, head_width: {width}, decay_rank: 4, rate_rank: 4, gate_rank: 4, value_rank: 4}}
    norm_place: {place}
layers: a*4
"""


@pytest.mark.parametrize("place", ["pre", "post", "output", "sandwich", "none"])
@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_narrow_heads_of_rwkv7_are_no_false_alarm(width, place):
    outcome = check(read_text(NARROW.format(width=width, place=place)).architecture, only=["bf16"])["bf16"]
    assert outcome.passed, outcome.detail
    assert outcome.applies or "is a sign" in outcome.detail


def test_what_bf16_loses_beyond_all_sensitivity_still_fails(monkeypatch):
    honest = numerics._error
    monkeypatch.setattr(numerics, "_error", lambda *given, **options: 0.8 + honest(*given, **options))
    architecture = read_text(NARROW.format(width=4, place="pre")).architecture
    assert not check(architecture, only=["bf16"]).passed
