"""The z-loss inside the fused head: against its plain formula, in every dtype, and at no cost where it is 0."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from vitruvius.nn import Signals, build
from vitruvius.nn.ops import LossParts, linear_cross_entropy
from vitruvius.nn.ops import cross_entropy as module
from vitruvius.spec import preset


def problem(tokens=7, width=5, vocab=11, dtype=torch.float64, scale=1.0):
    g = torch.Generator().manual_seed(3)
    h = (torch.randn(tokens, width, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    bias = torch.randn(vocab, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    return h, weight, bias, torch.randint(0, vocab, (tokens,), generator=g)


def logits_of(h, weight, bias, softcap):
    logits = F.linear(h, weight, bias)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def plain(h, weight, bias, targets, reduction, softcap, z_loss):
    """Cross-entropy and z-loss as they are written in a paper, of all logits at once."""
    logits = logits_of(h, weight, bias, softcap)
    lse = logits.logsumexp(-1)
    counted = targets.ne(-100)
    each = (F.cross_entropy(logits, targets, reduction="none") + z_loss * lse.square()) * counted
    return {"none": each, "sum": each.sum(), "mean": each.sum() / counted.sum().clamp(min=1)}[reduction]


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_loss_and_gradients_are_those_of_the_plain_formula(reduction, softcap, chunk):
    h, weight, bias, targets = problem(scale=3.0)
    targets[2] = -100
    rows = torch.arange(1.0, 8.0, dtype=torch.float64) if reduction == "none" else torch.tensor(1.7).double()
    options = {"bias_V": bias, "softcap": softcap, "reduction": reduction, "chunk": chunk}
    made = linear_cross_entropy(h, weight, targets, z_loss=0.03, **options)
    true = plain(h, weight, bias, targets, reduction, softcap, 0.03)
    torch.testing.assert_close(made, true, rtol=1e-12, atol=1e-12)
    made_grads = torch.autograd.grad((made * rows).sum(), (h, weight, bias))
    true_grads = torch.autograd.grad((true * rows).sum(), (h, weight, bias))
    torch.testing.assert_close(made_grads, true_grads, rtol=1e-11, atol=1e-12)
    without = torch.autograd.grad((linear_cross_entropy(h, weight, targets, **options) * rows).sum(), h)[0]
    assert not torch.allclose(made_grads[0], without, rtol=1e-3)


def test_gradients_agree_with_finite_differences():
    h, weight, bias, targets = problem()
    for reduction in ("sum", "mean", "none"):
        assert gradcheck(
            lambda h, w, b, r=reduction: linear_cross_entropy(
                h, w, targets, bias_V=b, reduction=r, chunk=3, z_loss=0.1
            ),
            (h, weight, bias),
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pull_below_half_a_digit_of_a_narrow_format_is_not_lost(dtype):
    """1e-4 of the square moves each probability by 0.2 %: less than half the distance between two numbers of bf16."""
    h, weight, _, targets = problem(tokens=64, width=32, vocab=500, scale=0.3)
    exact = [
        torch.autograd.grad(plain(h, weight, torch.zeros(500).double(), targets, "sum", None, z), h)[0]
        for z in (1e-4, 0.0)
    ]
    low = [each.detach().to(dtype).requires_grad_() for each in (h, weight)]
    made = [torch.autograd.grad(linear_cross_entropy(*low, targets, z_loss=z), low[0])[0].double() for z in (1e-4, 0.0)]
    wanted, found = exact[0] - exact[1], made[0] - made[1]
    # Of a difference between two roundings the direction counts: it is there, and as large as it should be.
    assert (found * wanted).sum() / wanted.square().sum() == pytest.approx(1.0, abs=0.35)


def test_the_parts_are_told_apart_and_leave_out_what_does_not_count():
    h, weight, bias, targets = problem()
    targets[:3] = -100
    with torch.no_grad():
        h[1] *= 100  # the largest log-sum-exp is that of a target that does not count
    parts = LossParts()
    total = linear_cross_entropy(h, weight, targets, bias_V=bias, reduction="mean", z_loss=0.5, parts=parts)
    lse = logits_of(h, weight, bias, None).logsumexp(-1)[3:]
    alone = linear_cross_entropy(h, weight, targets, bias_V=bias, reduction="mean")
    assert parts.cross_entropy.item() == pytest.approx(alone.item(), rel=1e-12)
    assert parts.z_loss.item() == pytest.approx(0.5 * lse.square().mean().item(), rel=1e-12)
    assert (parts.lse_mean.item(), parts.lse_max.item()) == pytest.approx((lse.mean().item(), lse.max().item()))
    assert total.item() == pytest.approx((parts.cross_entropy + parts.z_loss).item(), rel=1e-12)
    assert not parts.z_loss.requires_grad


def test_without_a_target_everything_is_zero():
    h, weight, _, targets = problem()
    parts = LossParts()
    total = linear_cross_entropy(h, weight, targets.fill_(-100), reduction="mean", z_loss=1.0, parts=parts)
    assert [float(each) for each in (total.detach(), parts.z_loss, parts.lse_mean, parts.lse_max)] == [0.0] * 4
    assert torch.autograd.grad(total, h)[0].abs().max() == 0


def test_at_zero_it_costs_nothing(monkeypatch):
    def never(*_):
        raise AssertionError("a z-loss of 0 was computed")

    monkeypatch.setattr(module, "_pulled", never)
    h, weight, _, targets = problem()
    made = linear_cross_entropy(h, weight, targets, z_loss=0.0)
    assert torch.equal(made, linear_cross_entropy(h, weight, targets))
    made.backward()


KV = ["blocks.layer.mixer.kv_heads=1"]
HEADS = {
    "tied": ("tiny-llama", [*KV, "head.tied=true"]),
    "untied": ("tiny-llama", [*KV, "head.tied=false"]),
    "soft cap": ("tiny-llama", [*KV, "head.softcap=3.0"]),
    "scaled logits": ("tiny-llama", [*KV, "init={kind: mup, base_width: 16, base_head_width: 16}"]),
    "masked, with a bias and a transform": ("context-aware-bert", ["layers=layer*2"]),
    "tokens further ahead": ("tiny-llama", [*KV, "mtp={block: layer, depth: 1}"]),
    "encoder-decoder": (
        "seq2seq-small",
        [f"blocks.{each}.heads=2" for each in ("encode.mixer", "decode.mixer", "decode.cross")],
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_adds_the_squares_of_its_own_logits(name):
    spec, overrides = HEADS[name]
    sizes = ["width=32", "context=16", "vocab_size=64"]
    if spec != "seq2seq-small":
        sizes += ["blocks.layer.mixer.heads=2", "blocks.layer.ffn.hidden=32"]
    model = build(preset(spec, overrides=[*sizes, *overrides]), dtype="fp32", seed=1).double().eval()
    vocabulary = model.architecture.vocab_size
    g = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(0, vocabulary, (2, 8), generator=g) for _ in range(2))
    targets[0, :3] = -100
    source = tokens.clone() if model.architecture.encoder is not None else None
    signals = Signals(z_loss=0.01)
    loss = model.loss(tokens, targets, source=source, signals=signals)
    without = model.loss(tokens, targets, source=source)
    logits = model(tokens, source=source) if source is not None else model(tokens)
    squares = logits.double().logsumexp(-1)[targets.ne(-100)].square().mean()
    assert (loss - without).item() == pytest.approx(0.01 * squares.item(), rel=1e-9)
    assert signals.cross_entropy.item() == pytest.approx(without.item(), rel=1e-12)
    assert signals.metrics["z_loss"][0].item() == pytest.approx(0.01 * squares.item(), rel=1e-9)
    assert torch.equal(
        model.loss(tokens, targets, source=source, signals=Signals(z_loss=0.01), per_token=True),
        model.loss(tokens, targets, source=source, per_token=True),
    )
