"""Probes of number formats and of inputs at the edges."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch

from vitruvius.checks.outcome import Measure, failed, passed, within
from vitruvius.nn import Signals

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

_EPSILON = 2.0**-8
"""Spacing of bf16 numbers at one."""
_SLACK = 4.0
_LONGEST_INPUT = 2048


def bf16_bound(sublayers: int) -> float:
    """Root-mean-square error that bf16 may leave in the logits, relative to their own size.

    Each sublayer rounds its input, its inner products and its sum into the residual stream: a handful of relative
    errors of at most 2^-9 each. They are independent, so they add up like a random walk, sqrt(sublayers), to which the
    embedding and the head add one each. The slack of 4 covers the handful and sharp scores, whose rounding a softmax
    amplifies: random specs drawn with Kaiming's wide matrices use up to half of the bound, plain ones a tenth.

    A mixer that normalises what each head read (Gated DeltaNet, GLA and their kin) gives a direction: where a query
    happens to be orthogonal to all that is stored, rounding decides which, and one such token can be wrong altogether.
    There the median over tokens is held against the bound: it uses up to 0.8 of it, the mean up to 7 times as much.
    """
    return _SLACK * _EPSILON * sqrt(sublayers + 2)


def bf16(subject: Subject) -> Measure:
    """The model in bf16 stays close to fp64 with the same (rounded) weights, each token through the same experts."""
    rough = subject.fresh(torch.bfloat16)
    tokens = subject.tokens(2, subject.length, salt=8)
    with torch.no_grad():
        rough(tokens)
        exact = _doubled(rough, subject)
        chosen: list[Tensor] = []
        expected = exact(tokens, signals=Signals(routing=chosen))
        found = rough(tokens, signals=Signals(replay=iter(chosen))).double()
    size = expected.square().mean().sqrt().item()
    errors_BT = (found - expected).square().mean(dim=-1)
    uneven = any(layer.mixer is not None and layer.mixer.rounding == "at-zeros" for layer in subject.graph.layers)
    error = (errors_BT.median() if uneven else errors_BT.mean()).sqrt().item()
    sublayers = sum(1 for layer in subject.graph.layers for _ in layer.sublayers())
    replayed = ", routing replayed" if chosen else ""
    where = " of the median token" if uneven else ""
    return within(error / max(size, 1e-30), bf16_bound(sublayers), f"relative RMS error of the logits{where}{replayed}")


def _doubled(rough: Model, subject: Subject) -> Model:
    exact = subject.fresh(torch.float64)
    with torch.no_grad():
        exact(subject.tokens(1, subject.length))
        for target, source in zip(exact.parameters(), rough.parameters(), strict=True):
            target.copy_(source)
    return exact


def no_nan(subject: Subject) -> Measure:
    """Loss and gradients stay finite on a repeated token, the last id, one token, and the longest context."""
    vocabulary, length = subject.probed.vocab_size, subject.length
    longest = min(subject.probed.context, _LONGEST_INPUT)
    inputs = {
        "one token repeated": torch.zeros(1, length, dtype=torch.int64),
        "the last id": torch.full((1, length), vocabulary - 1),
        "a single token": subject.tokens(1, 1).cpu(),
        f"{longest:,} tokens": subject.tokens(1, longest).cpu(),
    }
    for dtype in (torch.float32, torch.bfloat16):
        model = subject.fresh(dtype)
        for what, tokens in inputs.items():
            ill = _ill(model, tokens.to(model.device))
            if ill:
                return failed(f"{what} in {str(dtype).removeprefix('torch.')}: {ill} is not finite")
    return passed(f"{', '.join(inputs)}: finite in fp32 and bf16, forward and backward")


def _ill(model: Model, tokens_BT: Tensor) -> str:
    """What is not finite, or the empty text."""
    model.zero_grad(set_to_none=True)
    loss = model.loss(tokens_BT, tokens_BT)
    if not loss.isfinite():
        return "the loss"
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name}"
    with torch.no_grad():
        return "" if model(tokens_BT).isfinite().all() else "a logit"
