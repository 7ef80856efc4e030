"""Probes of who sees whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.checks.compare import EXACT, gap
from vitruvius.checks.outcome import Measure, does_not_apply, failed, within
from vitruvius.nn import Signals
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

_PERTURBED = 12
"""Positions whose token is changed."""


def future_leak(subject: Subject) -> Measure:
    """Changing a token changes no earlier logits, and does change its own."""
    if not subject.probed.head.causal:
        return does_not_apply(f"a {subject.probed.head.kind} head may see later tokens")
    if subject.probed.vocab_size < 2:  # noqa: PLR2004
        return does_not_apply("a vocabulary of one token")
    return leak_of(subject.model, subject.tokens(1, subject.length)[0], subject.probed.vocab_size)


def leak_of(model: Model, tokens_T: Tensor, vocab_size: int) -> Measure:
    """`future_leak` of anything that maps token ids [B, T] to logits [B, T, V]."""
    length = tokens_T.shape[0]
    places = sorted({round(i * (length - 1) / (_PERTURBED - 1)) for i in range(_PERTURBED)})
    rows = tokens_T.repeat(len(places), 1)
    for row, place in enumerate(places):
        rows[row, place] = (rows[row, place] + 1 + row % max(1, vocab_size - 1)) % vocab_size
    with torch.no_grad():
        base, changed = model(tokens_T.unsqueeze(0)), model(rows)
    worst, at = 0.0, (0, 0)
    for row, place in enumerate(places):
        if gap(changed[row, place], base[0, place]) <= EXACT:
            return failed(f"a new token at position {place} does not change the logits there")
        for earlier in range(place):
            moved = gap(changed[row, earlier], base[0, earlier])
            if not moved <= worst:
                worst, at = moved, (earlier, place)
    detail = f"tokens changed at {len(places)} of {length} positions"
    if not worst <= EXACT:
        detail = f"the logits at position {at[0]} move when the token at {at[1]} changes"
    return within(worst, EXACT, detail)


def attention_rows(subject: Subject) -> Measure:
    """Attention weights sum to one, are exactly zero where the pattern forbids, and positive where it allows."""
    patterns = list(subject.patterns())
    if not patterns:
        return does_not_apply("no layer attends")
    heard: list[Tensor] = []
    with torch.no_grad(), backend(subject.model, "reference"):
        subject.model(subject.tokens(1, subject.length), signals=Signals(attention=heard))
    if len(heard) != len(patterns):
        return failed(f"{len(patterns)} layers attend and {len(heard)} reported their weights")
    worst = 0.0
    place = torch.arange(subject.length)
    for (layer, pattern), weights_BHTS in zip(patterns, heard, strict=True):
        allowed = pattern.allows(place.unsqueeze(1), place)
        seen = (weights_BHTS.cpu() > 0).all(dim=(0, 1))
        touched = (weights_BHTS.cpu() != 0).any(dim=(0, 1))
        for wrong, what in ((touched & ~allowed, "sees forbidden"), (allowed & ~seen, "misses allowed")):
            if wrong.any():
                query, key = (int(i) for i in wrong.nonzero()[0])
                return failed(f"layer {layer}: query {query} {what} key {key} ({int(wrong.sum())} pairs)")
        worst = max(worst, (weights_BHTS.sum(dim=-1) - 1).abs().max().item())
    return within(worst, EXACT, f"{len(patterns)} layers, every pair of {subject.length} x {subject.length}")


def backends(subject: Subject) -> Measure:
    """What the table chooses, with and without gradients, equals the readable reference, forward and backward."""
    tokens = subject.tokens(2, subject.length)
    chosen, chosen_gradients = _run(subject.model, tokens, "auto")
    expected, expected_gradients = _run(subject.model, tokens, "reference")
    with torch.no_grad():
        inference = subject.model(tokens)
    worst = {"training forward": gap(chosen, expected), "inference forward": gap(inference, expected)}
    for name, gradient in expected_gradients.items():
        worst[f"gradient of {name}"] = gap(chosen_gradients[name], gradient)
    where = max(worst, key=lambda name: worst[name] if worst[name] == worst[name] else float("inf"))
    detail = f"forward and {len(expected_gradients)} gradients against the reference"
    return within(worst[where], EXACT, detail if worst[where] <= EXACT else f"{where} differs")


FP32 = 1e-4
"""Two fp32 computations of one thing: 2^-24 for each rounding, some hundred of them, and gradients of sums."""


def experts(subject: Subject) -> Measure:
    """Grouped products, which exist in fp32 and bf16 only, equal the loop over experts, forward and backward."""
    if not any(isinstance(layer.ffn, Moe) for layer in subject.graph.layers):
        return does_not_apply("no mixtures of experts")
    model = subject.fresh(torch.float32)
    tokens = subject.tokens(2, subject.length)
    chosen: list[Tensor] = []
    with torch.no_grad():
        model(tokens, signals=Signals(routing=chosen))
    found, gradients = _run(model, tokens, "auto", chosen)
    expected, looped = _run(model, tokens, "reference", chosen)
    worst = {name: _relative(gradients[name], looped[name]) for name in looped if ".ffn." in name}
    worst["logits"] = _relative(found, expected)
    where = max(worst, key=lambda name: worst[name] if worst[name] == worst[name] else float("inf"))
    detail = "grouped products against the loop over experts in fp32, routing replayed"
    return within(worst[where], FP32, detail if worst[where] <= FP32 else f"{where} differs")


def _relative(found: Tensor, expected: Tensor) -> float:
    """Root-mean-square difference relative to the size of what is expected."""
    size = expected.square().mean().sqrt().clamp_min(1e-12)
    return ((found - expected).square().mean().sqrt() / size).item()


def _run(
    model: Model, tokens_BT: Tensor, name: str, replay: list[Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    signals = None if replay is None else Signals(replay=iter(replay))
    with backend(model, name):
        logits = model(tokens_BT, signals=signals)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return logits.detach(), gradients


class backend:  # noqa: N801 (used as a statement: `with backend(model, "reference")`)
    """The model computes with one backend inside the block."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name, self.before = model, name, model.backend

    def __enter__(self) -> None:
        self.model.backend = self.name  # pyright: ignore[reportAttributeAccessIssue]

    def __exit__(self, *_: object) -> None:
        self.model.backend = self.before
