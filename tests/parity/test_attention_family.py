"""Gates, sinks, caps, latents and differences: our attention gives what Hugging Face's gives, in double precision."""

from __future__ import annotations

import pytest
import torch
from twins import LAYER, LLAMA_NAMES, SAME, TOKENS, Twin, logits_of_both, translated

from vitruvius.nn import build
from vitruvius.nn.place import Place
from vitruvius.sizing import count_parameters
from vitruvius.spec import preset, read_text, resolve

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WIDTH, LENGTH = 32, 60
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

# One attention layer against theirs


def mixer_of(text: str):
    """Our mixer, in fp64, with weights large enough to matter."""
    sizes = f"name: one, vocab_size: 61, width: {WIDTH}, context: 64"
    spec = f"{{{sizes}, blocks: {{layer: {{mixer: {text}}}}}, layers: layer}}"
    model = build(read_text(spec).architecture, dtype="fp64", seed=3)
    mixer = model.layers[0].mixer
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return mixer


def ours(mixer, x):
    with torch.no_grad():
        return mixer(x, Place(positions=torch.arange(x.shape[1])))


def theirs(attention, rotary, x, *, window=None):
    """Their attention with the rotation and the mask that their model would hand it."""
    length = x.shape[1]
    i, j = torch.arange(length).unsqueeze(1), torch.arange(length)
    seen = (j <= i) if window is None else (j <= i) & (i - j < window)
    mask = torch.zeros(length, length, dtype=x.dtype).masked_fill(~seen, -torch.inf)[None, None]
    positions = torch.arange(length).unsqueeze(0)
    with torch.no_grad():
        return attention(x, position_embeddings=rotary(x, positions), attention_mask=mask)[0]


def filled(module, values):
    """Their module with our values, every one of its tensors."""
    state = module.state_dict()
    assert set(state) == set(values), set(state) ^ set(values)
    module.load_state_dict(values)
    return module.double().eval()


def hidden():
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 9])
def test_a_learned_sink_takes_the_share_that_gpt_oss_gives_it(window):
    from transformers.models.gpt_oss import modeling_gpt_oss as hf

    sees = "causal" if window is None else f"causal & sliding({window})"
    mixer = mixer_of(
        f"{{kind: attention, heads: 4, kv_heads: 2, bias: all, sinks: learned, position: rope, sees: {sees}}}"
    )
    config = transformers.GptOssConfig(
        hidden_size=WIDTH,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=1,
        num_local_experts=2,
        rope_parameters=PLAIN_ROPE,
        attn_implementation="eager",
    )
    own = {name: value.detach() for name, value in mixer.named_parameters()}
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
    values = {"sinks": own["sinks"]}
    values |= {f"{names[m]}.{part}": own[f"{m}.{part}"] for m in names for part in ("weight", "bias")}
    attention = filled(hf.GptOssAttention(config, 0), values)
    x = hidden()
    expected = theirs(attention, hf.GptOssRotaryEmbedding(config), x, window=window)
    assert (ours(mixer, x) - expected).abs().max() < SAME
    with torch.no_grad():
        mixer.sinks.add_(1.0)
    assert (ours(mixer, x) - expected).abs().max() > 1000 * SAME


def test_an_elementwise_gate_is_that_of_qwen3_next():
    from transformers.models.qwen3_next import modeling_qwen3_next as hf

    norm = '{kind: rmsnorm, eps: 1e-6, gain: "1 + weight"}'
    rope = "{kind: rope, fraction: 0.25}"
    mixer = mixer_of(
        f"{{kind: attention, heads: 4, kv_heads: 2, gate: elementwise, qk_norm: {norm}, position: {rope}}}"
    )
    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
        rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 0.25},
        attn_implementation="eager",
    )
    own = {name: value.detach() for name, value in mixer.named_parameters()}
    # Their map holds, head by head, the query and then its gate.
    both = torch.stack([own[f"{m}.weight"].unflatten(0, (4, 8)) for m in ("q", "gate")], dim=1).flatten(0, 2)
    values = {"q_proj.weight": both, "k_proj.weight": own["k.weight"], "v_proj.weight": own["v.weight"]}
    values |= {"o_proj.weight": own["out.weight"]}
    values |= {f"{which}_norm.weight": own[f"{which}_norm.weight"] for which in ("q", "k")}
    attention = filled(hf.Qwen3NextAttention(config, 0), values)
    x = hidden()
    assert (ours(mixer, x) - theirs(attention, hf.Qwen3NextRotaryEmbedding(config), x)).abs().max() < SAME


