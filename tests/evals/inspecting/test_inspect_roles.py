"""Roles of heads: heads set by hand get theirs, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_heads import FIRST_LAYER, planted

from vitruvius.errors import UsageError
from vitruvius.evals.inspecting.roles import (
    ROLES,
    Thresholds,
    repeated_tokens,
    scores_on_repeats,
    scores_on_text,
)


@pytest.fixture(scope="module")
def model():
    return planted()


def roles_of(document):
    return {(layer["path"], head["head"]): head["role"] for layer in document["layers"] for head in layer["heads"]}


def test_heads_set_by_hand_get_their_role_and_no_other_head_gets_it(model, look) -> None:
    document = look(model, tokens=64, sample=512)
    found = roles_of(document)
    for head, role in enumerate(FIRST_LAYER):
        assert found.pop(("layers.0.mixer", head)) == role
    assert found.pop(("layers.1.mixer", 0)) == "induction"
    assert set(found.values()) == {"broad"}, "heads whose queries are zero look at everything alike"


def test_a_planted_score_is_what_the_head_was_set_to(model, look) -> None:
    document = look(model, tokens=64, sample=512)
    scores = {(layer["path"], head["head"]): head["scores"] for layer in document["layers"] for head in layer["heads"]}
    assert scores["layers.0.mixer", 0]["previous"] == pytest.approx(1, abs=1e-6)
    assert scores["layers.0.mixer", 0]["positional"] > 0.95  # the first queries see few keys
    assert scores["layers.0.mixer", 1]["first"] == pytest.approx(1, abs=1e-6)
    assert scores["layers.0.mixer", 2]["duplicate"] == pytest.approx(1, abs=1e-6)
    uniform = sum(1 / (query + 1) for query in range(24, 48)) / 24
    # Nothing stands before the first token, so layer 0 hands on its own: in one of 24 cases two keys match.
    assert scores["layers.1.mixer", 0]["induction"] == pytest.approx((23.5 / 24 - uniform) / (1 - uniform), abs=1e-6)
    assert scores["layers.0.mixer", 3]["broad"] == pytest.approx(1, abs=1e-9)
    assert scores["layers.0.mixer", 0]["induction"] < 1e-6
    assert scores["layers.1.mixer", 0]["previous"] < 0.2


def test_a_head_without_a_role_is_said_to_have_none(model, look) -> None:
    strict = Thresholds(broad=1.0, local=0.001)
    document = look(model, tokens=64, sample=512, thresholds=strict, layer=1)
    found = roles_of(document)
    assert found["layers.1.mixer", 0] == "induction"
    weights = torch.rand(2, 1, 32, 32, dtype=torch.float64).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    (facts,) = scores_on_text(weights, torch.ones(32, 32).tril().bool(), separators_BS=None, crossing=False)
    assert Thresholds().roles_of(facts.scores) == []


def test_uniform_weights_are_broad_and_nothing_else() -> None:
    allowed = torch.ones(48, 48).tril().bool()
    weights = (allowed.double() / allowed.sum(-1, keepdim=True)).expand(2, 3, -1, -1)
    for facts in scores_on_text(weights, allowed, separators_BS=None, crossing=False):
        assert Thresholds().roles_of(facts.scores) == ["broad"]
        assert facts.scores["positional"] == 0
        assert facts.scores["local"] == pytest.approx(1)


@given(st.integers(0, 4), st.integers(24, 48))
def test_a_head_that_looks_a_fixed_distance_back_is_positional(distance: int, length: int) -> None:
    allowed = torch.ones(length, length).tril().bool()
    place = torch.arange(length)
    weights = torch.zeros(1, 1, length, length)
    weights[0, 0, place, (place - distance).clamp(min=0)] = 1
    (facts,) = scores_on_text(weights, allowed, separators_BS=None, crossing=False)
    assert facts.scores["positional"] > 0.6
    assert (facts.scores["current"] > 0.99) == (distance == 0)
    assert (facts.scores["previous"] > 0.99) == (distance == 1)


def test_a_separator_score_is_what_goes_beyond_uniform_weights() -> None:
    allowed = torch.ones(32, 32).tril().bool()
    marked = torch.zeros(1, 32, dtype=torch.bool)
    marked[0, ::2] = True
    uniform = allowed.double() / allowed.sum(-1, keepdim=True)
    on_marks = (allowed & marked).double()
    on_marks = on_marks / on_marks.sum(-1, keepdim=True)
    weights = torch.stack([uniform, on_marks]).unsqueeze(0)
    even, sharp = scores_on_text(weights, allowed, separators_BS=marked, crossing=False)
    assert even.scores["separator"] == pytest.approx(0, abs=1e-12)
    assert sharp.scores["separator"] == pytest.approx(1)


@given(st.integers(2, 12))
def test_in_a_narrow_window_uniform_weights_look_at_nothing_in_particular(width: int) -> None:
    place = torch.arange(48)
    apart = place.unsqueeze(1) - place
    allowed = (apart >= 0) & (apart < width)
    weights = (allowed.double() / allowed.sum(-1, keepdim=True)).expand(1, 1, -1, -1)
    (facts,) = scores_on_text(weights, allowed, separators_BS=None, crossing=False)
    for name in ("first", "previous", "current"):
        assert facts.scores[name] is None or abs(facts.scores[name]) < 1e-12
    assert Thresholds().roles_of(facts.scores) == ["broad"]


def test_what_a_window_does_not_reach_has_no_score() -> None:
    place = torch.arange(48)
    apart = place.unsqueeze(1) - place
    allowed = (apart >= 0) & (apart < 8)
    weights = (allowed.double() / allowed.sum(-1, keepdim=True)).expand(1, 1, -1, -1)
    assert scores_on_repeats(weights, allowed) == {"induction": [None], "duplicate": [None]}


def test_repeated_rows_hold_no_token_twice_in_a_half_and_are_the_same_for_the_same_seed() -> None:
    ids = torch.arange(100, 160)
    rows = repeated_tokens(ids, rows=5, length=24, seed=3)
    assert torch.equal(rows[:, :24], rows[:, 24:])
    assert all(len(set(row[:24].tolist())) == 24 for row in rows)
    assert torch.equal(rows, repeated_tokens(ids, rows=5, length=24, seed=3))
    assert not torch.equal(rows, repeated_tokens(ids, rows=5, length=24, seed=4))


def test_every_role_has_a_threshold_a_definition_and_a_source() -> None:
    for role in ROLES:
        assert 0 < getattr(Thresholds(), role.name) <= 1
        assert role.score and role.source


@pytest.mark.parametrize(
    "pairs", [{"previous": "0"}, {"first": "2"}, {"broad": "much"}, {"sleepy": "0.5"}, {"next": "nan"}]
)
def test_thresholds_that_mean_nothing_are_refused(pairs) -> None:
    with pytest.raises(UsageError):
        Thresholds.parse(pairs)
