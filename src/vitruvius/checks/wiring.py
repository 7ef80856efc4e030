"""Probes of how layers are wired: residuals around sublayers, gradients that are derivatives, tokens ahead."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.compare import EXACT, gap, worst_in
from vitruvius.checks.outcome import Measure, does_not_apply, failed, within
from vitruvius.nn import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Layer

SLOPE = 1e-4
"""How far a directional derivative may lie from the difference quotient, relative to its size."""
_STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
"""Steps of the difference quotient, taken until one is short enough: where a norm divides by little, the loss bends
within 1e-5, and rounding leaves less than 1e-5 of the smallest. A wrong gradient disagrees at all of them."""
_LONGEST = 64
_FLATTEST = 1e-5
"""A slope below this is held against this: a loss of a few nats is rounded to 1e-15, over a step of 1e-8."""
_LEAST = 1e-3
"""Directions are as long as the tensors they change, and at least this per value."""


@torch.no_grad()
def residual(subject: Subject) -> Measure:
    """Each layer adds what its sublayers give to the stream it was given, scaled and normalised where the spec says."""
    model = subject.model
    generator = torch.Generator().manual_seed(subject.seed + 6)
    width = subject.graph.scope.width
    given_D = torch.randn(width, generator=generator, dtype=torch.float64).to(model.device)
    through: list[tuple[Tensor, Tensor]] = []
    layers = [*subject.graph.encoder, *subject.graph.layers]
    modules = _each_once([*(model.encoder.layers if model.encoder else ()), *model.layers])
    handles = [module.register_forward_hook(_keep(through)) for module in modules]
    for module in modules:
        parts = (getattr(module, name) for name in ("mixer", "cross", "ffn"))
        handles += [part.register_forward_hook(_instead(given_D)) for part in parts if part is not None]
    try:
        model(subject.tokens(1, min(subject.length, _LONGEST), salt=60))
    finally:
        for handle in handles:
            handle.remove()
    if len(through) != len(layers):
        return failed(f"{len(layers)} layers, and {len(through)} took part in the pass")
    gaps = {
        layer.path: gap(after, _expected(layer, model.get_submodule(_owner(layer)), before, given_D))
        for layer, (before, after) in zip(layers, through, strict=True)
    }
    where, most = worst_in(gaps)
    detail = f"{len(layers)} layers with sublayers that give a known vector"
    return within(most, EXACT, detail if most <= EXACT else f"{where} does something else to the stream")


def _owner(layer: Layer) -> str:
    return layer.stack.value.format(index=layer.weights)


def _expected(layer: Layer, module: Any, x_BTD: Tensor, given_D: Tensor) -> Tensor:
    """The stream after a layer whose every sublayer gives the same vector."""
    scale = layer.branch_scale
    for name, _ in layer.sublayers():
        norm, out_norm = getattr(module, f"{name}_norm"), getattr(module, f"{name}_out_norm")
        y_BTD = given_D.expand_as(x_BTD)
        match layer.norm_place:
            case "post":
                x_BTD = norm(x_BTD + scale * y_BTD)
            case "output":
                x_BTD = x_BTD + scale * norm(y_BTD)
            case "sandwich":
                x_BTD = x_BTD + scale * out_norm(y_BTD)
            case _:
                x_BTD = x_BTD + scale * y_BTD
    return x_BTD


def _each_once(modules: Iterable[Any]) -> list[Any]:
    return list({id(module): module for module in modules}.values())


def _keep(through: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        through.append((inputs[0], output))

    return hook


def _instead(given_D: Tensor) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return given_D.to(output.dtype).expand_as(output)

    return hook


# ----------------------------------------------------------------------------------------------------------------------


def derivative(subject: Subject) -> Measure:
    """The gradient of the loss is its derivative: it agrees with a difference quotient in a random direction."""
    model = subject.model
    tokens = subject.tokens(2, max(2, min(subject.length, _LONGEST)), salt=61)
    chosen: list[Tensor] = []
    with torch.no_grad():
        _loss(model, tokens, Signals(routing=chosen))

    def loss() -> Tensor:
        return _loss(model, tokens, Signals(replay=iter(chosen)))

    parameters = dict(model.named_parameters())
    model.zero_grad(set_to_none=True)
    loss().backward()
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    directions = directions_of({name: parameters[name] for name in gradients}, subject.seed)
    try:
        off = disagreement(loss, parameters, gradients, directions)
        detail = f"{len(gradients)} tensors along a random direction, routing replayed"
        if not off <= SLOPE:
            alone = {n: disagreement(loss, parameters, gradients, {n: d}) for n, d in directions.items()}
            detail = f"the gradient of {worst_in(alone)[0]} is not the derivative of the loss"
    finally:
        model.zero_grad(set_to_none=True)
    return within(off, SLOPE, detail)


def _loss(model: Model, tokens_BT: Tensor, signals: Signals) -> Tensor:
    """The whole objective, auxiliary losses included."""
    loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:], signals=signals)
    return torch.stack([loss, *signals.losses]).sum()


def directions_of(parameters: dict[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """A random direction for each parameter, about as long as the parameter itself."""
    generator = torch.Generator().manual_seed(seed + 7)
    found: dict[str, Tensor] = {}
    for name, p in parameters.items():
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        found[name] = drawn * p.detach().square().mean().sqrt().clamp_min(_LEAST)
    return found


@torch.no_grad()
def disagreement(
    loss: Callable[[], Tensor],
    parameters: dict[str, nn.Parameter],
    gradients: dict[str, Tensor],
    directions: dict[str, Tensor],
) -> float:
    """|g . d - difference quotient along d| over the size that g . d has in a random direction."""
    said = sum((gradients[name] * d).sum().item() for name, d in directions.items())
    size = sum((gradients[name] * d).square().sum().item() for name, d in directions.items()) ** 0.5
    before = {name: parameters[name].clone() for name in directions}
    best = inf
    for step in _STEPS:
        ends: list[float] = []
        for sign in (1, -1):
            for name, d in directions.items():
                parameters[name].copy_(before[name] + sign * step * d)
            ends.append(loss().item())
        best = min(best, abs((ends[0] - ends[1]) / (2 * step) - said) / max(size, _FLATTEST))
        if best <= SLOPE:
            break
    for name, kept in before.items():
        parameters[name].copy_(kept)
    return best


# ----------------------------------------------------------------------------------------------------------------------


def tokens_ahead(subject: Subject) -> Measure:
    """Multi-token prediction reads the tokens up to the one before its target, and none later."""
    model, depth = subject.model, len(subject.graph.mtp)
    if not depth:
        return does_not_apply("no multi-token prediction")
    length = max(subject.length, depth + 4)
    vocabulary = subject.probed.vocab_size
    if vocabulary < 2 or length > subject.probed.context:
        return does_not_apply(f"{vocabulary} tokens in a context of {subject.probed.context}")
    tokens, targets = subject.tokens(1, length, salt=62), subject.tokens(1, length, salt=63)
    place = length // 2
    one = torch.full_like(targets, -100)
    one[:, place] = targets[:, place]

    @torch.no_grad()
    def ahead(ids: Tensor) -> Tensor:
        signals = Signals()
        model.loss(ids, one, signals=signals)
        return signals.metrics["mtp_loss"][0]

    base = ahead(tokens)
    for distance in range(1, length - place):
        moved = gap(ahead(_changed(tokens, place + distance, vocabulary)), base)
        if not moved <= EXACT:
            what = f"the loss of the target after position {place} moves with the token at {place + distance}"
            return failed(what, measured=moved, bound=EXACT)
        if distance > depth + 2:
            break
    if gap(ahead(_changed(tokens, place, vocabulary)), base) <= EXACT:
        return failed(f"the loss of the target after position {place} does not depend on the token there")
    return within(0.0, EXACT, f"{depth} tokens ahead, of a target in the middle of {length} tokens")


def _changed(tokens_BT: Tensor, place: int, vocabulary: int) -> Tensor:
    changed = tokens_BT.clone()
    changed[:, place] = (changed[:, place] + 1) % vocabulary
    return changed