# Whole models


GEMMA_2 = """
name: gemma
vocab_size: 61
width: 32
context: 64
embedding: {scale: sqrt(width)}
norm: {kind: rmsnorm, eps: 1e-6, gain: 1 + weight}
head: {kind: lm, tied: true, softcap: 3}
blocks:
  local:
    norm_place: sandwich
    mixer:
      {kind: attention, heads: 4, kv_heads: 2, head_width: 10, logit_cap: 2, score_scale: 1/sqrt(12),
       sees: causal & sliding(7), position: rope}
    ffn: {kind: geglu, hidden: 48}
  global: {extends: local, mixer: {sees: causal}}
layers: (local global)*2
"""

SANDWICH = (
    (LAYER + r"mixer_out_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
    (LAYER + r"ffn_norm\.weight", r"model.layers.\1.pre_feedforward_layernorm.weight"),
    (LAYER + r"ffn_out_norm\.weight", r"model.layers.\1.post_feedforward_layernorm.weight"),
)


def gemma_2(**changes) -> Twin:
    def config():
        return transformers.Gemma2Config(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=10,
            sliding_window=7,
            query_pre_attn_scalar=12,
            max_position_embeddings=64,
            rope_parameters=PLAIN_ROPE,
            attn_implementation="eager",
            **({"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0} | changes),
        )

    return Twin(spec=GEMMA_2, config=config, model="Gemma2ForCausalLM", names=(*SANDWICH, *LLAMA_NAMES))


def test_a_logit_cap_between_sandwiched_norms_is_that_of_gemma_2():
    ours, theirs = logits_of_both(gemma_2())
    assert (ours - theirs).abs().max() < SAME


def test_the_comparison_can_tell_caps_apart():
    ours, theirs = logits_of_both(gemma_2(attn_logit_softcapping=None))
    assert (ours - theirs).abs().max() > 100 * SAME


DIFFERENTIAL = """
name: diffllama
vocab_size: 61
width: 32
context: 64
norm: {kind: rmsnorm, eps: 1e-5}
blocks:
  layer:
    mixer: {kind: differential, heads: 4, kv_heads: 2, head_norm: {kind: rmsnorm, gain: none}, position: rope}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*3
"""


def test_differential_attention_is_that_of_diffllama_in_every_layer():
    """Theirs is counted in heads of one map, ours in heads of two; lambda_init grows with the layer."""
    twin = Twin(
        spec=DIFFERENTIAL,
        config=lambda: transformers.DiffLlamaConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=64,
            rope_parameters=PLAIN_ROPE,
            attn_implementation="eager",
        ),
        model="DiffLlamaForCausalLM",
        names=((LAYER + r"mixer\.(lambda_\w+)", r"model.layers.\1.self_attn.\2"), *LLAMA_NAMES),
    )
    # Their values come as two halves of all heads, ours as heads of twice the width: the same rows in another order.
    ours = build(read_text(DIFFERENTIAL).architecture, dtype="fp64", seed=3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).double() * 0.1)
    model = transformers.DiffLlamaForCausalLM(twin.config()).double().eval()
    state, done = model.state_dict(), set()
    for name, value in translated(ours, twin.names):
        halves = value.unflatten(0, (2, 2, 4)).transpose(0, 1).flatten(0, 2) if "v_proj" in name else value
        state[name].copy_(halves)
        done.add(name)
    assert done == set(state)
    with torch.no_grad():
        assert (ours(TOKENS) - model(TOKENS).logits).abs().max() < SAME


LATENT = """
name: deepseek
vocab_size: 61
width: 32
context: 64
norm: {kind: rmsnorm, eps: 1e-6}
blocks:
  layer:
    mixer:
      kind: mla
      heads: 4
      Q_RANK
      kv_rank: 16
      nope_width: 8
      rope_width: 4
      value_width: 6
      norm: {kind: rmsnorm, eps: 1e-6}
      score_scale: SCALE
      position: {kind: rope, pairing: interleaved, SCALING}
    ffn: {kind: swiglu, hidden: 48}
layers: layer*2
"""
LATENT_NAMES = (
    (LAYER + r"mixer\.q\.weight", r"model.layers.\1.self_attn.q_proj.weight"),
    (LAYER + r"mixer\.q_down\.weight", r"model.layers.\1.self_attn.q_a_proj.weight"),
    (LAYER + r"mixer\.q_norm\.weight", r"model.layers.\1.self_attn.q_a_layernorm.weight"),
    (LAYER + r"mixer\.q_up\.weight", r"model.layers.\1.self_attn.q_b_proj.weight"),
    (LAYER + r"mixer\.kv_down\.weight", r"model.layers.\1.self_attn.kv_a_proj_with_mqa.weight"),
    (LAYER + r"mixer\.kv_norm\.weight", r"model.layers.\1.self_attn.kv_a_layernorm.weight"),
    (LAYER + r"mixer\.kv_up\.weight", r"model.layers.\1.self_attn.kv_b_proj.weight"),
    *LLAMA_NAMES,
)
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def latent(*, q_rank: int | None, scale: str, scaling: str, rope: dict[str, object]) -> Twin:
    spec = LATENT.replace("Q_RANK", f"q_rank: {q_rank}" if q_rank else "q_rank: null")
    spec = spec.replace("SCALE", scale).replace("SCALING", scaling).replace(", }", "}")
    return Twin(
        spec=spec,
        config=lambda: transformers.DeepseekV3Config(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            first_k_dense_replace=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            q_lora_rank=q_rank,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=6,
            num_mtp_layers=0,
            max_position_embeddings=64,
            rope_parameters=rope,
            attn_implementation="eager",
        ),
        model="DeepseekV3ForCausalLM",
        names=LATENT_NAMES,
    )


@pytest.mark.parametrize("q_rank", [None, 12])
def test_latent_attention_is_that_of_deepseek_v3(q_rank):
    ours, theirs = logits_of_both(latent(q_rank=q_rank, scale="1/sqrt(12)", scaling="", rope=PLAIN_ROPE))
    assert (ours - theirs).abs().max() < SAME


def test_the_scale_that_deepseek_gives_stretched_rotations_is_a_score_scale():
    from math import log, sqrt

    # Cosines and sines keep their size (mscale equals mscale_all_dim), the scores grow by (0.1 ln 4 + 1)^2.
    scale = (0.1 * log(4) + 1) ** 2 / sqrt(12)
    scaling = "scaling: {kind: yarn, factor: 4, original_context: 16, temperature: 0}"
    ours, theirs = logits_of_both(latent(q_rank=12, scale=f"{scale:.15f}", scaling=scaling, rope=YARN))
    assert (ours - theirs).abs().max() < SAME


FALCON = """
name: falcon
vocab_size: 61
width: 32
context: 64
norm: layernorm
head: {kind: lm, tied: true}
blocks:
  layer:
    order: parallel-one-norm
    mixer: {kind: attention, heads: 4, kv_heads: 1, position: rope}
    ffn: {kind: mlp, hidden: 128, activation: gelu}
layers: layer*2
"""


def test_attention_and_mlp_behind_one_norm_are_those_of_falcon():
    twin = Twin(
        spec=FALCON,
        config=lambda: transformers.FalconConfig(
            vocab_size=61,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            rope_parameters=PLAIN_ROPE,
            attn_implementation="eager",
        ),
        model="FalconForCausalLM",
        names=(
            (r"embedding\.tokens\.weight", "transformer.word_embeddings.weight"),
            (r"final_norm\.(weight|bias)", r"transformer.ln_f.\1"),
            (LAYER + r"mixer\.(?:q|k|v)\.weight", r"transformer.h.\1.self_attention.query_key_value.weight"),
            (LAYER + r"mixer\.out\.weight", r"transformer.h.\1.self_attention.dense.weight"),
            (LAYER + r"mixer_norm\.(weight|bias)", r"transformer.h.\1.input_layernorm.\2"),
            (LAYER + r"ffn\.up\.weight", r"transformer.h.\1.mlp.dense_h_to_4h.weight"),
            (LAYER + r"ffn\.down\.weight", r"transformer.h.\1.mlp.dense_4h_to_h.weight"),
        ),
    )
    ours, theirs = logits_of_both(twin)
    assert (ours - theirs).abs().max() < SAME


@pytest.mark.parametrize(
    ("name", "config", "model"),
    [
        ("deepseek-v3", "DeepseekV3Config", "DeepseekV3ForCausalLM"),
        ("gemma-2-2b", "Gemma2Config", "Gemma2ForCausalLM"),
        ("falcon-7b", "FalconConfig", "FalconForCausalLM"),
    ],
)
def test_a_preset_has_as_many_parameters_as_their_model_at_full_size(name, config, model):
    with torch.device("meta"):
        theirs = getattr(transformers, model)(getattr(transformers, config)())
    parameters = dict(theirs.named_parameters())
    assert count_parameters(resolve(preset(name))).total == sum(p.numel() for p in parameters.values())
