"""Our weights in Hugging Face's models give the same logits: rotary layout, scalings, norms, routing.

Both sides run in fp64, so that only a different formula can tell them apart.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from twins import LAYER, LLAMA_NAMES, SAME, Twin, logits_of_both

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

GPT2_NAMES = (
    (r"embedding\.tokens\.weight", "transformer.wte.weight"),
    (r"embedding\.position\.weight", "transformer.wpe.weight"),
    (r"final_norm\.(weight|bias)", r"transformer.ln_f.\1"),
    (LAYER + r"mixer\.(?:q|k|v)\.(weight|bias)", r"transformer.h.\1.attn.c_attn.\2"),
    (LAYER + r"mixer\.out\.(weight|bias)", r"transformer.h.\1.attn.c_proj.\2"),
    (LAYER + r"mixer_norm\.(weight|bias)", r"transformer.h.\1.ln_1.\2"),
    (LAYER + r"ffn_norm\.(weight|bias)", r"transformer.h.\1.ln_2.\2"),
    (LAYER + r"ffn\.up\.(weight|bias)", r"transformer.h.\1.mlp.c_fc.\2"),
    (LAYER + r"ffn\.down\.(weight|bias)", r"transformer.h.\1.mlp.c_proj.\2"),
)


def llama_config(**changes):
    return transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        **({"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}} | changes),
    )


LLAMA_SPEC = """
name: llama
vocab_size: 61
width: 32
context: 64
blocks:
  layer:
    mixer: {kind: attention, heads: 4, kv_heads: 2, sees: causal, position: POSITION}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*2
"""

POSITIONS = {
    "plain": ("{kind: rope, theta: 1e4}", {"rope_type": "default"}),
    "linear": ("{kind: rope, theta: 1e4, scaling: {kind: linear, factor: 4}}", {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        "{kind: rope, theta: 1e4, scaling: {kind: llama3, factor: 8, original_context: 16}}",
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "yarn": (
        "{kind: rope, theta: 1e4, scaling: {kind: yarn, factor: 4, original_context: 16, fast: 2, slow: 0.1}}",
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 2.0,
            "beta_slow": 0.1,
        },
    ),
    "yarn with its defaults": (
        "{kind: rope, theta: 1e4, scaling: {kind: yarn, factor: 2, original_context: 32}}",
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    ),
}


def llama(position: str) -> Twin:
    ours, theirs = POSITIONS[position]
    return Twin(
        spec=LLAMA_SPEC.replace("POSITION", ours),
        config=lambda: llama_config(rope_parameters={"rope_theta": 10_000.0, **theirs}),
        model="LlamaForCausalLM",
        names=LLAMA_NAMES,
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_llama_gives_the_same_logits(position):
    ours, theirs = logits_of_both(llama(position))
    assert (ours - theirs).abs().max() < SAME


def test_the_comparison_can_tell_scalings_apart():
    wrong = replace(llama("llama3"), config=llama("linear").config)
    ours, theirs = logits_of_both(wrong)
    assert (ours - theirs).abs().max() > 100 * SAME


GPT2 = Twin(
    spec="""
name: gpt2
vocab_size: 61
width: 32
context: 64
embedding: {position: learned}
norm: layernorm
head: {kind: lm, tied: true}
blocks:
  layer:
    mixer: {kind: attention, heads: 4, bias: all}
    ffn: {kind: mlp, hidden: 96, activation: gelu_tanh, bias: true}
layers: layer*2
""",
    config=lambda: transformers.GPT2Config(
        vocab_size=61, n_embd=32, n_inner=96, n_layer=2, n_head=4, n_positions=64, attn_implementation="eager"
    ),
    model="GPT2LMHeadModel",
    names=GPT2_NAMES,
)

MIXTRAL = Twin(
    spec="""
name: mixtral
vocab_size: 61
width: 32
context: 64
blocks:
  layer:
    mixer: {kind: attention, heads: 4, kv_heads: 2, position: {kind: rope, theta: 1e6}}
    ffn: {kind: moe, experts: 5, top_k: 2, expert: {kind: swiglu, hidden: 24}}
layers: layer*2
""",
    config=lambda: transformers.MixtralConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=5,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        sliding_window=None,
        attn_implementation="eager",
        experts_implementation="eager",
    ),
    model="MixtralForCausalLM",
    names=LLAMA_NAMES,
)


def qwen3(*, renormalise: bool) -> Twin:
    return Twin(
        spec=f"""
