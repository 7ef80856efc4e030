"""Probes of foreign models: number formats, and inputs at the edges."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vitruvius.checks.adversarial import LARGE, adversarial_tokens
from vitruvius.checks.compare import gap
from vitruvius.checks.foreign.looking import embeddings_of
from vitruvius.checks.numerics import bf16_bound
from vitruvius.checks.outcome import Measure, does_not_apply, failed, passed, within

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitruvius.checks.foreign.adapter import Foreign

_PRODUCTS_OF_A_SUBLAYER = 4
"""Attention has four projections and two products of its own, a gated feed-forward three."""
_LONGEST, _AFFORDABLE = 2048, 2e10
"""Most tokens of a probe, and operations of a pass that it spends: seconds on a slow processor."""
_VALUES = 2**26
"""Logits that a pass may hold: half a gigabyte in fp64."""
_SHORT_OF = 8
"""Tokens less than the context declares, where some rows of a table of positions are kept for other things."""
_STEPS = 3


@torch.no_grad()
def bf16(subject: Foreign) -> Measure:
    """The model in bf16 stays close to the finest precision with the same (rounded) weights, in the median token."""
    tokens = subject.tokens(2, subject.length, salt=8)
    rough, context, how = subject.copy(torch.bfloat16), nullcontext(), "weights in bf16"
    try:
        found = subject.own_logits(rough, tokens)
    except Exception as error:  # noqa: BLE001 (buffers and kernels of others may have no bf16)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        rough = subject.copy(torch.float32)
        context, how = torch.autocast(subject.device.type, torch.bfloat16), f"autocast (bf16 weights raised {why})"
        try:
            with context:
                found = subject.own_logits(rough, tokens)
        except Exception:  # noqa: BLE001 (as above)
            return does_not_apply(f"does not run in bf16: {why}")
    fine = subject.exact()
    own, theirs = dict(rough.state_dict()), fine.state_dict()
    fine.load_state_dict({name: own[name].to(value.dtype) for name, value in theirs.items()})
    expected = subject.logits(fine, tokens).double()
    found = found.double()
    if not found.isfinite().all():
        return failed(f"logits in bf16 are not finite ({how})")
    size = expected.square().mean().sqrt().item()
    errors_BT = (found - expected).square().mean(dim=-1).sqrt()
    sublayers = max(1, subject.precision.products // _PRODUCTS_OF_A_SUBLAYER)
    error, worst = errors_BT.median().item() / max(size, 1e-30), errors_BT.max().item() / max(size, 1e-30)
    detail = f"relative RMS error of the median token's logits, {worst:.2g} of the worst; {how}"
    return within(error, bf16_bound(sublayers), detail)


def no_nan(subject: Foreign) -> Measure:
    """Logits and gradients stay finite on a repeated token, the last id and a single token, in fp32 and bf16."""
    length, ids = subject.length, subject.ids
    inputs = {
        "one token repeated": ids[:1].repeat(1, length),
        "the last id": ids[-1:].repeat(1, length),
        "a single token": subject.tokens(1, 1),
        f"{length} tokens": subject.tokens(1, length),
    }
    return _finite(subject, inputs)


def adversarial(subject: Foreign) -> Measure:
    """Short periods, runs and rare ids stay finite, as do embeddings a hundred times as large."""
    texts = adversarial_tokens(subject.ids.numel(), subject.length)
    inputs = {name: subject.ids[text_T.to(subject.device)].unsqueeze(0) for name, text_T in texts.items()}
    found = _finite(subject, inputs)
    if not found.passed:
        return found
    model = subject.copy(torch.float32)
    with torch.no_grad():
        for table in embeddings_of(model):
            weight = getattr(table, "weight", None)
            if isinstance(weight, torch.Tensor):
                weight.mul_(LARGE)
    ill = _not_finite(subject, model, subject.tokens(1, subject.length))
    warning = f"embeddings x {LARGE:g}: {ill} is not finite" if ill else ""
    beside = "" if ill else f"; embeddings x {LARGE:g} too"
    return replace(found, warning=warning, detail=found.detail + beside)


def _finite(subject: Foreign, inputs: dict[str, Tensor]) -> Measure:
    formats: list[str] = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for what, tokens in inputs.items():
            try:
                ill = _not_finite(subject, subject.copy(dtype), tokens)
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                if dtype == torch.float32:
                    raise
                break  # the probe of bf16 says whether the model runs in it
            if ill:
                return failed(f"{what} in {name}: {ill} is not finite")
        else:
            formats.append(name)
    return passed(f"{', '.join(inputs)}: finite in {' and '.join(formats)}, forward and backward")


@torch.no_grad()
def length_stress(subject: Foreign) -> Measure:
    """As many tokens as the context declares, or as can be afforded, are finite, and decoding equals the full pass."""
    context = subject.facts.context
    if context is None:
        return does_not_apply("no context is declared")
    count = max(1, sum(parameter.numel() for parameter in subject.given.parameters()))
    most = min(context, _LONGEST, int(_AFFORDABLE / (2 * count)), _VALUES // subject.facts.vocab_size)
    length = max(subject.length, most)
    model, warning = subject.exact(), ""
    try:
        logits = subject.logits(model, subject.tokens(1, length))
    except (IndexError, RuntimeError) as error:
        shorter = length - _SHORT_OF
        if length < context or shorter < subject.length:
            raise
        warning = f"{length:,} tokens, which the config declares, raise {type(error).__name__}; {shorter:,} do not"
        logits, length = subject.logits(model, subject.tokens(1, shorter)), shorter
    if not logits.isfinite().all():
        return failed(f"{length:,} tokens: logits are not finite")
    ran = f"{length:,} of {context:,} tokens"
    if subject.call.cache is None or not subject.facts.causal:
        return passed(f"{ran}: finite", warning=warning)
    tokens, parts = subject.tokens(1, length), list[torch.Tensor]()
    cache: object = None
    for start, stop in [(0, length - _STEPS), *((i, i + 1) for i in range(length - _STEPS, length))]:
        part, cache = subject.cached(model, tokens[:, start:stop], cache)
        if cache is None:
            return passed(f"{ran}: finite", warning=warning)
        parts.append(part)
    off = gap(torch.cat(parts, dim=1), logits)
    bound = subject.cache_bound
    how = "finite, decoding equals the full pass" if off <= bound else "decoding differs from the full pass"
    return within(off, bound, f"{ran}: {how}", warning=warning)


def _not_finite(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> str:
    """What is not finite, or the empty text."""
    with torch.enable_grad():
        logits = subject.own_logits(model, tokens_BT)
        if not logits.isfinite().all():
            return "a logit"
        if not logits.requires_grad:
            return ""
        logits.float().logsumexp(dim=-1).mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name}"
    return ""
