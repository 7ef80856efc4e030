"""How the first forward and backward pass scale with depth: the stream's size and its gradient, layer by layer.

What a sublayer adds at first depends on how wide the maps are that make it (std x sqrt(fan in)), and a twin's are
narrow. So the twin is given the depth of the full size where that stays small, and its matrices are redrawn as wide as
makes each map's gain that of the full size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, isfinite, log, sqrt
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.outcome import Measure, by_layer, failed, within
from vitruvius.nn import build
from vitruvius.spec import resolve
from vitruvius.spec.node import LINEAR_ROLES
from vitruvius.spec.widen import weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vitruvius.checks.subject import Subject
    from vitruvius.nn import Model
    from vitruvius.spec import Architecture, Graph
    from vitruvius.spec.layer import Stack

MOST_PARAMETERS = 3_000_000
"""A twin with the full depth is run when it has no more than these."""
MOST_LAYERS = 128
FEWEST_LAYERS = 8
"""A stack of fewer has no rate per layer to speak of: what its layers differ in weighs more."""
DOUBLING, WARNING = 64.0, 8.0
"""How much stream or gradient may grow or shrink over the second half of a stack, at the median layer's rate.

What grows as a power of the depth changes by 2^power when the depth doubles: 1.4 where fresh sublayers add up like a
random walk, 2 where they all point one way, 2 to 5 in gradients that pass norms; 8 is the third power and 64 the sixth.
What grows by a factor per layer leaves any power behind: 1.3 per layer makes 64 of 16 layers.
"""
_DEVIATIONS = 6.0
"""Standard errors by which the spread of a drawn tensor may miss what the init says."""
_FEWEST_VALUES = 64
_ROWS, _LENGTH = 2, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Sizes along one stack."""

    activation: list[float]
    """Root mean square of the stream after each layer."""
    gradient: list[float]
    """The same of the gradient that reaches it, relative to that at the last layer."""

    @property
    def growth(self) -> float:
        """How much larger the stream leaves the last layer than the first."""
        return _ratio(self.activation[-1], self.activation[0])

    @property
    def backward(self) -> float:
        """How much larger the gradient is at the first layer than at the last."""
        return _ratio(self.gradient[0], self.gradient[-1])

    @property
    def doubling(self) -> dict[str, float]:
        """By what factor each changes over the second half of the stack, at the rate of its median layer."""
        half = len(self.activation) // 2
        return {
            "the stream": _at_median(self.activation[half - 1 :]) if half else 1.0,
            "the gradient": _at_median(self.gradient[half - 1 :][::-1]) if half else 1.0,
        }


def scales_of(run: Callable[[], Tensor], streams: Sequence[Tensor]) -> Scales:
    """Sizes of the streams that a run leaves in `streams`, and of their gradients from a random direction."""
    out = run()
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    gradients = torch.autograd.grad((out * direction).sum(), list(streams), allow_unused=True)
    sizes = [0.0 if g is None else _rms(g) for g in gradients]
    last = sizes[-1] if sizes and sizes[-1] > 0 else 1.0
    return Scales(activation=[_rms(x) for x in streams], gradient=[size / last for size in sizes])


def _ratio(a: float, b: float) -> float:
    return a / max(b, 1e-30)


def _at_median(sizes: Sequence[float]) -> float:
    """What the sizes change by from the first to the last if every step is the median one."""
    steps = [log(max(after, 1e-30) / max(before, 1e-30)) for before, after in pairwise(sizes)]
    return exp(min(median(steps) * len(steps), 700.0)) if steps else 1.0


def _rms(x: Tensor) -> float:
    return x.detach().double().square().mean().sqrt().item()


# ----------------------------------------------------------------------------------------------------------------------
# Our own models


def deep(subject: Subject) -> Architecture:
    """The architecture that is run: the probed one, with the depth of the full size where that stays small."""
    probed = replace(subject.probed, mtp=None)
    if not subject.is_twin:
        return probed
    whole = replace(probed, layers=subject.architecture.layers, encoder=subject.architecture.encoder)
    graph = resolve(whole)
    few = sum(tensor.count for tensor in graph.tensors().values()) <= MOST_PARAMETERS
    return whole if few and len(graph.layers) + len(graph.encoder) <= MOST_LAYERS else probed


def as_wide_as(model: Model, full: Graph) -> None:
    """Scale each drawn matrix so that its gain, std x sqrt(fan in), is that which it has at full size."""
    gains, own = _gains(full), _gains(model.graph)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for layer in model.graph.every_layer():
            if layer.owns_weights:
                for name in layer.tensors():
                    key = (layer.stack, layer.name, name)
                    if key in own and key in gains:
                        parameters[f"{layer.path}.{name}"].mul_(gains[key] / own[key])


def _gains(graph: Graph) -> dict[tuple[Stack, str, str], float]:
    init, drawn = graph.architecture.init, weights(graph)
    found: dict[tuple[Stack, str, str], float] = {}
    for layer in graph.every_layer():
        if not layer.owns_weights:
            continue
        for name, tensor in layer.tensors().items():
            if tensor.start is None and tensor.role in LINEAR_ROLES and (layer.stack, layer.name, name) not in found:
                std = init.std_of(drawn[f"{layer.path}.{name}"], graph.scope)
                found[layer.stack, layer.name, name] = std * sqrt(tensor.shape[-1])
    return found


