"""Scalings, partial and interleaved rotation, layers without positions and T5's biases, as Hugging Face has them."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest
import torch
from twins import LAYER, LLAMA_NAMES, SAME, TOKENS, Twin, logits_of_both

from vitruvius.nn import build
from vitruvius.nn.positions.t5 import T5PositionModule
from vitruvius.spec import read_text
from vitruvius.spec.node import Heads, Scope
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.positions.scalings import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NtkScaling,
    YarnScaling,
)
from vitruvius.spec.positions.t5 import T5Position

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SHORT = tuple(1 + 0.05 * i for i in range(16))
LONG = tuple(1 + 0.4 * i for i in range(16))
LONGROPE = LongRopeScaling(short_factor=SHORT, long_factor=LONG, original_context=128)

PUBLISHED = {
    "linear": (LinearScaling(factor=8.0), {"rope_type": "linear", "factor": 8.0}, None),
    # Of dynamic NTK: with a factor of 1 the base is theta x (length / trained length)^(d / (d - 2)).
    "ntk": (NtkScaling(factor=8.0), {"rope_type": "dynamic", "factor": 1.0}, 8 * 1024),
    "llama3": (
        Llama3Scaling(factor=8.0, original_context=256),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
        None,
    ),
    "yarn": (
        YarnScaling(factor=8.0, original_context=128),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128},
        None,
    ),
    "longrope, long": (
        LONGROPE.for_context(1024),
        {
            "rope_type": "longrope",
            "short_factor": list(SHORT),
            "long_factor": list(LONG),
            "original_max_position_embeddings": 128,
        },
        129,
    ),
    "longrope, short": (
        replace(LONGROPE, factor=8.0).for_context(128),
        {
            "rope_type": "longrope",
            "short_factor": list(SHORT),
            "long_factor": list(LONG),
            "original_max_position_embeddings": 128,
        },
        128,
    ),
}
"""Ours, theirs for a model of 1,024 tokens, and the length at which they are asked."""


def _theirs(parameters, head_width, fraction, length):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=2 * head_width,
        num_attention_heads=2,
        head_dim=head_width,
        max_position_embeddings=1024,
        rope_parameters={"rope_theta": 10_000.0, "partial_rotary_factor": fraction, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"), seq_len=length)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("scaling", PUBLISHED)
def test_a_scaling_gives_the_published_frequencies_and_attention_factor(scaling, fraction):
    ours, parameters, length = PUBLISHED[scaling]
    head_width = round(32 / fraction)
    frequencies, factor = _theirs(parameters, head_width, fraction, length)
    rope = RotaryPosition(scaling=ours, fraction=fraction)
    assert rope.frequencies(head_width) == pytest.approx(frequencies.tolist(), rel=2e-6)
    assert rope.attention_factor == pytest.approx(factor, rel=1e-12)


def test_ntk_slows_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all():
    plain, scaled = RotaryPosition().frequencies(64), RotaryPosition(scaling=NtkScaling(factor=8.0)).frequencies(64)
    assert scaled[0] == plain[0] == 1.0
    assert scaled[-1] == pytest.approx(plain[-1] / 8)
    ratios = [before / after for before, after in zip(plain, scaled, strict=True)]
    assert ratios == sorted(ratios)


def test_longrope_chooses_its_list_by_the_context_that_is_declared():
    plain = RotaryPosition().frequencies(32)
    for context, expected in ((64, SHORT), (128, SHORT), (129, LONG), (4096, LONG)):
        rope = RotaryPosition(scaling=LONGROPE).in_context(context)
        assert rope.frequencies(32) == pytest.approx([f / own for f, own in zip(plain, expected, strict=True)])
        stretched = sqrt(1 + log(context / 128) / log(128)) if context > 128 else 1.0
        assert rope.attention_factor == pytest.approx(stretched)


# ---------------------------------------------------------------------------------------------------------- models

HEAD = """
name: twin
vocab_size: 61
width: 64
context: 64
"""

STABLELM = Twin(
    spec=HEAD
    + """
norm: layernorm
blocks:
  layer:
    mixer: {kind: attention, heads: 4, kv_heads: 2, position: {kind: rope, theta: 1e4, fraction: 0.25}}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*2
""",
    config=lambda: transformers.StableLmConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        attn_implementation="eager",
    ),
    model="StableLmForCausalLM",
    names=(
        (r"final_norm\.(weight|bias)", r"model.norm.\1"),
        (LAYER + r"mixer_norm\.(weight|bias)", r"model.layers.\1.input_layernorm.\2"),
        (LAYER + r"ffn_norm\.(weight|bias)", r"model.layers.\1.post_attention_layernorm.\2"),
        *LLAMA_NAMES,
    ),
)

SMOLLM3 = Twin(
    spec=HEAD
    + """
blocks:
  rotary:
    mixer: {kind: attention, heads: 4, kv_heads: 2, position: {kind: rope, theta: 5e6}}
    ffn: {kind: swiglu, hidden: 48}
  nope: {extends: rotary, mixer: {position: none}}
layers: rotary*3 nope rotary
""",
    config=lambda: transformers.SmolLM3Config(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        no_rope_layer_interval=4,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
        attn_implementation="eager",
    ),
    model="SmolLM3ForCausalLM",
    names=LLAMA_NAMES,
)


def phi3(context: int) -> Twin:
    short, long = [1.0, 1.1, 1.2, 1.3], [1.0, 2.0, 3.0, 4.5]
    return Twin(
        spec=HEAD.replace("context: 64", f"context: {context}")
        + f"""
