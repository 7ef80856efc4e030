"""The one derivation: layers with every default filled in, their tensors, costs and cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import Architecture, Block, preset, preset_names, read_text, resolve
from vitruvius.spec.ffn.mlp import Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.norms import LayerNorm, RMSNorm

ARCHITECTURE = Architecture(
    name="graph",
    vocab_size=50,
    width=32,
    context=64,
    blocks={
        "a": Block(mixer=Attention(heads=4, kv_heads=2), ffn=SwiGLU(hidden=16)),
        "b": Block(mixer=Attention(heads=4, sees="causal & sliding(8)"), norm=LayerNorm(), norm_place="post"),
    },
    layers="a*2 b^2",
)


def test_every_default_is_filled_in():
    graph = resolve(ARCHITECTURE)
    assert [layer.name for layer in graph.layers] == ["a", "a", "b", "b"]
    assert [layer.norm for layer in graph.layers] == [RMSNorm(), RMSNorm(), LayerNorm(), LayerNorm()]
    assert [layer.norm_place for layer in graph.layers] == ["pre", "pre", "post", "post"]
    assert graph.scope.depth == 4


@pytest.mark.parametrize(
    ("place", "norms", "final"),
    [
        ("pre", ["mixer_norm", "ffn_norm"], True),
        ("post", ["mixer_norm", "ffn_norm"], False),
        ("output", ["mixer_norm", "ffn_norm"], True),
        ("sandwich", ["mixer_norm", "mixer_out_norm", "ffn_norm", "ffn_out_norm"], True),
        ("none", [], False),
    ],
)
def test_each_place_of_norms_has_its_own_and_the_stream_ends_normalised_wherever_there_are_norms(place, norms, final):
    block = Block(mixer=Attention(heads=4), ffn=SwiGLU(hidden=16), norm_place=place)
    graph = resolve(replace(ARCHITECTURE, blocks={"a": block}, layers="a"))
    assert [name.split(".")[0] for name in graph.layers[0].tensors() if "norm" in name] == norms
    assert (graph.final_norm is not None) == final
    assert ("final_norm.weight" in graph.tensors()) == final


GEMMA_3_4B = """
name: gemma-3-4b
vocab_size: 262144
width: 2560
context: 131072
embedding: {scale: sqrt(width)}
head: {kind: lm, tied: true}
blocks:
  local:
    norm: {kind: rmsnorm, eps: 1e-6, gain: 1 + weight}
    norm_place: sandwich
    mixer: {kind: attention, heads: 8, kv_heads: 4, head_width: 256, qk_norm: rmsnorm, sees: causal & sliding(1024), position: {kind: rope, theta: 1e4}}
    ffn: {kind: geglu, hidden: 10240}
  global: {extends: local, mixer: {sees: causal, position: {theta: 1e6, scaling: {kind: linear, factor: 8}}}}
layers: (local*5 global)*5 local*4
"""  # noqa: E501


def test_gemma_3_4b_reads_as_its_report_describes_it_and_has_its_3_880_099_328_parameters():
    graph = resolve(read_text(GEMMA_3_4B).architecture)
    assert sum(tensor.count for tensor in graph.tensors().values()) == 3_880_099_328
    assert [i for i, layer in enumerate(graph.layers) if layer.name == "global"] == [5, 11, 17, 23, 29]
    assert {layer.norm_place for layer in graph.layers} == {"sandwich"}


def test_a_star_repeats_with_new_weights_and_a_caret_with_the_same():
    layers = resolve(ARCHITECTURE).layers
    assert [layer.weights for layer in layers] == [0, 1, 2, 2]
    assert [layer.owns_weights for layer in layers] == [True, True, True, False]


def test_shared_weights_are_counted_once_and_cached_and_paid_for_each_time():
    once, twice = resolve(replace(ARCHITECTURE, layers="b")), resolve(replace(ARCHITECTURE, layers="b^2"))
    assert once.tensors().keys() == twice.tensors().keys()
    assert len(twice.states(16)) == 2 * len(once.states(16))
    head = ARCHITECTURE.head.flops(once.scope, 16).useful
    assert twice.flops(16).useful - head == 2 * (once.flops(16).useful - head)


def test_stacked_lines_merge_blocks_that_set_different_fields():
    stacked = replace(
        ARCHITECTURE,
        blocks={"m": Block(mixer=Attention(heads=2)), "f": Block(ffn=Mlp(hidden=8)), "g": Block(ffn=SwiGLU(hidden=8))},
        layers=["m*3", "(f g f)"],
    )
    layers = resolve(stacked).layers
    assert [layer.name for layer in layers] == ["m/f", "m/g", "m/f"]
    assert all(layer.mixer == Attention(heads=2) for layer in layers)
    assert [type(layer.ffn) for layer in layers] == [Mlp, SwiGLU, Mlp]


def test_stacked_blocks_that_set_one_field_twice_are_refused_by_name():
    with pytest.raises(SpecError, match="a and a both set ffn, mixer"):
        resolve(replace(ARCHITECTURE, layers=["a", "a"]))


def test_a_final_norm_stands_after_pre_norm_blocks_only():
    assert resolve(replace(ARCHITECTURE, layers="b a")).final_norm == RMSNorm()
    assert resolve(replace(ARCHITECTURE, layers="a b")).final_norm is None


def test_tensors_are_named_like_the_modules_parameters():
    names = list(resolve(replace(ARCHITECTURE, layers="a")).tensors())
    assert names == [
        "embedding.tokens.weight",
        "layers.0.mixer_norm.weight",
        *(f"layers.0.mixer.{part}.weight" for part in ("q", "k", "v", "out")),
        "layers.0.ffn_norm.weight",
        *(f"layers.0.ffn.{part}.weight" for part in ("gate", "up", "down")),
        "final_norm.weight",
        "head.weight",
    ]


def test_a_mixture_uses_a_share_of_its_experts():
    mixture = Moe(experts=8, top_k=2, expert=SwiGLU(hidden=16))
    graph = resolve(replace(ARCHITECTURE, blocks={"a": Block(ffn=mixture)}, layers="a"))
    up = graph.tensors()["layers.0.ffn.experts.up_weight"]
    assert up.shape == (8, 16, 32)
    assert up.active * 4 == up.count


def test_useful_flops_count_the_pairs_of_the_pattern_and_dense_ones_all():
    graph = resolve(replace(ARCHITECTURE, layers="b"))
    maps, pairs = 2 * 4 * 32 * 32, sum(min(i + 1, 8) for i in range(64))
    head = 2 * 50 * 32
    assert graph.flops(64).useful == 64 * (maps + head) + 4 * 32 * pairs
    assert graph.flops(64).dense == 64 * (maps + head) + 4 * 32 * 64 * 64


def test_a_window_caches_no_more_than_itself():
    (shapes,) = resolve(replace(ARCHITECTURE, layers="b")).states(64)
    assert {name: kept.shape for name, kept in shapes.items()} == {"mixer.k": (4, 8, 8), "mixer.v": (4, 8, 8)}


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_layers_are_walked_alike_by_everyone(name):
    graph = resolve(preset(name))
    assert len(graph.states(16)) == len(list(graph.every_layer()))
    assert len(graph.layers) == graph.scope.depth
    assert graph.flops(16).useful <= graph.flops(16).dense
    assert all(tensor.count > 0 for tensor in graph.tensors().values())
