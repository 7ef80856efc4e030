"""The first weights, drawn as the spec's `init` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.nn.positions.tables import LearnedPositionModule
from vitruvius.spec.widen import weights

if TYPE_CHECKING:
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
        else:
            parameter.fill_(start)
    buffers = dict(model.named_buffers())
    for name, tensor in model.graph.buffers().items():
        buffers[name].fill_(tensor.start or 0.0)


_STARTS: dict[Role, float] = {"gain": 1.0, "bias": 0.0}
"""What tensors of a role start with unless they say otherwise; those of other roles are drawn."""


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std)
