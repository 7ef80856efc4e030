"""muP and CompleteP: equal to the standard parametrisation at their base, scaled as published away from it."""

from __future__ import annotations

from math import sqrt

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import ensure, preset, resolve
from vitruvius.spec.inits import NormalInit
from vitruvius.spec.parametrisations import CompleteP, MuP
from vitruvius.spec.widen import weights

MOE = preset(
    "tiny-llama-moe", overrides=["head.tied=false", "blocks.moe.ffn.shared_expert={kind: mlp, hidden: 16, bias: true}"]
)
"""Width 128, four layers, head width 32."""
MU = MuP(base_width=32, base_head_width=32)
COMPLETE = CompleteP(base_width=32, base_depth=2, base_head_width=32)
NAMES = {
    "table": "embedding.tokens.weight",
    "hidden": "layers.0.mixer.q.weight",
    "output": "layers.0.mixer.out.weight",
    "expert": "layers.1.ffn.experts.up_weight",
    "router": "layers.1.ffn.router.weight",
    "gain": "layers.0.mixer_norm.weight",
    "bias": "layers.1.ffn.shared_expert.up.bias",
    "head gain": "layers.0.mixer.q_norm.weight",
    "final gain": "final_norm.weight",
    "readout": "head.weight",
}


@pytest.fixture(scope="module")
def graph():
    return resolve(MOE)


@pytest.fixture(scope="module")
def placed(graph):
    found = weights(graph)
    return {short: found[name] for short, name in NAMES.items()}


def table(method, placed, graph):
    return {short: method(weight, graph.scope) for short, weight in placed.items()}


@pytest.mark.parametrize(
    "init",
    [
        MuP(base_width=128, base_head_width=32),
        MuP(base_width=128, base_head_width=32, residual="scaled"),
        CompleteP(base_width=128, base_depth=4, base_head_width=32),
        CompleteP(base_width=128, base_depth=4, base_head_width=32, residual="scaled"),
    ],
)
def test_at_its_base_a_parametrisation_is_the_standard_one(init, graph):
    normal = NormalInit(residual=init.residual)
    for weight in weights(graph).values():
        if weight.tensor.role not in {"gain", "bias"}:
            assert init.std_of(weight, graph.scope) == normal.std_of(weight, graph.scope)
        for scale in (init.learning_rate_scale, init.weight_decay_scale, init.eps_scale):
            assert scale(weight, graph.scope) == 1.0
    assert init.attention_scale(32) == normal.attention_scale(32)
    assert init.logit_scale(128) == init.branch_scale(4) == 1.0


@pytest.mark.parametrize("init", [MU, COMPLETE])
def test_at_four_times_the_width_hidden_variance_falls_by_four_and_that_of_routers_by_sixteen(init, placed, graph):
    drawn = {short: weight for short, weight in placed.items() if weight.tensor.role not in {"gain", "bias"}}
    halved = dict.fromkeys(("hidden", "output", "expert"), 0.01)
    assert table(init.std_of, drawn, graph) == {"table": 0.02, "router": 0.005, "readout": 0.02, **halved}


@pytest.mark.parametrize("init", [MU, COMPLETE])
def test_learning_rates_fall_with_the_width_for_maps_that_read_the_stream_alone(init, placed, graph):
    found = table(init.learning_rate_scale, placed, graph)
    assert {short for short, scale in found.items() if scale != 1} == {"hidden", "output", "expert", "router"}
    assert set(found.values()) == {1.0, 0.25}


def test_mup_leaves_decay_and_eps_alone_and_completep_scales_them(placed, graph):
    assert set(table(MU.weight_decay_scale, placed, graph).values()) == {1.0}
    assert set(table(MU.eps_scale, placed, graph).values()) == {1.0}
    decay = table(COMPLETE.weight_decay_scale, placed, graph)
    rate = table(COMPLETE.learning_rate_scale, placed, graph)
    assert all(decay[short] * rate[short] == 1.0 for short in placed)
    inside = dict.fromkeys(("hidden", "output", "expert", "gain", "bias"), 1 / 4 / 2)
    outside = dict.fromkeys(("table", "final gain", "readout"), 1 / 4)
    # Gradients of a router, and of a gain that all heads share, are sums over the width: they do not shrink with it.
    shared = dict.fromkeys(("router", "head gain"), 1 / 2)
    assert table(COMPLETE.eps_scale, placed, graph) == {**inside, **outside, **shared}


def test_scores_are_divided_by_the_head_width_and_logits_by_the_width():
    for init in (MU, COMPLETE):
        assert init.attention_scale(32) == pytest.approx(1 / sqrt(32))
        assert init.attention_scale(128) == pytest.approx(init.attention_scale(32) / 4)
        assert init.logit_scale(256) == 1 / 8
    assert MuP(base_width=1).attention_scale(80) == pytest.approx(8 / 80)


def test_only_completep_scales_sublayers_and_by_the_whole_depth():
    assert MU.branch_scale(64) == 1.0
    assert [COMPLETE.branch_scale(depth) for depth in (2, 4, 64)] == [1.0, 0.5, 1 / 32]


@pytest.mark.parametrize("text", ["mup", "{kind: mup, base_width: 0}", "{kind: completep, base_width: 64}"])
def test_a_parametrisation_without_its_base_is_refused(text):
    with pytest.raises(SpecError, match="base_"):
        ensure(preset("tiny-llama", overrides=[f"init={text}"]))
