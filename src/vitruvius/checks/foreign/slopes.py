"""Probes of foreign models: whether gradients are derivatives, and how signals scale with depth."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.checks.compare import EXACT
from vitruvius.checks.depth import DOUBLING, FEWEST_LAYERS, WARNING, scales_of
from vitruvius.checks.foreign.learning import cross_entropy
from vitruvius.checks.foreign.precision import lifted
from vitruvius.checks.outcome import Measure, by_layer, does_not_apply, failed, within
from vitruvius.checks.wiring import SLOPE, directions_of, disagreement

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.checks.foreign.adapter import Foreign

_LENGTH = 24


def derivative(subject: Foreign) -> Measure:
    """The gradient of the loss is its derivative: it agrees with a difference quotient in a random direction."""
    if subject.precision.bound > EXACT:
        return does_not_apply(f"a difference quotient needs fp64 throughout: {subject.precision.note}")
    if subject.facts.headless:
        return does_not_apply("a body without a head")
    model = subject.exact()
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    tokens = subject.tokens(2, min(subject.length, 2 * _LENGTH), salt=61)

    def loss() -> Tensor:
        return cross_entropy(subject, model, tokens)

    with lifted(subject.precision), torch.enable_grad():
        value = loss()
        if not value.requires_grad:
            return does_not_apply("the logits have no gradient")
        value.backward()
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    directions = directions_of({name: parameters[name] for name in gradients}, subject.seed)
    with lifted(subject.precision):
        off = disagreement(loss, parameters, gradients, directions)
        detail = f"{len(gradients)} tensors along a random direction"
        if not off <= SLOPE:
            alone = {
                name: disagreement(loss, parameters, gradients, {name: direction})
                for name, direction in directions.items()
            }
            worst = max(alone, key=lambda name: alone[name])
            detail = f"the gradient of {worst} is not the derivative of the loss (a straight-through step is none)"
    return within(off, SLOPE, detail)


def init_scale(subject: Foreign) -> Measure:
    """Neither the stream nor its gradient grows by a factor per layer, from the first block to the last."""
    fresh = subject.fresh(subject.seed)
    model = (subject.copy() if fresh is None else fresh).float().eval()
    name, blocks = _stack(model)
    if len(blocks) < 2:
        return does_not_apply("no list of blocks that follow each other")
    streams: list[Tensor] = []
    handles = [block.register_forward_hook(_keep(streams)) for block in blocks]
    tokens = subject.tokens(2, min(subject.length, _LENGTH), salt=40)
    try:
        with torch.enable_grad():
            run = _run(subject, model, tokens)
            scales = scales_of(run, streams)
    except (RuntimeError, IndexError) as error:
        return does_not_apply(f"the stream between the blocks of {name} cannot be followed: {str(error)[:80]}")
    finally:
        for handle in handles:
            handle.remove()
    if len(streams) != len(blocks):
        return does_not_apply(f"{len(blocks)} blocks in {name}, and {len(streams)} gave a tensor [batch, time, width]")
    layers = [f"{name}.{index}" for index in range(len(blocks))]
    values = by_layer(layers, {"activation_rms": scales.activation, "gradient_rms": scales.gradient})
    if not all(isfinite(size) for size in (*scales.activation, *scales.gradient)):
        return failed("stream or gradient is not finite in fp32", values=values)
    what, factor = max(scales.doubling.items(), key=lambda item: max(item[1], 1 / max(item[1], 1e-30)))
    off = max(factor, 1 / max(factor, 1e-30))
    detail = (
        f"{len(blocks)} blocks: the stream grows {scales.growth:.3g} times, the gradient {scales.backward:.3g} times "
        "on its way back"
    )
    if len(blocks) < FEWEST_LAYERS or (fresh is None and subject.facts.weights == "trained"):
        return Measure(passed=True, detail=detail, values=values)
    told = f"{what} changes {off:.3g} times over half of the blocks"
    warning = told if WARNING < off <= DOUBLING else ""
    return within(off, DOUBLING, detail if off <= DOUBLING else told, values=values, warning=warning)


def _run(subject: Foreign, model: nn.Module, tokens_BT: Tensor) -> Callable[[], Tensor]:
    return lambda: subject.own_logits(model, tokens_BT)


def _stack(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """The longest list of modules with parameters; of several as long, the last, which is the decoder's."""
    name, longest = "", list[nn.Module]()
    for path, part in model.named_modules():
        if isinstance(part, nn.ModuleList | nn.Sequential):
            blocks = [block for block in part if any(True for _ in block.parameters())]
            if len(blocks) >= max(2, len(longest)) and len({type(block) for block in blocks}) <= 2:
                name, longest = path or "the sequence", blocks
    return name, longest


def _keep(streams: list[Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and first.dim() == 3 and first.requires_grad:
            streams.append(first)

    return hook
