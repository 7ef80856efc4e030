"""Our weights in Hugging Face's linear-time mixers give the same outputs, on a whole sequence and on its continuation.

Both sides get fp64 weights. Theirs compute decays, norms and scans in fp32 whatever the weights are, so that fp32 is
made to mean fp64 while they run: only a different formula can then tell the two apart.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitruvius.nn.cache import Step
from vitruvius.nn.place import Place
from vitruvius.nn.registry import make
from vitruvius.spec import Scope, read_text

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WIDTH = 24
SCOPE = Scope(width=WIDTH, vocab_size=61, context=256, depth=2)
LENGTH = 150
"""Two chunks and a bit."""
SAME = 1e-9


def mixer(text: str):
    """One of our mixers in fp64, with weights that hide nothing: no zeros, no ones."""
    spec = (
        read_text(
            f"{{name: t, vocab_size: 61, width: {WIDTH}, context: 256, blocks: {{a: {{mixer: {text}}}}}, layers: a}}"
        )
        .architecture.blocks["a"]
        .mixer
    )
    ours = make(spec, SCOPE, {"device": torch.device("cpu"), "dtype": torch.float64})
    gen = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            drawn = torch.randn(parameter.shape, generator=gen, dtype=torch.float64)
            parameter.copy_(
                drawn * (0.4 if parameter.dim() > 1 else 0.5) + (1.0 if "norm" in name or name == "D" else 0.0)
            )
    return ours


def load(theirs: nn.Module, values: dict[str, torch.Tensor]) -> nn.Module:
    """Their module with these weights; every one of them is given."""
    theirs = theirs.double().eval()
    state = theirs.state_dict()
    assert set(state) == set(values)
    shaped = {name: value.detach().reshape(state[name].shape) for name, value in values.items()}
    theirs.load_state_dict(shaped)
    return theirs


def inputs() -> torch.Tensor:
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def assert_same(ours, theirs):
    """The whole sequence, and a long prefill that one token at a time goes on from."""
    x = inputs()
    with torch.no_grad():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            expected = theirs(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        found = ours(x, Place(positions=torch.arange(LENGTH)))
        torch.testing.assert_close(found, expected, rtol=SAME, atol=SAME)
        cache = ours.decode_state(2, LENGTH, SCOPE)
        parts, start = [], 0
        for size in (130, *[1] * 8, 12):
            cache.step = Step(starts=[start] * 2, counts=[size] * 2, length=size)
            parts.append(ours(x[:, start : start + size], Place(positions=torch.arange(start, start + size)), cache))
            start += size
        torch.testing.assert_close(torch.cat(parts, dim=1), found, rtol=1e-9, atol=1e-9)


def test_mamba_is_their_mamba():
    from transformers.models.mamba.modeling_mamba import MambaMixer

    ours = mixer("{kind: mamba, state: 6, conv: 3, dt_rank: 5}")
    config = transformers.MambaConfig(
        hidden_size=WIDTH, state_size=6, conv_kernel=3, time_step_rank=5, num_hidden_layers=1, vocab_size=61
    )
    values = {name.replace("conv.", "conv1d."): value for name, value in ours.named_parameters()}
    assert_same(ours, load(MambaMixer(config, 0), values))


def test_mamba_with_inner_norms_is_jambas():
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer

    ours = mixer("{kind: mamba, state: 6, inner_norm: {kind: rmsnorm, eps: 1e-6}, bias: all}")
    config = transformers.JambaConfig(
        hidden_size=WIDTH, mamba_d_state=6, mamba_dt_rank=2, mamba_proj_bias=True, num_attention_heads=2,
        num_hidden_layers=2, vocab_size=61,
    )  # fmt: skip
    theirs = {"conv.": "conv1d.", "dt_norm.": "dt_layernorm.", "B_norm.": "b_layernorm.", "C_norm.": "c_layernorm."}
    values = dict(ours.named_parameters())
    for old, new in theirs.items():
        values = {name.replace(old, new): value for name, value in values.items()}
    assert_same(ours, load(JambaMambaMixer(config, 0), values))


@pytest.mark.parametrize(("groups", "bias"), [(1, "conv"), (2, "all"), (4, "none")])
def test_mamba2_is_their_mamba2(groups, bias):
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    ours = mixer(f"{{kind: mamba2, heads: 4, head_width: 12, groups: {groups}, state: 6, bias: {bias}}}")
    config = transformers.Mamba2Config(
        hidden_size=WIDTH, num_heads=4, head_dim=12, n_groups=groups, state_size=6, chunk_size=32,
        use_bias=bias == "all", use_conv_bias=bias != "none", num_hidden_layers=1, vocab_size=61,
    )  # fmt: skip
    values = {name.replace("conv.", "conv1d."): value for name, value in ours.named_parameters()}
    assert_same(ours, load(Mamba2Mixer(config, 0), values))


def test_gated_deltanet_is_that_of_qwen3_next():
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    ours = mixer("{kind: gated-deltanet, heads: 4, key_heads: 2, head_width: 6, value_width: 5}")
    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=6,
        linear_value_head_dim=5, linear_conv_kernel_dim=4, num_hidden_layers=1, layer_types=["linear_attention"],
        vocab_size=61,
    )  # fmt: skip
    values = dict(ours.named_parameters())

    def by_key_head(*names):
        """Theirs are interleaved: what belongs to one key head stands together."""
        return torch.cat([values.pop(f"{name}.weight").unflatten(0, (2, -1)) for name in names], dim=1).flatten(0, 1)

    values["in_proj_qkvz.weight"] = by_key_head("q", "k", "v", "gate")
    values["in_proj_ba.weight"] = by_key_head("beta", "dt")
    values["conv1d.weight"] = values.pop("conv.weight")
    values["out_proj.weight"] = values.pop("out.weight")
    assert_same(ours, load(Qwen3NextGatedDeltaNet(config, 0), values))


@pytest.mark.parametrize(("eigenvalues", "negative"), [("positive", False), ("both", True)])
def test_gated_deltanet_with_eigenvalues_of_both_signs_is_that_of_olmo_hybrid(eigenvalues, negative):
    from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet

    ours = mixer(
        f"{{kind: gated-deltanet, heads: 3, head_width: 8, value_width: 6, eigenvalues: {eigenvalues}, norm_eps: 1e-5}}"
    )
    config = transformers.OlmoHybridConfig(
        hidden_size=WIDTH, linear_num_value_heads=3, linear_num_key_heads=3, linear_key_head_dim=8,
        linear_value_head_dim=6, linear_conv_kernel_dim=4, linear_allow_neg_eigval=negative, num_hidden_layers=2,
        num_attention_heads=2, layer_types=["linear_attention", "full_attention"], vocab_size=61, rms_norm_eps=1e-5,
    )  # fmt: skip
    renamed = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "gate": "g_proj", "beta": "b_proj", "dt": "a_proj"}
    renamed |= {"conv": "conv1d", "norm": "o_norm", "out": "o_proj"}
    values = {}
    for name, value in ours.named_parameters():
        first, dot, rest = name.partition(".")
        values[renamed.get(first, first) + dot + rest] = value
    assert_same(ours, load(OlmoHybridGatedDeltaNet(config, 0), values))


def test_kda_is_that_of_kimi_linear():
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    ours = mixer("{kind: kda, heads: 3, head_width: 8}")
    config = transformers.KimiLinearConfig(
        hidden_size=WIDTH, linear_num_heads=3, linear_head_dim=8, linear_conv_kernel_dim=4, num_hidden_layers=1,
        layer_types=["linear_attention"], vocab_size=61, rms_norm_eps=1e-6,
    )  # fmt: skip
    renamed = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "beta": "b_proj", "conv": "conv1d", "norm": "o_norm"}
    renamed |= {"decay_down": "forget_gate.f_a_proj", "decay_up": "forget_gate.f_b_proj", "out": "o_proj"}
    renamed |= {"dt_bias": "forget_gate.dt_bias", "A_log": "forget_gate.A_log"}
    renamed |= {"gate_down": "g_a_proj", "gate_up": "g_b_proj"}
    values = {}
    for name, value in ours.named_parameters():
        first, dot, rest = name.partition(".")
        values[renamed.get(first, first) + dot + rest] = value
    assert_same(ours, load(KimiLinearDeltaAttention(config, 0), values))


@pytest.mark.parametrize("bias", ["none", "all"])
def test_the_short_convolution_is_that_of_lfm2(bias):
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    ours = mixer(f"{{kind: short-conv, conv: 3, bias: {bias}}}")
    config = transformers.Lfm2Config(
        hidden_size=WIDTH, conv_L_cache=3, conv_bias=bias == "all", num_hidden_layers=1, num_attention_heads=2,
        layer_types=["conv"], vocab_size=61,
    )  # fmt: skip
    assert_same(ours, load(Lfm2ShortConv(config, 0), dict(ours.named_parameters())))