def init_scale(subject: Subject) -> Measure:
    """First weights are spread as `init` says, and neither stream nor gradient grows by a factor per layer."""
    model = build(deep(subject), dtype=torch.float32, seed=subject.seed) if subject.given is None else None
    model = subject.fresh(torch.float32) if model is None else model
    model.eval()
    wrong = misdrawn(model)
    if wrong:
        return failed(f"{wrong[0]}" + (f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""))
    if subject.is_twin:
        as_wide_as(model, subject.full_graph)
    scales = _scales(model, subject)
    names = [layer.path for layer in (*model.graph.encoder, *model.graph.layers)]
    values = by_layer(
        names,
        {
            "activation_rms": [x for scale in scales.values() for x in scale.activation],
            "gradient_rms": [x for scale in scales.values() for x in scale.gradient],
        },
        layers_run=len(model.graph.layers),
        layers_at_full_size=len(subject.full_graph.layers),
    )
    if not all(isfinite(x) for x in (*values["series"]["activation_rms"], *values["series"]["gradient_rms"])):
        return failed("stream or gradient is not finite in fp32", values=values)
    return _judged(scales, model.graph, subject, values)


def _judged(scales: dict[str, Scales], graph: Graph, subject: Subject, values: dict[str, Any]) -> Measure:
    """The worst change over the second half of a stack."""
    worst, what = 1.0, ""
    for stack, scale in scales.items():
        for name, factor in scale.doubling.items():
            off = max(factor, 1 / max(factor, 1e-30))
            if off >= worst:
                grows = "grows" if factor > 1 else "shrinks"
                way = "forwards" if name == "the stream" else "backwards"
                worst, what = off, f"{name} of the {stack} {grows} {off:.3g} times {way} over half of its layers"
    last = scales["stack"]
    run, full = len(graph.layers), len(subject.full_graph.layers)
    depth = f"{run} layers" if run == full else f"{run} of {full} layers"
    detail = (
        f"{depth}: the stream grows {last.growth:.3g} times, the gradient {last.backward:.3g} times on its way back"
    )
    if max(len(scale.activation) for scale in scales.values()) < FEWEST_LAYERS:
        return Measure(passed=True, detail=detail, values=values)
    warning = what if WARNING < worst <= DOUBLING else ""
    return within(worst, DOUBLING, detail if worst <= DOUBLING else what, values=values, warning=warning)


def _scales(model: Model, subject: Subject) -> dict[str, Scales]:
    """Sizes along the stack, and along the encoder where there is one."""
    if model.graph.encoder:
        model.standing_source = subject.tokens(1, min(_LENGTH, subject.length), salt=77)
    tokens = subject.tokens(_ROWS, min(_LENGTH, subject.length), salt=40)
    streams: list[Tensor] = []
    modules = {id(module): module for module in (*model.layers, *(model.encoder.layers if model.encoder else ()))}

    def keep(_module: object, _inputs: object, out: Tensor) -> None:
        streams.append(out)

    handles = [module.register_forward_hook(keep) for module in modules.values()]
    try:
        found = scales_of(lambda: model.hidden(tokens), streams)
    finally:
        for handle in handles:
            handle.remove()
    first = len(model.graph.encoder)
    parts = {"stack": slice(first, None)} | ({"encoder": slice(0, first)} if first else {})
    return {name: _part(found, part) for name, part in parts.items()}


def _part(scales: Scales, part: slice) -> Scales:
    gradient = scales.gradient[part]
    last = gradient[-1] if gradient[-1] > 0 else 1.0
    return Scales(activation=scales.activation[part], gradient=[size / last for size in gradient])


# ----------------------------------------------------------------------------------------------------------------------
# First weights against the init


def misdrawn(model: Model) -> list[str]:
    """Which tensors of a fresh model are not what the spec says they start with, in words.

    The spread of n values drawn with standard deviation s lies within s (1 +- 6 / sqrt(2 n)), their mean within
    6 s / sqrt(n), by chance once in a hundred million tensors.
    """
    graph = model.graph
    init, scope, parameters = graph.architecture.init, graph.scope, dict(model.named_parameters())
    wrong: list[str] = []
    for name, weight in weights(graph).items():
        tensor, values = weight.tensor, parameters[name].detach().float()
        start = {"gain": 1.0, "bias": 0.0}.get(tensor.role) if tensor.start is None else tensor.start
        if isinstance(start, float | int):
            if not bool((values == torch.tensor(float(start))).all()):
                wrong.append(f"{name} does not start at {start:g}")
        elif start is None and values.numel() >= _FEWEST_VALUES:
            std, count = init.std_of(weight, scope), values.numel()
            measured, mean = values.std(correction=0).item(), values.mean().item()
            if abs(measured / std - 1) > _DEVIATIONS / sqrt(2 * count):
                wrong.append(f"{name} is drawn with a standard deviation of {measured:.4g}, and init says {std:.4g}")
            elif abs(mean) > _DEVIATIONS * std / sqrt(count):
                wrong.append(f"{name} is drawn around {mean:.4g}, and not around zero")
    return wrong
