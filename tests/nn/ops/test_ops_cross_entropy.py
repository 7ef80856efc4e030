"""The fused head against `F.cross_entropy` over full logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from vitruvius.nn.ops import linear_cross_entropy


def problem(tokens=7, width=5, vocab=11, dtype=torch.float64, scale=1.0):
    g = torch.Generator().manual_seed(3)
    h = (torch.randn(tokens, width, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(vocab, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=g)
    return h, weight, bias, targets


def reference(h, weight, bias, targets, reduction, softcap):
    logits = F.linear(h, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction=reduction)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_loss_and_gradients_equal_full_cross_entropy(reduction, softcap, chunk):
    h, weight, bias, targets = problem()
    targets[2] = -100
    row_weights = torch.arange(1.0, 8.0, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7).double()
    made = linear_cross_entropy(h, weight, targets, bias_V=bias, softcap=softcap, reduction=reduction, chunk=chunk)
    true = reference(h, weight, bias, targets, reduction, softcap)
    torch.testing.assert_close(made, true, rtol=1e-12, atol=1e-12)
    made_grads = torch.autograd.grad((made * row_weights).sum(), (h, weight, bias))
    true_grads = torch.autograd.grad((true * row_weights).sum(), (h, weight, bias))
    torch.testing.assert_close(made_grads, true_grads, rtol=1e-12, atol=1e-12)


def test_the_weights_gradient_is_the_same_however_rows_are_grouped_and_folded(monkeypatch):
    h, weight, _, targets = problem()
    whole = torch.autograd.grad(linear_cross_entropy(h, weight, targets), weight)[0]
    monkeypatch.setattr("vitruvius.nn.ops.cross_entropy.ROWS", 2)
    monkeypatch.setattr("vitruvius.nn.ops.cross_entropy.FOLD", 3)
    parts = torch.autograd.grad(linear_cross_entropy(h, weight, targets, chunk=2), weight)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    h, weight, bias, targets = problem()
    for reduction in ("sum", "none"):
        assert gradcheck(
            lambda h, w, b, r=reduction: linear_cross_entropy(h, w, targets, bias_V=b, reduction=r, chunk=3),
            (h, weight, bias),
        )


@given(sure=st.floats(min_value=-120.0, max_value=120.0))
def test_sure_and_hopeless_tokens_keep_their_loss_and_gradient(sure):
    """A target logit far above or below the rest: the probability rounds to 1 or 0, the loss and gradient must not."""
    h = torch.ones(1, 1, dtype=torch.float32, requires_grad=True)
    weight = torch.zeros(8, 1, dtype=torch.float32)
    weight[3] = sure
    weight.requires_grad_()
    target = torch.tensor([3])
    made = linear_cross_entropy(h, weight, target)
    exact = F.cross_entropy(F.linear(h.double(), weight.double()), target)
    torch.testing.assert_close(made.double(), exact, rtol=1e-3, atol=1e-15)
    (made_grad,) = torch.autograd.grad(made, weight)
    (true_grad,) = torch.autograd.grad(exact, weight)
    torch.testing.assert_close(made_grad, true_grad, rtol=1e-3, atol=1e-15)


def test_a_nearly_learned_token_still_has_a_gradient_in_bf16():
    h = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(8, 1, dtype=torch.bfloat16)
    weight[3] = 9.0
    loss = linear_cross_entropy(h, weight.requires_grad_(), torch.tensor([3]))
    residual = 7 * math.exp(-9) / (1 + 7 * math.exp(-9))
    assert loss.item() == pytest.approx(residual, rel=0.01)
    (grad,) = torch.autograd.grad(loss, weight)
    assert grad[3].item() == pytest.approx(-residual, rel=0.02)


def test_bf16_stays_close_to_fp64():
    h, weight, bias, targets = problem(tokens=300, width=64, vocab=500, dtype=torch.bfloat16, scale=0.1)
    made = linear_cross_entropy(h, weight, targets, bias_V=bias, reduction="mean", chunk=128)
    assert made.dtype == torch.float32
    exact_inputs = [t.detach().double().requires_grad_() for t in (h, weight, bias)]
    exact = reference(*exact_inputs, targets, "mean", None)
    assert made.item() == pytest.approx(exact.item(), abs=2e-3)
    made_grads = torch.autograd.grad(made, (h, weight, bias))
    for mine, true in zip(made_grads, torch.autograd.grad(exact, exact_inputs), strict=True):
        assert (mine.double() - true).norm() / true.norm() < 0.01


def test_no_token_that_counts_gives_zero_loss_and_zero_gradient():
    h, weight, _, targets = problem()
    loss = linear_cross_entropy(h, weight, torch.full_like(targets, -100), reduction="mean")
    assert loss.item() == 0.0
    assert all(not g.any() for g in torch.autograd.grad(loss, (h, weight)))


def test_evaluation_without_gradients_gives_each_tokens_loss():
    h, weight, _, targets = problem()
    with torch.no_grad():
        each = linear_cross_entropy(h, weight, targets, reduction="none", chunk=2)
    assert not each.requires_grad
    torch.testing.assert_close(each, F.cross_entropy(F.linear(h, weight), targets, reduction="none").detach())


def test_a_frozen_head_gets_no_gradient():
    h, weight, _, targets = problem()
    linear_cross_entropy(h, weight.detach(), targets).backward()
    assert h.grad is not None
