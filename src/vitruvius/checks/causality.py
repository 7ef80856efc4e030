"""Probes of who sees whom."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from vitruvius.checks.compare import EXACT, gap, worst_in
from vitruvius.checks.outcome import Measure, does_not_apply, failed, within
from vitruvius.checks.subject import training
from vitruvius.nn import Signals
from vitruvius.nn.place import BackendName, Place
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model

_PERTURBED = 12
"""Positions whose token is changed."""
_FLAT = 1e-3
"""What scores are multiplied by where only zero or not zero matters."""


def future_leak(subject: Subject) -> Measure:
    """Changing a token changes no earlier logits, and does change its own."""
    if not subject.probed.head.causal:
        return does_not_apply(f"a {subject.probed.head.kind} head may see later tokens")
    if subject.probed.vocab_size < 2:
        return does_not_apply("a vocabulary of one token")
    return leak_of(subject.model, subject.tokens(1, subject.length)[0], subject.probed.vocab_size)


def leak_of(model: Callable[[Tensor], Tensor], tokens_T: Tensor, vocab_size: int, *, bound: float = EXACT) -> Measure:
    """`future_leak` of anything that maps token ids [B, T] to logits [B, T, V]; `bound` is that of its precision."""
    length = tokens_T.shape[0]
    places = sorted({round(i * (length - 1) / (_PERTURBED - 1)) for i in range(_PERTURBED)})
    rows = tokens_T.repeat(len(places) + 1, 1)
    for row, place in enumerate(places):
        rows[row, place] = (rows[row, place] + 1 + row % max(1, vocab_size - 1)) % vocab_size
    with torch.no_grad():
        *changed, base = model(rows)
    worst, at = 0.0, (0, 0)
    for row, place in enumerate(places):
        if gap(changed[row][place], base[place]) <= EXACT:
            return failed(f"a new token at position {place} does not change the logits there")
        for earlier in range(place):
            moved = gap(changed[row][earlier], base[earlier])
            if not moved <= worst:
                worst, at = moved, (earlier, place)
    detail = f"tokens changed at {len(places)} of {length} positions"
    if not worst <= bound:
        detail = f"the logits at position {at[0]} move when the token at {at[1]} changes"
    return within(worst, bound, detail)


def attention_rows(subject: Subject) -> Measure:
    """Attention weights are zero where the pattern forbids, positive elsewhere; sums are one, less with sinks."""
    patterns = list(subject.patterns())
    if not patterns:
        return does_not_apply("no layer attends")
    heard: list[Tensor] = []
    layers = (*subject.graph.encoder, *subject.graph.layers)
    sharing = {layer.path for layer in layers if layer.mixer is not None and layer.mixer.row_sums == "below-one"}
    model = deepcopy(subject.model)
    for module in model.modules():
        scale = getattr(module, "scale", None)
        if isinstance(scale, float) and hasattr(module, "pattern"):
            # Large scores would round the weights of allowed pairs to zero.
            vars(module)["scale"] = scale * _FLAT
    with torch.no_grad(), backend(model, "reference"):
        model(subject.tokens(1, subject.length), signals=Signals(attention=heard))
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
                return failed(f"{layer}: query {query} {what} key {key} ({int(wrong.sum())} pairs)")
        sums_BHT = weights_BHTS.sum(dim=-1)
        if layer in sharing:
            if not bool(((sums_BHT > 0) & (sums_BHT < 1 - EXACT)).all()):
                return failed(f"{layer}: its sinks take no share of a row that sums to {sums_BHT.max():g}")
        else:
            worst = max(worst, (sums_BHT - 1).abs().max().item())
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
    where, most = worst_in(worst)
    detail = f"forward and {len(expected_gradients)} gradients against the reference"
    return within(most, EXACT, detail if most <= EXACT else f"{where} differs")


FP32 = 1e-4
"""Two fp32 computations of one thing: 2^-24 for each rounding, some hundred of them, and gradients of sums."""


def experts(subject: Subject) -> Measure:
    """Grouped products in fp32, as they train, equal the loop over experts, forward and backward."""
    mixtures = [layer for layer in subject.graph.every_layer() if isinstance(layer.ffn, Moe) and layer.owns_weights]
    if not mixtures:
        return does_not_apply("no mixtures of experts")
    generator = torch.Generator().manual_seed(subject.seed)
    worst: dict[str, float] = {}
    with training(subject.plain(torch.float32)) as model:
        for layer in mixtures:
            x_BTD = torch.randn(2, subject.length, subject.graph.scope.width, generator=generator).to(model.device)
            module, tokens_BT = model.get_submodule(f"{layer.path}.ffn"), subject.tokens(2, subject.length)
            for name, moved in _mixture(module, x_BTD, tokens_BT).items():
                worst[f"{layer.path}: {name}"] = moved
    where, most = worst_in(worst)
    detail = "grouped products against the loop over experts in fp32, routing replayed"
    return within(most, FP32, detail if most <= FP32 else f"{where} differs")


def _mixture(module: Any, x_BTD: Tensor, tokens_BT: Tensor) -> dict[str, float]:
    """How far output and gradients of one mixture differ between its fast path and its reference."""
    here = Place(positions=torch.arange(x_BTD.shape[1], device=x_BTD.device), tokens=tokens_BT)
    chosen: list[Tensor] = []
    with torch.no_grad():
        module(x_BTD, replace(here, signals=Signals(routing=chosen)))
    found: dict[str, dict[str, Tensor]] = {}
    for name in ("auto", "reference"):
        x = x_BTD.clone().requires_grad_()
        y = module(x, replace(here, backend=name, signals=Signals(replay=iter(chosen))))
        inputs = {"input": x, **{n: p for n, p in module.named_parameters() if n.startswith("experts.")}}
        gradients = torch.autograd.grad(y.sin().sum(), list(inputs.values()))
        found[name] = {"output": y.detach(), **{f"gradient of {n}": g for n, g in zip(inputs, gradients, strict=True)}}
    return {name: _relative(found["auto"][name], expected) for name, expected in found["reference"].items()}


def _relative(found: Tensor, expected: Tensor) -> float:
    """Root-mean-square difference relative to the size of what is expected."""
    size = expected.square().mean().sqrt().clamp_min(1e-12)
    return ((found - expected).square().mean().sqrt() / size).item()


def _run(model: Model, tokens_BT: Tensor, name: BackendName) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    with backend(model, name):
        logits = model(tokens_BT)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return logits.detach(), gradients


class backend:  # noqa: N801 (used as a statement: `with backend(model, "reference")`)
    """The model computes with one backend inside the block."""

    def __init__(self, model: Model, name: BackendName) -> None:
        self.model = model
        self.name: BackendName = name
        self.before: BackendName = model.backend

    def __enter__(self) -> None:
        self.model.backend = self.name

    def __exit__(self, *_: object) -> None:
        self.model.backend = self.before