blocks:
  layer:
    mixer:
      kind: attention
      heads: 4
      kv_heads: 2
      position:
        kind: rope
        fraction: 0.5
        scaling: {{kind: longrope, short_factor: {short}, long_factor: {long}, original_context: 60, factor: 8}}
    ffn: {{kind: swiglu, hidden: 48}}
layers: layer*2
""",
        config=lambda: transformers.Phi3Config(
            vocab_size=61,
            hidden_size=64,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=480,
            original_max_position_embeddings=60 if context == 60 else 59,
            pad_token_id=0,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "short_factor": short,
                "long_factor": long,
                # A sequence of 60 tokens is short to the one and long to the other.
                "original_max_position_embeddings": 60 if context == 60 else 59,
                "attention_factor": sqrt(1 + log(8) / log(60)),
            },
            attn_implementation="eager",
        ),
        model="Phi3ForCausalLM",
        names=(
            (LAYER + r"mixer\.(?:q|k|v)\.weight", r"model.layers.\1.self_attn.qkv_proj.weight"),
            (LAYER + r"ffn\.(?:gate|up)\.weight", r"model.layers.\1.mlp.gate_up_proj.weight"),
            *LLAMA_NAMES,
        ),
    )


@pytest.mark.parametrize(
    "twin",
    [STABLELM, SMOLLM3, phi3(60), phi3(480)],
    ids=["stablelm turns a quarter", "smollm3 skips every fourth", "phi3, short list", "phi3, long list"],
)
def test_it_gives_the_same_logits(twin):
    ours, theirs = logits_of_both(twin)
    assert (ours - theirs).abs().max() < SAME


def test_the_comparison_can_tell_the_two_lists_apart():
    ours, theirs = logits_of_both(replace(phi3(60), config=phi3(480).config))
    assert (ours - theirs).abs().max() > 100 * SAME


MAPS = ("q", "k", "v", "out")


def test_gptj_turns_neighbouring_channels():
    spec = """
name: gptj
vocab_size: 61
width: 64
context: 64
norm: layernorm
blocks:
  layer:
    order: parallel-one-norm
    mixer: {kind: attention, heads: 4, position: {kind: rope, fraction: 0.5, pairing: PAIRING}}
    ffn: {kind: mlp, hidden: 96, activation: gelu_tanh, bias: true}
layers: layer*2
"""
    theirs = transformers.GPTJForCausalLM(
        transformers.GPTJConfig(vocab_size=61, n_embd=64, n_layer=2, n_head=4, n_inner=96, n_positions=64, rotary_dim=8)
    )
    theirs = theirs.double().eval()
    theirs.lm_head.bias.data.zero_()  # ours has none
    names = {
        "embedding.tokens": "transformer.wte",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
        **{
            f"layers.{i}.mixer.{w}": f"transformer.h.{i}.attn.{w}_proj"
            for i in range(2)
            for w in ("q", "k", "v", "out")
        },
        **{f"layers.{i}.mixer_norm": f"transformer.h.{i}.ln_1" for i in range(2)},
        **{f"layers.{i}.ffn.up": f"transformer.h.{i}.mlp.fc_in" for i in range(2)},
        **{f"layers.{i}.ffn.down": f"transformer.h.{i}.mlp.fc_out" for i in range(2)},
    }
    state = theirs.state_dict()
    gaps = {}
    for pairing in ("interleaved", "halves"):
        ours = build(read_text(spec.replace("PAIRING", pairing)).architecture, dtype="fp64", seed=5)
        with torch.no_grad():
            for name, parameter in ours.named_parameters():
                module, _, end = name.rpartition(".")
                parameter.copy_(state[f"{names[module]}.{end}"] * (3 if parameter.dim() == 2 else 1))
                state[f"{names[module]}.{end}"].copy_(parameter)
            gaps[pairing] = (ours(TOKENS) - theirs(TOKENS).logits).abs().max().item()
    assert gaps["interleaved"] < SAME
    assert gaps["halves"] > 100 * SAME


# -------------------------------------------------------------------------------------------------------------- T5


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (32, 64), (16, 20), (6, 1000), (64, 4096)])
@pytest.mark.parametrize("direction", ["causal", "both"])
def test_t5_classes_are_theirs_at_every_distance(direction, buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    positions = torch.arange(1500)
    spec = T5Position(buckets=buckets, farthest=farthest, direction=direction)
    module = T5PositionModule(
        spec,
        Heads(queries=2, groups=2, width=8),
        Scope(width=16, vocab_size=61, context=64, depth=1),
        {"device": torch.device("cpu"), "dtype": torch.float64},
    )
    for query in (0, 700, 1499):
        theirs = T5Attention._relative_position_bucket(
            positions - query, bidirectional=direction == "both", num_buckets=buckets, max_distance=farthest
        )
        assert torch.equal(module.table_bias().index(torch.tensor([query]), positions)[0], theirs)


@pytest.mark.parametrize("direction", ["causal", "both"])
def test_a_t5_table_adds_the_bias_that_theirs_computes(direction):
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(d_model=16, d_kv=8, num_heads=2, is_decoder=direction == "causal")
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    theirs.relative_attention_bias.weight.data.normal_()
    module = T5PositionModule(
        T5Position(direction=direction),
        Heads(queries=2, groups=2, width=8),
        Scope(width=16, vocab_size=61, context=64, depth=1),
        {"device": torch.device("cpu"), "dtype": torch.float32},
    )
    module.weight.data.copy_(theirs.relative_attention_bias.weight)
    positions = torch.arange(300)
    assert torch.equal(module.table_bias().dense(positions, positions), theirs.compute_bias(300, 300)[0])
