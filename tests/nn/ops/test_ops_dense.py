"""Norms, gates, rotation, embedding, linear maps: against plain references and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from vitruvius.nn.ops import (
    apply_rotary,
    embedding,
    forked_rms_norm,
    gated_activation,
    joint_linear,
    layer_norm,
    rms_norm,
)
from vitruvius.nn.ops.gated import GATES


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = True) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype).requires_grad_(grad)


def plain_rms_norm(x, weight, eps, offset):
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * (weight + offset)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm_equals_its_formula_in_fp64(weighted, offset):
    x, weight = random(3, 5, 8), random(8, seed=1) if weighted else None
    out = rms_norm(x, weight, eps=1e-6, gain_offset=offset)
    torch.testing.assert_close(out, plain_rms_norm(x, weight, 1e-6, offset), rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x, w: rms_norm(x, w, eps=1e-3, gain_offset=offset), (x, weight))


def test_a_forked_norm_joins_the_gradients_of_both_ways():
    x, weight = random(5, 8), random(8, seed=1)
    around, normed = forked_rms_norm(x, weight, eps=1e-3)
    torch.testing.assert_close(normed, rms_norm(x, weight, eps=1e-3))
    assert torch.equal(around, x)
    made = torch.autograd.grad((around + normed.sin()).square().sum(), (x, weight))
    plain = torch.autograd.grad((x + rms_norm(x, weight, eps=1e-3).sin()).square().sum(), (x, weight))
    torch.testing.assert_close(made, plain, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x, w: forked_rms_norm(x, w, eps=1e-3, gain_offset=1.0), (x, weight))
    assert gradcheck(lambda x: forked_rms_norm(x, None, eps=1e-3)[1], (x,))


def test_rms_norm_is_the_same_whether_rows_fit_one_block_or_many(monkeypatch):
    x, weight = random(7, 6), random(6, seed=1)
    whole = rms_norm(x, weight)
    grads = torch.autograd.grad(whole.sin().sum(), (x, weight))
    monkeypatch.setattr("vitruvius.nn.ops.norm.BLOCK", 12)
    parts = rms_norm(x, weight)
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(parts.sin().sum(), (x, weight)), grads, rtol=1e-12, atol=1e-12)


def test_rms_norm_in_bf16_rounds_only_once():
    x, weight = random(64, 96, dtype=torch.bfloat16), random(96, seed=1, dtype=torch.bfloat16)
    exact = plain_rms_norm(x.double(), weight.double(), 1e-6, 0.0)
    assert (
        torch.equal(rms_norm(x, weight), exact.to(torch.bfloat16))
        or ((rms_norm(x, weight).double() - exact).abs() <= exact.abs() * 2**-8).all()
    )
    assert ((rms_norm(x, weight).double() - exact).abs() / exact.abs().clamp(min=1e-3)).max() < 2**-8


def test_layer_norm_has_its_own_mean_and_shift():
    x, weight, bias = random(3, 8), random(8, seed=1), random(8, seed=2)
    out = layer_norm(x, weight, bias, eps=1e-5)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


PLAIN_GATES = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def test_every_gate_has_a_plain_reference():
    assert PLAIN_GATES.keys() == GATES.keys()


@pytest.mark.parametrize("activation", sorted(PLAIN_GATES))
def test_a_gated_activation_and_its_gradients_are_exact(activation):
    gate, up = random(4, 6), random(4, 6, seed=1)
    out = gated_activation(gate, up, activation=activation)
    torch.testing.assert_close(out, PLAIN_GATES[activation](gate) * up, rtol=1e-14, atol=1e-14)
    assert gradcheck(lambda g, u: gated_activation(g, u, activation=activation), (gate, up))


def relative(low: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((low.double() - exact).norm() / exact.norm()).detach())


def turned(x, cos, sin):
    half = cos.shape[-1]
    pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.complex(cos, sin)
    return torch.cat((pairs.real, pairs.imag, x[..., 2 * half :]), dim=-1)


@pytest.mark.parametrize("width", [8, 11])
@pytest.mark.parametrize("per_row", [False, True])
def test_rotary_multiplies_complex_pairs(width, per_row):
    x = random(2, 5, 3, width).transpose(1, 2)
    angle = random(2, 1, 5, 4, seed=1, grad=False) if per_row else random(5, 4, seed=1, grad=False)
    cos, sin = angle.cos(), angle.sin()
    out = apply_rotary(x, cos, sin)
    torch.testing.assert_close(out, turned(x, cos, sin), rtol=1e-14, atol=1e-14)
    assert gradcheck(lambda x: apply_rotary(x, cos, sin), (x,))


def test_rotary_keeps_lengths_and_the_memory_layout():
    x = random(2, 5, 3, 8, dtype=torch.float32, grad=False).transpose(1, 2)
    angle = random(5, 4, seed=1, grad=False)
    out = apply_rotary(x, angle.cos(), angle.sin())
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert out.stride() == x.stride()


def test_an_embedding_sums_a_frequent_tokens_gradient_without_stalling():
    weight = random(4, 8, dtype=torch.bfloat16)
    tokens = torch.zeros(4096, dtype=torch.int64)
    grad = torch.autograd.grad(embedding(tokens, weight).sum(), weight)[0]
    assert torch.equal(grad[0], torch.full((8,), 4096.0, dtype=torch.bfloat16))
    assert torch.equal(grad[1:], torch.zeros(3, 8, dtype=torch.bfloat16))


def test_an_embedding_looks_up_rows():
    weight = random(6, 3)
    tokens = torch.tensor([[5, 0], [2, 2]])
    assert torch.equal(embedding(tokens, weight), weight[tokens])
    assert gradcheck(lambda w: embedding(tokens, w), (weight,))


def test_joint_linear_equals_separate_maps():
    x, a, b, bias = random(2, 4, 5), random(6, 5, seed=1), random(3, 5, seed=2), random(3, seed=3)
    first, second = joint_linear(x, (a, b), (None, bias))
    torch.testing.assert_close(first, F.linear(x, a), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, F.linear(x, b, bias), rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x, a, b, bias: joint_linear(x, (a, b), (None, bias)), (x, a, b, bias))


def test_joint_linear_leaves_frozen_weights_without_a_gradient():
    x, a, b = random(4, 5), random(6, 5, seed=1), random(3, 5, seed=2, grad=False)
    sum(part.sum() for part in joint_linear(x, (a, b))).backward()
    assert a.grad is not None
    assert b.grad is None


def test_the_forms_for_a_compiler_equal_the_eager_ones(monkeypatch):
    x, weight, angle = random(2, 3, 5, 8), random(8, seed=1), random(5, 3, seed=2, grad=False)
    calls = {
        "norm": lambda: rms_norm(x, weight, eps=1e-5, gain_offset=1.0),
        "fork": lambda: sum(forked_rms_norm(x, weight)),
        "gate": lambda: gated_activation(x, x.flip(0)),
        "rotary": lambda: apply_rotary(x, angle.cos(), angle.sin()),
        "joint": lambda: joint_linear(x, (weight[None], weight[None] * 2))[1],
    }
    eager = {name: call() for name, call in calls.items()}
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for name, call in calls.items():
        torch.testing.assert_close(call(), eager[name], rtol=1e-12, atol=1e-12)
