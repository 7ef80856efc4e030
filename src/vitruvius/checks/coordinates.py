"""Does a learning rate carry over? The coordinate check of a parametrisation (Yang et al., 2022, appendix D.1).

The same few steps of Adam on the same random tokens are taken at several widths (or depths), and the mean absolute
value of a coordinate is measured after each kind of sublayer, in the stream, in the scores of attention and in the
logits: its size, and how far the steps moved it. Where size or change grow with the width, a learning rate that is
right for a narrow model is too large for a wide one; where the change fades, parts of the wide model do not learn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, log
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.checks.table import one_thread
from vitruvius.nn import Signals, build
from vitruvius.spec import ensure, resolve, shrink
from vitruvius.spec.inits import NormalInit
from vitruvius.spec.parametrisations import CompleteP, MuP, WidthParametrisation
from vitruvius.spec.widen import deepen, weights, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vitruvius.nn import Model
    from vitruvius.spec import Architecture
    from vitruvius.spec.node import Init

Axis = Literal["width", "depth"]

STEPS, LEARNING_RATE, SEEDS = 4, 3e-3, 2
BATCH, LENGTH = 4, 32
"""Random tokens that every step sees: few enough for a width of 512 to take a second."""
FACTORS = (1, 2, 4, 8)
LEAST_WIDTH = 64
"""Below this, sums over channels are too short for averages."""
MOST_PARAMETERS = 2**24
"""The largest factors are left out where they would make a model of more."""
GROWTH, READOUT_GROWTH = 0.25, 0.1
"""Exponents of the width (or depth) up to which sizes and changes count as constant. Measured over presets and mixers,
muP and CompleteP lie between -0.25 and 0.2, `normal` at 0.5 and above; half a power is the least that theory knows."""
FADING, FRESH_FADING = -0.35, -0.75
"""Exponents of changes from which they count as constant. What is drawn and not yet learned fades with a half power by
design: what readouts give (logits, routers) with the width, sums of sublayers with the depth. It is part of the first
steps' change there. For the same reason readouts, which start with a fall, may grow less than others."""
_TINY = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How large coordinates are in one place of the model, along the axis."""

    name: str
    starts: tuple[float, ...]
    """Mean absolute coordinate of the fresh model at each width (or depth)."""
    sizes: tuple[float, ...]
    """The same after the steps."""
    changes: tuple[float, ...]
    """Mean absolute difference between the two."""
    size_exponent: float
    """Slope b of the least-squares fit log size = a + b log width."""
    change_exponent: float
    """The same of the changes."""
    least: float
    """The smallest exponent that the change may have."""
    most: float
    """The largest exponent that size and change may have."""

    @property
    def fault(self) -> str:
        """What is wrong, or nothing."""
        for what, exponent in (("size", self.size_exponent), ("change", self.change_exponent)):
            if not exponent <= self.most:
                return f"{what} grows with exponent {exponent:+.2f}"
        return f"change fades with exponent {self.change_exponent:+.2f}" if self.change_exponent < self.least else ""

    @property
    def passed(self) -> bool:
        """Whether size and change stay what they are."""
        return not self.fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One parametrisation along one axis."""

    init: str
    """Its kind."""
    places: tuple[Place, ...]

    @property
    def passed(self) -> bool:
        """Whether every place does."""
        return all(place.passed for place in self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The spec's own parametrisation along one axis, and another one beside it."""

    axis: Axis
    scales: tuple[int, ...]
    """Widths, or numbers of layers."""
    own: Arm
    beside: Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Every sweep of an architecture."""

    architecture: Architecture
    seed: int
    sweeps: tuple[Sweep, ...]

    @property
    def passed(self) -> bool:
        """Whether the spec's own parametrisation holds along every axis."""
        return all(sweep.own.passed for sweep in self.sweeps)


def coordinates(architecture: Architecture, *, seed: int = 0) -> Coordinates:
    """Measure coordinates across width and, where the init scales sublayers with the depth, across depth.

    What runs is the small twin of the architecture, widened until its stream has 64 channels. Raises SpecError when the
    architecture does not fit together.
    """
    ensure(architecture)
    base = shrink(architecture)
    while base.width < LEAST_WIDTH:
        base = widen(base, 2)
    depth = resolve(base).scope.depth
    own = rebased(architecture.init, base.width, depth)
    axes: list[Axis] = ["width"]
    if own.branch_scale(2 * depth) != own.branch_scale(depth):
        axes.append("depth")
    with one_thread():
        sweeps = tuple(_sweep(base, own, axis, seed) for axis in axes)
    return Coordinates(architecture=architecture, seed=seed, sweeps=sweeps)


def rebased(init: Init, width: int, depth: int) -> Init:
    """The init with its base at this width and depth, where it has one."""
    if isinstance(init, CompleteP):
        return replace(init, base_width=width, base_depth=depth)
    return replace(init, base_width=width) if isinstance(init, MuP) else init


def beside(init: Init, axis: Axis, width: int) -> Init:
    """What to show beside an init: muP beside all others across width, the standard one beside muP and its like."""
    std = getattr(init, "std", NormalInit().std)
    if axis == "width" and isinstance(init, WidthParametrisation):
        return NormalInit(std=std, table_std=init.table_std)
    return MuP(base_width=width, std=std, table_std=init.table_std)


def _sweep(base: Architecture, own: Init, axis: Axis, seed: int) -> Sweep:
    chosen = [_SCALED[axis](base, factor) for factor in _factors(base, axis)]
    scales = tuple(one.width if axis == "width" else resolve(one).scope.depth for one in chosen)
    arms: list[Arm] = []
    for init in (own, beside(own, axis, base.width)):
        measured = [_mean([_measure(replace(one, init=init), seed + s) for s in range(SEEDS)]) for one in chosen]
        arms.append(Arm(init=init.kind, places=_places(axis, scales, measured)))
    return Sweep(axis=axis, scales=scales, own=arms[0], beside=arms[1])


_SCALED: dict[Axis, Callable[[Architecture, int], Architecture]] = {"width": widen, "depth": deepen}


def _factors(base: Architecture, axis: Axis) -> list[int]:
    """Those whose model is not too large; three at least."""
    fitting = [
        factor
        for factor in FACTORS
        if sum(tensor.count for tensor in resolve(_SCALED[axis](base, factor)).tensors().values()) <= MOST_PARAMETERS
    ]
    return fitting if len(fitting) >= 3 else list(FACTORS[:3])


# ----------------------------------------------------------------------------------------------------------------------
# One model

Measured = dict[str, tuple[float, float, float]]
"""Place -> size at the start, size after the steps, change."""


def _measure(architecture: Architecture, seed: int) -> Measured:
    """A few steps of Adam on one batch of random tokens."""
    model = build(architecture, dtype=torch.float32, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, BATCH, min(LENGTH, architecture.context))
    tokens, targets = torch.randint(architecture.vocab_size, shape, generator=generator)
    if model.graph.encoder:
        model.standing_source = tokens
    start = _seen(model, tokens)
    optimizer = _adam(model)
    for _ in range(STEPS):
        signals = Signals()
        loss = model.loss(tokens, targets, signals=signals)
        torch.stack([loss, *signals.losses]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    end = _seen(model, tokens)
    found: Measured = {}
    for name, before in start.items():
        after = end[name]
        moved = [(a - b).abs().mean().item() for a, b in zip(after, before, strict=True)]
        found[name] = (_size(before), _size(after), sum(moved) / len(moved))
    return found


def _adam(model: Model) -> torch.optim.AdamW:
    """Adam with what the init says of each tensor, as `train` has it."""
    init, scope, parameters = model.architecture.init, model.graph.scope, dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name]],
            "lr": LEARNING_RATE * init.learning_rate_scale(weight, scope),
            "eps": 1e-8 * init.eps_scale(weight, scope),
        }
        for name, weight in weights(model.graph).items()
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


