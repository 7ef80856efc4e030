"""Wider and deeper: what grows, what stays, and what each tensor is to a parametrisation."""

from __future__ import annotations

import pytest

from vitruvius.spec import ensure, preset, preset_names, resolve
from vitruvius.spec.widen import deepen, weights, widen


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("change", [widen, deepen])
def test_every_preset_can_be_made_wider_and_deeper(name, change):
    architecture = preset(name)
    before, after = ensure(architecture), ensure(change(architecture, 3))
    wider = 3 if change is widen else 1
    assert after.scope.width == before.scope.width * wider
    assert len(after.layers) == len(before.layers) * (3 // wider)
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers] * (3 // wider)


def test_widening_adds_heads_and_hidden_channels_and_neither_experts_nor_layers():
    wide = widen(preset("tiny-llama-moe"), 2)
    before, after = preset("tiny-llama-moe").blocks["moe"], wide.blocks["moe"]
    assert (after.mixer.heads, after.mixer.kv_heads) == (before.mixer.heads * 2, before.mixer.kv_heads * 2)
    assert after.ffn.expert.hidden == before.ffn.expert.hidden * 2
    assert (after.ffn.experts, after.ffn.top_k) == (before.ffn.experts, before.ffn.top_k)
    assert after.mixer.width_of_head(resolve(wide).scope) == 32
    assert widen(wide, 1) == wide


@pytest.mark.parametrize("name", preset_names())
def test_matrices_are_hidden_and_convolutions_and_maps_to_logits_are_not(name):
    for where, weight in weights(resolve(preset(name))).items():
        maps = weight.tensor.role in {"matrix", "output"} and "conv" not in where and where != "head.weight"
        assert (weight.width_class == "hidden") == maps, where
        assert weight.is_hidden_matrix == (maps and weight.part == "layer"), where


def test_maps_through_a_rank_that_stays_are_told_from_those_through_one_that_grows():
    for rank, down, up in (("", "readout", "vector"), (", rank: 16", "hidden", "hidden")):
        mixer = f"blocks.layer.mixer={{kind: kda, heads: 4{rank}}}"
        found = weights(resolve(preset("tiny-llama", overrides=[mixer])))
        classes = [found[f"layers.0.mixer.decay_{which}.weight"].width_class for which in ("down", "up")]
        assert classes == [down, up]


def test_routers_and_heads_read_out_and_tables_gains_and_biases_are_vectors():
    found = weights(resolve(preset("tiny-llama-moe", overrides=["head.tied=false"])))
    assert found["layers.1.ffn.router.weight"].width_class == "readout"
    assert not found["layers.1.ffn.router.weight"].is_head_readout
    assert found["head.weight"].is_head_readout
    for name in ("embedding.tokens.weight", "final_norm.weight", "layers.0.mixer.q_norm.weight"):
        assert found[name].width_class == "vector"


def test_stacked_lines_grow_deeper_together():
    architecture = preset(
        "tiny-llama",
        overrides=[
            "layers=[a*2, b*2]",
            "blocks={a: {mixer: {kind: attention, heads: 4}}, b: {ffn: {kind: mlp, hidden: 8}}}",
        ],
    )
    assert [layer.name for layer in resolve(deepen(architecture, 2)).layers] == ["a/b"] * 4
