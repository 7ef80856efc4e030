"""The first weights, drawn as the spec's `init` says."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.positions.tables import LearnedPositionModule
from vitruvius.spec.costs import Start, StartKind
from vitruvius.spec.widen import weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.nn.model import Model
    from vitruvius.spec.node import Role


@torch.no_grad()
def initialise(model: Model, seed: int) -> None:
    """Draw every parameter from one generator in the order of `graph.tensors()`.

    Draws are made in fp32 on the CPU and then rounded, so that the same seed gives the same weights in every dtype
    and on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    for module in model.modules():
        if isinstance(module, LearnedPositionModule):
            module.table_std = model.architecture.init.table_std
    init, scope = model.architecture.init, model.graph.scope
    for name, weight in weights(model.graph).items():
        parameter, tensor = parameters[name], weight.tensor
        start = _STARTS.get(tensor.role) if tensor.start is None else tensor.start
        if start is None:
            _draw(parameter, init.std_of(weight, scope), generator)
        elif isinstance(start, Start):
            parameter.copy_(_FORMS[start.kind](start, parameter.shape, generator))
        else:
            parameter.fill_(start)
    buffers = dict(model.named_buffers())
    for name, tensor in model.graph.buffers().items():
        buffers[name].fill_(tensor.start if isinstance(tensor.start, float) else 0.0)


_STARTS: dict[Role, float] = {"gain": 1.0, "bias": 0.0}
"""What tensors of a role start with unless they say otherwise; those of other roles are drawn."""


def _between(low: float, high: float, shape: torch.Size, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float32)


def _step_size(start: Start, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """What softplus turns into numbers spread evenly in their logarithm."""
    size = _between(log(start.low), log(start.high), shape, generator).exp()
    return size + torch.log(-torch.expm1(-size))


_FORMS: dict[StartKind, Callable[[Start, torch.Size, torch.Generator], Tensor]] = {
    "uniform": lambda start, shape, generator: _between(start.low, start.high, shape, generator),
    "log-of-uniform": lambda start, shape, generator: _between(start.low, start.high, shape, generator).log(),
    "step-size": _step_size,
    "log-of-count": lambda _start, shape, _generator: torch.arange(1, shape[-1] + 1).float().log().expand(shape),
    "ramp": lambda start, shape, _generator: torch.linspace(start.low, start.high, shape[-1]).expand(shape),
}
"""Kind of start: the first values, in fp32."""


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std)