@torch.no_grad()
def _seen(model: Model, tokens_BT: Tensor) -> dict[str, list[Tensor]]:
    """Outputs of one pass by place; layers of one block are one place."""
    seen: dict[str, list[Tensor]] = {"embedding": []}
    handles = [model.embedding.register_forward_hook(_into(seen["embedding"]))]
    modules = dict(model.named_modules())
    for layer in (*model.graph.encoder, *model.graph.layers):
        for name, _ in layer.sublayers():
            found = seen.setdefault(f"{layer.name}.{name}", [])
            if layer.owns_weights:  # layers with the same weights are one module, which reports each time it is called
                handles.append(modules[f"{layer.path}.{name}"].register_forward_hook(_into(found)))
            for module, weight in _routers(model, f"{layer.path}.{name}."):
                handles.append(module.register_forward_hook(_read(seen.setdefault(f"{layer.name}.router", []), weight)))
    seen["stream"] = []
    handles.append(modules[model.graph.layers[-1].path].register_forward_hook(_into(seen["stream"])))
    attends = any(layer.mixer is not None and layer.mixer.pattern() is not None for layer in model.graph.layers)
    signals = Signals(attention=[] if attends else None)
    before, model.backend = model.backend, "reference" if attends else model.backend
    try:
        logits = model(tokens_BT, signals=signals)
    finally:
        model.backend = before
        for handle in handles:
            handle.remove()
    if signals.attention:
        seen["scores"] = [_scores(weights_BHTS) for weights_BHTS in signals.attention]
    return {**{name: found for name, found in seen.items() if found}, "logits": [logits]}


