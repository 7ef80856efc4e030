"""A stack of layers, and the ways between them besides the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.block import LayerModule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.registry import Factory
    from vitruvius.spec import Layer, Scope
    from vitruvius.spec.model import Streams


def build_layers(layers: Sequence[Layer], factory: Factory) -> nn.ModuleList:
    """A module for each layer; layers that share weights are one module."""
    built: list[LayerModule] = []
    for layer in layers:
        built.append(LayerModule(layer, factory) if layer.owns_weights else built[layer.weights])
    return nn.ModuleList(built)


class StreamsModule(nn.Module):
    """The learned scales of skips and of the embedding."""

    skip: nn.Parameter | None
    stream: nn.Parameter | None
    embedding: nn.Parameter | None

    def __init__(self, spec: Streams, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.depth = scope.depth
        tensors = spec.tensors(scope)
        for name in ("skip", "stream", "embedding"):
            made = nn.Parameter(torch.empty(tensors[name].shape, **factory)) if name in tensors else None
            self.register_parameter(name, made)

    def start(self, x_BTD: Tensor) -> StreamsOfCall:
        """Follow the streams of one call, which starts with this embedding."""
        return StreamsOfCall(self, x_BTD)


class StreamsOfCall:
    """What one call keeps to add later: the embedding, and the outputs of the first half of the stack."""

    def __init__(self, scales: StreamsModule, embedded_BTD: Tensor) -> None:
        self.scales = scales
        self.embedded_BTD = embedded_BTD
        self.kept: list[Tensor] = []

    def enter(self, index: int, x_BTD: Tensor) -> Tensor:
        """What layer `index` reads, [B, T, D]."""
        scales, half = self.scales, self.scales.depth // 2
        if scales.skip is not None and index >= scales.depth - half:
            x_BTD = x_BTD + scales.skip[index - (scales.depth - half)] * self.kept.pop()
        if scales.stream is not None and scales.embedding is not None:
            x_BTD = scales.stream[index] * x_BTD + scales.embedding[index] * self.embedded_BTD
        return x_BTD

    def leave(self, index: int, x_BTD: Tensor) -> None:
        """Take note of what layer `index` wrote."""
        if self.scales.skip is not None and index < self.scales.depth // 2:
            self.kept.append(x_BTD)
