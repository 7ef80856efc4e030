"""The stack that reads the source text of an encoder-decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.checkpointing import through
from vitruvius.nn.place import Place, Signals
from vitruvius.nn.registry import Factory, make
from vitruvius.nn.stack import build_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.place import BackendName
    from vitruvius.spec import Graph


class EncoderModule(nn.Module):
    """Layers that see both ways, and the norm after them."""

    def __init__(self, graph: Graph, factory: Factory) -> None:
        super().__init__()
        self.graph = graph
        self.layers = build_layers(graph.encoder, factory)
        self.final_norm = None if graph.encoder_norm is None else make(graph.encoder_norm, graph.scope.width, factory)

    def forward(self, x_BSD: Tensor, place: Place) -> Tensor:
        """What the decoder reads, [B, S, D], from the embedded source."""
        for layer, module in zip(self.graph.encoder, self.layers, strict=True):
            x_BSD = through(module, x_BSD, replace(place, layer=layer))
        return x_BSD if self.final_norm is None else self.final_norm(x_BSD)


def place_source(
    length: int, lengths: Sequence[int] | None, device: torch.device, backend: BackendName, signals: Signals | None
) -> Place:
    """Where source tokens stand; padding beyond `lengths` is a document of its own, so that nobody reads it."""
    positions = torch.arange(length, device=device)
    if lengths is None:
        return Place(positions=positions, backend=backend, signals=signals)
    real = positions < torch.tensor(list(lengths), device=device).unsqueeze(1)
    return Place(
        positions=positions.expand(len(lengths), -1), documents=real.long() - 1, backend=backend, signals=signals
    )
