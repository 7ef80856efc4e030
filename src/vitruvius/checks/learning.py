"""Probes of first loss, gradients and the ability to learn."""

from __future__ import annotations

from copy import deepcopy
from math import expm1, isfinite, log, sqrt
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.checks.compare import EXACT, gap, worst_of
from vitruvius.checks.outcome import Measure, failed, within
from vitruvius.nn import Signals
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.layer import Stack
from vitruvius.spec.node import LINEAR_ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Graph

INIT_NATS = 0.15
"""How far the first loss may lie from ln(vocabulary) + s^2 / 2."""
DEAD = 1e-13
"""A gradient this small beside the largest one is what rounding in fp64 leaves of zero."""
_WIDE_LOGITS = 1.0
_STANDS_OUT = 3.0
_INIT_TOKENS = 2048

OVERFIT_STEPS, OVERFIT_RATE, OVERFIT_LEFT = 60, 1e-2, 0.5
"""Most steps and learning rate of plain AdamW in fp32, and the share of the first loss that may be left after them.
The probe stops as soon as it gets there."""


def gradients(subject: Subject) -> Measure:
    """Each parameter tensor, and each expert of a mixture, has a finite, non-zero gradient."""
    model = subject.model
    wrong = _wrong_gradients(subject, model)
    if wrong:
        # Narrow first weights, multiplied many times over, may leave less than rounding does: draw them wide.
        wrong = _wrong_gradients(subject, _roused(subject, model))
    count = sum(1 for _ in model.parameters())
    if wrong:
        return failed("; ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""))
    silent = silent_tensors(subject.graph, max(subject.length, 2) - 1)
    note = f"; {len(silent)} cannot have one by their mathematics" if silent else ""
    return Measure(passed=True, detail=f"{count} tensors, experts one by one{note}")


def _wrong_gradients(subject: Subject, model: Model) -> list[str]:
    """What is wrong with the gradients of one backward pass."""
    tokens = subject.tokens(4, max(subject.length, 2))
    seen = tokens.numel() - tokens.shape[0]
    signals = Signals(
        replay=forced_routing(subject.graph, seen, tokens.device, batch=tokens.shape[0], source=subject.length)
    )
    model.zero_grad(set_to_none=True)
    loss = model.loss(tokens[:, :-1], tokens[:, 1:], signals=signals)
    torch.stack([loss, *signals.losses]).sum().backward()
    silent = silent_tensors(subject.graph, tokens.shape[1] - 1)
    largest = worst_of(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None)
    nothing = DEAD * largest if isfinite(largest) else 0.0
    wrong = [text for name, p in model.named_parameters() if (text := _ill(name, p, subject.graph, silent, nothing))]
    model.zero_grad(set_to_none=True)
    return wrong


def _roused(subject: Subject, model: Model) -> Model:
    """A copy with every matrix drawn so that it keeps the size of what goes through it."""
    model = deepcopy(model)
    generator = torch.Generator().manual_seed(subject.seed + 2)
    tensors = subject.graph.tensors()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors and tensors[name].role in LINEAR_ROLES:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn / sqrt(parameter.shape[-1]))
    return model


def _ill(name: str, parameter: Tensor, graph: Graph, silent: set[str], nothing: float) -> str:
    """What is wrong with a parameter's gradient, or the empty text; values up to `nothing` are rounding."""
    gradient = parameter.grad
    if not parameter.requires_grad:
        return f"{name} is frozen"
    if gradient is None:
        return "" if name in silent else f"{name} takes no part in the loss"
    if not gradient.isfinite().all():
        return f"{name} has a gradient that is not finite"
    if name in silent:
        return ""
    tensor = graph.tensors().get(name)
    if tensor is not None and tensor.used != (1, 1):
        dead = (gradient.flatten(1).abs().amax(dim=1) <= nothing).nonzero().flatten().tolist()
        return f"{name}: experts {dead[:8]} have no gradient" if dead else ""
    return "" if gradient.abs().max() > nothing else f"{name} has a gradient of zero"


def silent_tensors(graph: Graph, length: int) -> set[str]:
    """Tensors whose gradient is zero by mathematics, not by mistake.

    The last bias on keys adds the same to all scores of a query, which a softmax ignores, unless keys are rotated. With
    one key per query the softmax is one whatever the scores are. A router of one expert gives a constant weight.
    """
    silent: set[str] = set()
    for layer in graph.every_layer():
        if layer.owns_weights:
            for name, component in layer.sublayers():
                silent |= {f"{layer.path}.{name}.{tensor}" for tensor in component.silent(layer.scope, length)}
    return silent & set(graph.tensors())


