"""Multi-token prediction: one more block for each token beyond the next (DeepSeek-V3, 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitruvius.nn.block import LayerModule
from vitruvius.nn.registry import Factory, make

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Graph, Layer


class TokenAhead(nn.Module):
    """Predicts one token further than what it stands on.

    h'_t = layer(join [norm(h_t); norm(embedding of token t + k)]), whose logits are for token t + k + 1.
    """

    def __init__(self, layer: Layer, norm: Any, factory: Factory) -> None:
        super().__init__()
        width = layer.scope.width
        self.token_norm = make(norm, width, factory)
        self.stream_norm = make(norm, width, factory)
        self.join = nn.Linear(2 * width, width, bias=False, **factory)
        self.layer = LayerModule(layer, factory)
        self.final_norm = make(norm, width, factory)

    def forward(self, h_BTD: Tensor, ahead_BTD: Tensor, place: Place) -> Tensor:
        """The next stream, [B, T, D], from the last one and the embeddings of the tokens ahead."""
        joined_BTE = torch.cat([self.stream_norm(h_BTD), self.token_norm(ahead_BTD)], dim=-1)
        return self.layer(self.join(joined_BTE), place)


def build_mtp(graph: Graph, factory: Factory) -> nn.ModuleList:
    """A module for each token beyond the next."""
    norm = graph.architecture.norm
    return nn.ModuleList(TokenAhead(layer, norm, factory) for layer in graph.mtp)


def shifted(place: Place, layer: Layer) -> Place:
    """The place of all tokens but the last: those that have a token ahead."""
    documents = place.documents
    return replace(
        place,
        positions=place.positions[..., :-1],
        documents=None if documents is None else documents[:, :-1],
        tokens=None if place.tokens is None else place.tokens[:, 1:],
        layer=layer,
    )


def targets_ahead(targets_BT: Tensor, documents_BT: Tensor | None, ahead: int) -> Tensor:
    """For token t of all but the last `ahead`: the target `ahead` later, -100 where it is of another document."""
    targets = targets_BT[:, ahead:]
    if documents_BT is None:
        return targets
    return targets.masked_fill(documents_BT[:, ahead:] != documents_BT[:, :-ahead], -100)
