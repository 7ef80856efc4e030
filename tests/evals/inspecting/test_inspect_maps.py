"""Maps are the weights that the model uses: by hand for grouped queries, rows of one for every kind, binned by sums."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.evals.inspecting import Ask, inspect
from vitruvius.evals.inspecting.influence import PROBES, influence
from vitruvius.evals.inspecting.listening import listen
from vitruvius.evals.inspecting.maps import LARGEST_SIDE, cells_of, differences, side_of
from vitruvius.evals.inspecting.subject import of_architecture
from vitruvius.nn import build
from vitruvius.spec import preset, shrink

KEEPS_A_MAP = [
    "{kind: attention, heads: 4, kv_heads: 2, sees: causal, position: rope}",
    "{kind: attention, heads: 4, kv_heads: 1, sees: causal & sliding(8), position: alibi, qk_norm: rmsnorm}",
    "{kind: attention, heads: 2, sees: 'causal & (sliding(4) | global(every=8))', position: fox}",
    "{kind: attention, heads: 2, sees: causal, position: cope}",
    "{kind: attention, heads: 2, sees: causal, position: path}",
    "{kind: attention, heads: 2, sees: causal, position: cumulative-rope, logit_cap: 20.0}",
    "{kind: attention, heads: 2, sees: causal, position: t5}",
    "{kind: mla, heads: 2, q_rank: 16, kv_rank: 16, nope_width: 8, rope_width: 8, value_width: 8, position: rope}",
    "{kind: differential, heads: 2, sees: causal, position: rope}",
]
KEEPS_NONE = ["mamba2", "gated-deltanet-hybrid", "mamba"]


def looks_of(model, tokens, source=None):
    found = []
    listen(model, tokens, source_BS=source, look=found.append)
    return found


def test_a_map_of_grouped_queries_equals_the_softmax_written_out_by_hand(small) -> None:
    model = build(small("{kind: attention, heads: 4, kv_heads: 2, sees: causal, position: null}"), dtype="fp32", seed=2)
    tokens = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))
    for look in looks_of(model.eval(), tokens):
        mixer = look.module
        width = mixer.q.weight.shape[0] // 4
        x = look.x_BTD.double()
        q = (x @ mixer.q.weight.double().T).unflatten(2, (4, width))
        k = (x @ mixer.k.weight.double().T).unflatten(2, (2, width))
        for batch in range(2):
            for head in range(4):
                scores = q[batch, :, head] @ k[batch, :, head // 2].T / width**0.5
                scores = scores.masked_fill(~torch.ones(12, 12).tril().bool(), -torch.inf)
                assert torch.allclose(look.weights_BHTS[batch, head].double(), scores.softmax(-1), atol=1e-6)


@pytest.mark.parametrize("mixer", KEEPS_A_MAP)
def test_rows_of_every_kind_of_attention_sum_to_one_and_hidden_keys_are_null(small, look, mixer) -> None:
    document = look(small(mixer))
    assert {layer["keeps"] for layer in document["layers"]} == {"attention"}
    assert all(len(layer["heads"]) > 0 for layer in document["layers"])
    for found in document["maps"]:
        for query, row in enumerate(found["cells"]):
            assert all(value is None for value in row[query + 1 :]), "later tokens are not visible"
            if found["kind"] == "attention":
                assert sum(value or 0 for value in row) == pytest.approx(1, abs=2e-4)
    json.dumps(document, allow_nan=False)


def test_a_sink_takes_what_rows_lack(small, look) -> None:
    document = look(small("{kind: attention, heads: 2, sees: causal, position: rope, sinks: off-by-one}"))
    for layer in document["layers"]:
        for head in layer["heads"]:
            assert 0.001 < head["sink"] < 0.6
    assert all(sum(value or 0 for value in row) < 1 for found in document["maps"] for row in found["cells"])


def test_the_difference_of_differential_attention_is_what_its_values_are_weighted_by(small) -> None:
    model = build(small("{kind: differential, heads: 2, sees: causal, position: null}"), dtype="fp32", seed=1).eval()
    tokens = torch.randint(64, (1, 10), generator=torch.Generator().manual_seed(0))
    for look in looks_of(model, tokens):
        mixer = look.module
        difference_HTS = differences(look)
        v_TVP = mixer.v(look.x_BTD)[0].double().unflatten(1, (mixer.groups, -1))
        mixed = torch.einsum("hts,shp->thp", difference_HTS, v_TVP.repeat_interleave(2 // mixer.groups, dim=1))
        start = look.layer.mixer.first_lambda(look.layer.index)
        expected = mixer.out((mixer.head_norm(mixed.float().unsqueeze(0)) * (1 - start)).flatten(2))
        with torch.no_grad():
            assert torch.allclose(expected, mixer.forward(look.x_BTD, look.place), atol=1e-5)


def test_listening_changes_nothing_that_is_computed_and_leaves_nothing_behind(small) -> None:
    model = build(small(KEEPS_A_MAP[2]), dtype="fp32", seed=2).eval()
    tokens = torch.randint(64, (1, 20), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    looks_of(model, tokens)
    assert torch.equal(model(tokens), before)
    assert model.backend == "auto"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_binned_rows_sum_to_what_they_summed_to(queries: int, keys: int, side: int) -> None:
    weights = torch.rand(queries, keys, generator=torch.Generator().manual_seed(queries * keys)).softmax(-1)
    cells = cells_of(weights, torch.ones(queries, keys).bool(), side=side)
    assert len(cells) <= side and all(len(row) <= side for row in cells)
    for row in cells:
        assert sum(row) == pytest.approx(1, abs=1e-5 * keys + 1e-6)


def test_a_cell_is_null_only_where_no_pair_of_it_is_visible() -> None:
    allowed = torch.ones(6, 6).tril().bool()
    cells = cells_of(allowed / allowed.sum(-1, keepdim=True), allowed, side=3)
    assert [[value is None for value in row] for row in cells] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]


def test_a_weight_that_is_no_number_is_null() -> None:
    weights = torch.tensor([[1.0, 0.0], [float("nan"), 0.5]])
    assert cells_of(weights, torch.ones(2, 2).bool(), side=2) == [[1.0, 0.0], [None, 0.5]]


def test_maps_are_binned_until_all_of_them_fit() -> None:
    assert side_of(64, 16) == 64
    assert side_of(4096, 1) == LARGEST_SIDE
    assert side_of(4096, 4096) == 16
    assert side_of(4096, 10**9) == 8


def test_a_mixer_without_a_map_shows_the_gradient_of_its_output(look) -> None:
    for name in KEEPS_NONE:
        document = look(shrink(preset(name)), tokens=12)
        without = [layer for layer in document["layers"] if layer["keeps"] == "influence"]
        assert without and all(not layer["heads"] for layer in without)
        drawn = [found for found in document["maps"] if found["kind"] == "influence"]
        assert len(drawn) == len(without)
        for found in drawn:
            for query, row in enumerate(found["cells"]):
                assert all(value is None for value in row[query + 1 :]), "a recurrence does not see the future"
                assert sum(value or 0 for value in row) == pytest.approx(1, abs=2e-4)


def test_influence_is_the_norm_of_the_jacobian_within_its_standard_error() -> None:
    model = build(shrink(preset("mamba2")), dtype="fp32", seed=0).eval()
    tokens = torch.randint(64, (1, 8), generator=torch.Generator().manual_seed(0))
    look = looks_of(model, tokens)[0]
    found, queries = influence(look, seed=0)  # pyright: ignore[reportGeneralTypeIssues]
    assert queries == list(range(8))

    def forward(x_TD):
        return look.module.forward(x_TD.unsqueeze(0), look.place, None)[0]

    jacobian = torch.autograd.functional.jacobian(forward, look.x_BTD[0])  # [T, D, S, D]
    exact = jacobian.square().sum((1, 3)).sqrt()
    seen = exact > 0
    assert torch.equal(found > 0, seen)
    ratio = (found.float() / exact)[seen]
    assert float((ratio - 1).square().mean().sqrt()) < (2 / PROBES) ** 0.5 / 2
    assert 0.85 < float(ratio.mean()) < 1.1


def test_equal_arguments_give_equal_documents(small) -> None:
    architecture = small(ffn="{kind: moe, experts: 4, top_k: 2, expert: {kind: swiglu, hidden: 16}}")
    first, second = (inspect(of_architecture(architecture), Ask(tokens=16, sample=256)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_a_layer_and_a_head_can_be_asked_for(small, look) -> None:
    document = look(small(), layer=1, head=3)
    assert [layer["path"] for layer in document["layers"]] == ["layers.1.mixer"]
    assert [head["head"] for head in document["layers"][0]["heads"]] == [3]
    assert [(found["path"], found["head"]) for found in document["maps"]] == [("layers.1.mixer", 3)]
    for options in ({"layer": 2}, {"layer": -1}, {"head": 4}, {"head": -1}):
        with pytest.raises(UsageError):
            look(small(), **options)


def test_a_diverged_model_is_looked_into_all_the_same(small, look) -> None:
    model = build(small(), dtype="fp32", seed=0).eval()
    with torch.no_grad():
        model.layers[1].mixer.q.weight.fill_(float("nan"))
    document = look(model)
    json.dumps(document, allow_nan=False)
    assert any("layers.1" in note and "NaN" in note for note in document["notes"])
    assert all(layer["heads"] for layer in document["layers"])