def _routers(model: Model, prefix: str) -> Iterator[tuple[nn.Module, Tensor]]:
    """(module, its map from a token to scores) of every router below a name."""
    for name, tensor in model.graph.tensors().items():
        if name.startswith(prefix) and tensor.role == "router":
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            yield module, module.get_parameter(leaf).detach()


def _read(found: list[Tensor], weight: Tensor) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, arguments: tuple[Tensor, ...], output: Any) -> None:
        del module, output
        found.append(F.linear(arguments[0].detach(), weight))

    return hook


def _into(found: list[Tensor]) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: Any, arguments: Any, output: Tensor) -> None:
        del module, arguments
        found.append(output.detach().clone())

    return hook


def _scores(weights_BHTS: Tensor) -> Tensor:
    """The scores under attention weights, up to a constant in each row, which is taken off: its mean."""
    seen = weights_BHTS > 0
    logs = torch.where(seen, weights_BHTS, 1.0).log()
    means = logs.sum(dim=-1, keepdim=True) / seen.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.where(seen, logs - means, 0.0)


def _size(outputs: Sequence[Tensor]) -> float:
    return sum(output.abs().mean().item() for output in outputs) / len(outputs)


def _mean(runs: Sequence[Measured]) -> Measured:
    """Place by place over seeds."""
    return {
        name: (
            sum(run[name][0] for run in runs) / len(runs),
            sum(run[name][1] for run in runs) / len(runs),
            sum(run[name][2] for run in runs) / len(runs),
        )
        for name in runs[0]
    }


def _places(axis: Axis, scales: Sequence[int], measured: Sequence[Measured]) -> tuple[Place, ...]:
    found: list[Place] = []
    for name in measured[0]:
        is_readout = name == "logits" or name.endswith(".router")
        starts, sizes, changes = zip(*(one[name] for one in measured), strict=True)
        found.append(
            Place(
                name=name,
                starts=starts,
                sizes=sizes,
                changes=changes,
                size_exponent=exponent(scales, sizes),
                change_exponent=exponent(scales, changes),
                least=FRESH_FADING if is_readout or axis == "depth" else FADING,
                most=READOUT_GROWTH if is_readout else GROWTH,
            )
        )
    return tuple(found)


def exponent(scales: Sequence[float], values: Sequence[float]) -> float:
    """Slope b of the least-squares fit of log value = log a + b log scale; infinite when a value is not finite."""
    if not all(isfinite(value) for value in values):
        return inf
    if max(values) <= 0:
        return 0.0
    xs, ys = [log(scale) for scale in scales], [log(max(value, _TINY)) for value in values]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - x_mean) ** 2 for x in xs)
