"""Experts: what a router set by a rule is found to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from vitruvius.evals.inspecting.listening import Choice, listen
from vitruvius.evals.inspecting.routing import routing_facts
from vitruvius.nn import build

HASHED = "{kind: moe, experts: 4, top_k: 1, router: hash, expert: {kind: swiglu, hidden: 16}}"
CHOSEN = "{kind: moe, experts: 4, top_k: 2, router: expert-choice, expert: {kind: swiglu, hidden: 16}}"
SOFTMAX = "{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 16}}"


def test_a_hash_router_says_everything_about_the_token_and_layers_choose_alike(small, look) -> None:
    document = look(small(ffn=HASHED))
    for facts in document["experts"]:
        token = facts["information"]["token"]
        assert token["plain"] == pytest.approx(token["of_choice"], abs=1e-9)
        assert token["p"] < 0.01
        for table in facts["tables"]:
            assert all(row["share_of_token"] == 1 for row in table["frequent"])
    (pair,) = document["overlap"]
    assert pair["information"]["plain"] == pytest.approx(pair["information"]["of_choice"], abs=1e-9)


def test_a_router_that_goes_by_the_token_before_or_by_the_place_is_found_out() -> None:
    tokens = torch.randint(8, (16, 32), generator=torch.Generator().manual_seed(0))
    before = torch.cat([tokens[:, :1] * 0, tokens[:, :-1]], dim=1)
    place = torch.arange(32).expand(16, -1)
    layer = SimpleNamespace(path="layers.0", index=0, name="a")
    for expert, what in ((before % 4, "previous_token"), (place // 8, "position"), (tokens % 4, "token")):
        choice = Choice(layer=layer, chosen_NE=one_hot(expert.flatten(), 4).bool())
        (facts,) = routing_facts([[choice]], [tokens], str, seed=0)
        for name, said in facts["information"].items():
            if name == what:
                assert said["plain"] == pytest.approx(said["of_choice"], abs=1e-9)
                assert said["p"] == pytest.approx(1 / 201)
            else:
                assert abs(said["bits"]) < 0.05
                assert said["p"] > 0.005


def test_loads_add_up_and_shown_choices_are_those_of_the_text(small, look) -> None:
    document = look(small(ffn=SOFTMAX), tokens=16)
    assert len(document["experts"]) == 2
    for facts in document["experts"]:
        assert sum(facts["load_share"]) == pytest.approx(1)
        assert facts["per_token"] == 2
        assert sum(table["load"] for table in facts["tables"]) == 2 * facts["tokens"]
        assert len(facts["shown"]) == 16
        assert all(len(row) == 2 for row in facts["shown"])


def test_the_choices_are_those_of_the_pass(small) -> None:
    model = build(small(ffn=SOFTMAX), dtype="fp32", seed=0).eval()
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    found = listen(model, tokens).choices
    assert [choice.layer.path for choice in found] == ["layers.0", "layers.1"]
    assert all(choice.chosen_NE.shape == (18, 4) and (choice.chosen_NE.sum(1) == 2).all() for choice in found)


def test_experts_that_choose_their_tokens_leave_some_without(small, look) -> None:
    everything = "{kind: attention, heads: 2, sees: everything, position: rope}"
    document = look(small(everything, CHOSEN, head="mlm"))
    for facts in document["experts"]:
        assert facts["load_cv"] == pytest.approx(0, abs=1e-9), "each takes as many"
        assert 0 <= facts["unrouted_share"] < 1


def test_one_layer_can_be_looked_at_alone(small, look) -> None:
    document = look(small(ffn=SOFTMAX), layer=1)
    assert [facts["path"] for facts in document["experts"]] == ["layers.1"]
    assert document["overlap"] == []
