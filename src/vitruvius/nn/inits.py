"""The first weights, drawn as the spec's `init` says."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.positions.tables import LearnedPositionModule

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.model import Model
    from vitruvius.spec import TensorSpec
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
    for name, tensor in model.graph.tensors().items():
        parameter = parameters[name]
        start = _STARTS.get(tensor.role) if tensor.start is None else tensor.start
        if start is None:
            _draw(parameter, _std(model, tensor), generator)
        else:
            parameter.fill_(start)


_STARTS: dict[Role, float] = {"gain": 1.0, "bias": 0.0}
"""What tensors of a role start with unless they say otherwise; those of other roles are drawn."""


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std)


def _std(model: Model, tensor: TensorSpec) -> float:
    init = model.architecture.init
    if tensor.role == "table":
        return init.table_std
    std = init.matrix_std(fan_in=tensor.shape[-1], fan_out=tensor.shape[-2])
    if tensor.role == "output" and init.residual == "scaled":
        return std / sqrt(2 * model.graph.scope.depth)
    return std