def forced_routing(
    graph: Graph, tokens: int, device: torch.device, *, batch: int = 1, source: int = 0
) -> Iterator[Tensor]:
    """What the router of each mixture is to choose in a pass over `tokens` tokens, so that every expert gets some.

    The first tokens go round all experts; the others to the first few, since a perfectly even load has no gradient in
    the balance loss. Multi-token prediction looks at fewer tokens of each of the `batch` rows, an encoder at `source`.
    """
    for layer in graph.every_layer():
        if isinstance(layer.ffn, Moe):
            ahead = batch * (layer.index + 1)
            seen = {Stack.MAIN: tokens, Stack.ENCODER: source, Stack.MTP: tokens - ahead}[layer.stack]
            yield _spread(layer.ffn, seen, device)


def _spread(moe: Moe, tokens: int, device: torch.device) -> Tensor:
    """Chosen experts [N, top_k], or where experts choose, who is taken, [N, E] bool."""
    index = torch.arange(tokens, device=device)
    first = torch.where(index < max(tokens // 2, moe.experts), index * moe.top_k, 0)
    chosen = (first.unsqueeze(1) + torch.arange(moe.top_k, device=device)) % moe.experts
    if moe.router.chooses == "experts":
        return chosen
    return torch.zeros(tokens, moe.experts, dtype=torch.bool, device=device).scatter_(1, chosen, value=True)


def loss_path(subject: Subject) -> Measure:
    """`model.loss`, which never holds all logits, equals the cross-entropy of `model(tokens)`, gradients included."""
    model, tokens = subject.model, subject.tokens(2, max(subject.length, 2), salt=4)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, : targets.shape[1] // 3] = -100
    found = _graded(model, lambda: model.loss(inputs, targets))
    expected = _graded(model, lambda: F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))
    worst = worst_of(gap(a, b) for a, b in zip(found, expected, strict=True))
    return within(worst, EXACT, "loss and its gradients, with targets that count nothing")


def _graded(model: Model, loss: object) -> list[Tensor]:
    """The loss, then the gradient of each parameter that has one."""
    model.zero_grad(set_to_none=True)
    value: Tensor = loss()  # pyright: ignore[reportCallIssue]
    value.backward()
    found = [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    model.zero_grad(set_to_none=True)
    return found


def init_loss(subject: Subject) -> Measure:
    """A fresh model knows nothing: its loss is ln(vocabulary) plus half the variance of its logits."""
    model = subject.plain(torch.float32)
    length = min(subject.length, 128)
    tokens = subject.tokens(max(1, _INIT_TOKENS // length), length, salt=5)
    with torch.no_grad():
        logits = model(tokens).double()
        targets = subject.tokens(*tokens.shape, salt=6)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
        # The few targets that were drawn are a sample; every token being as likely, this is their expectation.
        chance = (logits.mean(dim=-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).mean().item()
        loss -= chance
        spread = logits.var(dim=-1, correction=0).mean().sqrt().item()
        own = (logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.mean(dim=-1)).mean().item()
    vocabulary = subject.probed.vocab_size
    expected = log(vocabulary) + spread**2 / 2
    warning = ""
    if spread > _WIDE_LOGITS:
        warning = f"logits spread by s = {spread:.2f} at first; above 1 the first steps only undo that (smaller init?)"
    detail = f"loss {loss:.4f}, ln({vocabulary:,}) + s^2/2 = {expected:.4f} with s = {spread:.3f}"
    bound = INIT_NATS + chance_in_few_tokens(spread, vocabulary)
    if abs(loss - expected) > bound and own > _STANDS_OUT * spread:
        detail += f"; the token just read stands out by {own:.1f} (a tied head and a wide table predict repeats)"
    return within(abs(loss - expected), bound, detail, warning=warning)


def chance_in_few_tokens(spread: float, vocabulary: int) -> float:
    """What a small vocabulary leaves to chance in nats, at most as much again as the bound itself.

    s^2/2 is the limit of ln(mean exp z) over many tokens; the mean of `vocabulary` of them has a relative standard
    deviation of sqrt((exp(s^2) - 1) / vocabulary). Beyond a few thousand tokens this vanishes.
    """
    return min(INIT_NATS, sqrt(expm1(min(spread, 5.0) ** 2) / vocabulary))


def overfit(subject: Subject) -> Measure:
    """Plain AdamW in fp32 brings the loss on one small batch well down: information and gradients flow."""
    model = subject.fresh(torch.float32)
    tokens = subject.tokens(2, max(2, min(subject.length, 17)), salt=7)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        model(inputs)  # learned positions grow before the optimizer takes hold of them
    optimizer = torch.optim.AdamW(model.parameters(), lr=OVERFIT_RATE, weight_decay=0.0, foreach=True)
    first, last, step = 0.0, 0.0, 0
    for step in range(OVERFIT_STEPS + 1):
        loss = model.loss(inputs, targets)
        last = loss.item()
        first = last if step == 0 else first
        if not last > OVERFIT_LEFT * first:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    detail = f"loss {first:.3f} -> {last:.3f} in {step} steps on {inputs.numel()} tokens"
    return within(last / first if first else 0.0, OVERFIT_LEFT, detail)
