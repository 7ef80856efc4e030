"""Probes of number formats and of inputs at the edges."""

from __future__ import annotations

from copy import deepcopy
from math import sqrt
from typing import TYPE_CHECKING

import torch

from vitruvius.checks.outcome import Measure, does_not_apply, failed, passed, within
from vitruvius.checks.subject import training
from vitruvius.nn import Signals
from vitruvius.spec.mixers.rwkv7 import RWKV7

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

_EPSILON = 2.0**-8
"""Spacing of bf16 numbers at one."""
_SLACK = 4.0
_ALL = 0.7
"""An error so large that nothing of the answer is left: no sensitivity excuses that."""
_LONGEST_INPUT = 2048
_SIGN = 2
"""Channels of which a LayerNorm leaves nothing but which one is larger."""


def bf16_bound(sublayers: int) -> float:
    """Root-mean-square error that bf16 may leave in the logits, relative to their own size.

    Each sublayer rounds its input, its inner products and its sum into the residual stream: a handful of relative
    errors of at most 2^-9 each. They are independent, so they add up like a random walk, sqrt(sublayers), to which the
    embedding and the head add one each. The slack of 4 covers the handful and sharp scores, whose rounding a softmax
    amplifies: random specs drawn with Kaiming's wide matrices use up to half of the bound, plain ones a tenth.

    A mixer that normalises what each head read (Gated DeltaNet, GLA and their kin) gives a direction: where a query
    happens to be orthogonal to all that is stored, rounding decides which, and one such token can be wrong altogether.
    There the median over tokens is held against the bound: it uses up to 0.8 of it, the mean up to 7 times as much.

    Several such layers of wide matrices pass each other's errors on, above all where a head is so narrow that its norm
    is little more than a sign. What that comes to is measured (`_stream_rounded`): an error beyond this bound is held
    against four times what the same model, exact but for the stream between its sublayers, makes of rounding that.
    """
    return _SLACK * _EPSILON * sqrt(sublayers + 2)


def bf16(subject: Subject) -> Measure:
    """The model in bf16 stays close to fp64 with the same (rounded) weights, each token through the same experts."""
    rough = subject.plain(torch.bfloat16)
    tokens = subject.tokens(2, subject.length, salt=8)
    with torch.no_grad():
        rough(tokens)  # learned positions grow before they are copied
        exact = deepcopy(rough).double()
        chosen: list[Tensor] = []
        expected = exact(tokens, signals=Signals(routing=chosen))
        found = rough(tokens, signals=Signals(replay=iter(chosen))).double()
    uneven = any(layer.mixer is not None and layer.mixer.rounding == "at-zeros" for layer in subject.graph.layers)
    error = _error(found, expected, uneven=uneven)
    bound = bf16_bound(sum(1 for layer in subject.graph.layers for _ in layer.sublayers()))
    where = (" of the median token" if uneven else "") + (", routing replayed" if chosen else "")
    warning = ""
    if error > bound:
        moved = _error(_stream_rounded(exact, tokens, chosen), expected, uneven=uneven)
        if error <= _SLACK * moved and error < _ALL:
            bound = _SLACK * moved
            warning = f"rounding the stream alone moves the logits by {moved:.0%}: these first weights amplify errors"
        elif any(isinstance(layer.mixer, RWKV7) and layer.mixer.head_width == _SIGN for layer in subject.graph.layers):
            what = "a LayerNorm over heads of 2 channels is a sign, which rounding turns round"
            return does_not_apply(f"{what}: {error:.0%} of the logits is lost, and no bound holds")
    return within(error, bound, f"relative RMS error of the logits{where}", warning=warning)


def _error(found: Tensor, expected: Tensor, *, uneven: bool) -> float:
    """Root mean square of the difference, of all tokens or of the median one, relative to that of what is expected."""
    errors_BT = (found - expected).square().mean(dim=-1)
    error = errors_BT.median() if uneven else errors_BT.mean()
    return error.sqrt().item() / max(expected.square().mean().sqrt().item(), 1e-30)


@torch.no_grad()
def _stream_rounded(exact: Model, tokens_BT: Tensor, chosen: list[Tensor]) -> Tensor:
    """Logits where what goes into sublayers, and what comes out, is rounded to bf16 and nothing else is."""

    def rounded(x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).to(x.dtype)

    layers = {id(layer): layer for layer in (*exact.layers, *(exact.encoder.layers if exact.encoder else ()))}
    parts = [part for layer in layers.values() for name in ("mixer", "cross", "ffn") if (part := getattr(layer, name))]
    handles = [part.register_forward_pre_hook(lambda _m, given: (rounded(given[0]), *given[1:])) for part in parts]
    handles += [part.register_forward_hook(lambda _m, _given, out: rounded(out)) for part in (*parts, *layers.values())]
    try:
        return exact(tokens_BT, signals=Signals(replay=iter(chosen)))
    finally:
        for handle in handles:
            handle.remove()


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
        with training(subject.plain(dtype)) as model:
            for what, tokens in inputs.items():
                ill = _ill(model, tokens.to(model.device))
                model.zero_grad(set_to_none=True)
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