name: qwen3
vocab_size: 61
width: 32
context: 64
norm: {{kind: rmsnorm, eps: 1e-6}}
blocks:
  layer:
    mixer:
      kind: attention
      heads: 4
      kv_heads: 2
      head_width: 16
      qk_norm: {{kind: rmsnorm, eps: 1e-6}}
      position: {{kind: rope, theta: 1e6}}
    ffn:
      kind: moe
      experts: 6
      top_k: 3
      expert: {{kind: swiglu, hidden: 24}}
      router: {{kind: softmax, renormalise: {str(renormalise).lower()}}}
layers: layer*2
""",
        config=lambda: transformers.Qwen3MoeConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=24,
            moe_intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_experts=6,
            num_experts_per_tok=3,
            norm_topk_prob=renormalise,
            decoder_sparse_step=1,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            attn_implementation="eager",
            experts_implementation="eager",
        ),
        model="Qwen3MoeForCausalLM",
        names=LLAMA_NAMES,
    )


def mistral(window: int) -> Twin:
    return Twin(
        spec=LLAMA_SPEC.replace("POSITION", "{kind: rope, theta: 1e4}").replace(
            "sees: causal", f"sees: causal & sliding({window})"
        ),
        config=lambda: transformers.MistralConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            sliding_window=window,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            attn_implementation="eager",
        ),
        model="MistralForCausalLM",
        names=LLAMA_NAMES,
    )


GEMMA3 = Twin(
    spec="""
name: gemma3
vocab_size: 61
width: 64
context: 64
embedding: {scale: sqrt(width)}
norm: {kind: rmsnorm, eps: 1e-6, gain: 1 + weight}
head: {kind: lm, tied: true}
blocks:
  local:
    norm_place: sandwich
    mixer:
      kind: attention
      heads: 4
      kv_heads: 2
      head_width: 8
      qk_norm: {kind: rmsnorm, eps: 1e-6, gain: 1 + weight}
      sees: causal & sliding(7)
      position: {kind: rope, theta: 1e4}
    ffn: {kind: geglu, hidden: 48}
  global: {extends: local, mixer: {sees: causal, position: {theta: 1e6, scaling: {kind: linear, factor: 8}}}}
layers: local*2 global local
""",
    config=lambda: transformers.Gemma3TextConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=64,
        sliding_window=7,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rms_norm_eps=1e-6,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
        attn_implementation="eager",
    ),
    model="Gemma3ForCausalLM",
    names=(
        (LAYER + r"ffn_norm\.weight", r"model.layers.\1.pre_feedforward_layernorm.weight"),
        (LAYER + r"mixer_out_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
        (LAYER + r"ffn_out_norm\.weight", r"model.layers.\1.post_feedforward_layernorm.weight"),
        *LLAMA_NAMES,
    ),
)

# OLMo 2 normalises the queries and keys of all heads together: with one head, that is each head's.
OLMO2 = Twin(
    spec="""
name: olmo2
vocab_size: 61
width: 32
context: 64
blocks:
  layer:
    norm_place: output
    mixer: {kind: attention, heads: 1, qk_norm: rmsnorm, position: {kind: rope, theta: 1e4}}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*2
""",
    config=lambda: transformers.Olmo2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attn_implementation="eager",
    ),
    model="Olmo2ForCausalLM",
    names=(
        (LAYER + r"mixer_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
        (LAYER + r"ffn_norm\.weight", r"model.layers.\1.post_feedforward_layernorm.weight"),
        *LLAMA_NAMES,
    ),
)


@pytest.mark.parametrize(
    "twin",
    [GPT2, MIXTRAL, qwen3(renormalise=True), qwen3(renormalise=False), mistral(7), GEMMA3, OLMO2],
    ids=[
        "gpt2",
        "mixtral",
        "qwen3-moe renormalised",
        "qwen3-moe as routed",
        "mistral with a window of 7",
        "gemma3 with its sandwich of norms",
        "olmo2 with its norms on outputs",
    ],
)
def test_it_gives_the_same_logits(twin):
    ours, theirs = logits_of_both(twin)
    assert (ours - theirs).abs().max() < SAME
