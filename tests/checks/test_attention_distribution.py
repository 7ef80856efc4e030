"""Entropy, distance and sink mass of attention weights that are known."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from vitruvius.checks import check
from vitruvius.checks.attention import heads_of, spread_of_scores
from vitruvius.nn import build
from vitruvius.spec import read_text
from vitruvius.spec.inits import NormalInit

T = 16
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
UNIFORM = (CAUSAL / CAUSAL.sum(-1, keepdim=True)).expand(2, 3, T, T)


def test_uniform_weights_are_uniform_in_every_number():
    for head in heads_of(UNIFORM, CAUSAL):
        assert head.entropy == pytest.approx(1.0)
        assert head.distance == pytest.approx(head.uniform_distance)
        assert head.first == pytest.approx(head.uniform_first)
        assert head.sink == pytest.approx(0.0, abs=1e-6)
        assert head.moved == 0.0


def test_a_head_that_looks_at_itself_has_neither_entropy_nor_distance():
    (head,) = heads_of(torch.eye(T).expand(1, 1, T, T), CAUSAL)
    assert head.entropy == pytest.approx(0.0, abs=1e-6)
    assert head.keys == pytest.approx(1.0)
    assert head.distance == 0.0


def test_a_sink_takes_what_no_key_gets():
    (head,) = heads_of(0.75 * UNIFORM[:, :1], CAUSAL)
    assert head.sink == pytest.approx(0.25)
    assert head.entropy == pytest.approx(1.0)


def test_the_first_tokens_count_where_there_are_others_to_look_at():
    weights = torch.zeros(1, 1, T, T)
    weights[..., 0] = 1.0
    (head,) = heads_of(weights, CAUSAL)
    assert head.first == 1.0
    assert 0.2 < head.uniform_first < 0.5


def test_one_key_per_query_says_nothing():
    assert heads_of(torch.eye(T).expand(1, 1, T, T), torch.eye(T, dtype=torch.bool)) == []


def test_the_spread_of_scores_is_read_off_the_weights_and_forgets_what_goes_by_position():
    scores = 0.3 * torch.randn(4, 8, T, T, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_position = 5 * torch.randn(8, T, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = (scores + by_position).masked_fill(~CAUSAL, -torch.inf).softmax(-1)
    assert spread_of_scores(weights, CAUSAL) == pytest.approx(0.3, rel=0.03)


@pytest.mark.usefixtures("one_thread")
def test_every_head_of_every_layer_is_in_the_report():
    outcome = check(read_text(planted.SINKS).architecture, only=["attention-distribution"])["attention-distribution"]
    assert outcome.passed
    assert list(outcome.values["heads"]) == outcome.values["layers"] == ["layers.0"]
    assert len(outcome.values["heads"]["layers.0"]) == 4
    assert outcome.values["series"]["sink"][0] > 0


@pytest.mark.usefixtures("one_thread")
def test_sharp_heads_fail_in_a_fresh_model_and_are_a_warning_in_a_given_one():
    architecture = replace(read_text(planted.PLAIN).architecture, init=NormalInit(std=6.0))
    fresh = check(architecture, only=["attention-distribution"])["attention-distribution"]
    given = check(build(architecture), only=["attention-distribution"])["attention-distribution"]
    assert not fresh.passed
    assert "looks at one key alone" in fresh.detail
    assert given.passed
    assert "argmax" in given.warning
