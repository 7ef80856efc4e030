"""From token ids to the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.ops import embedding
from vitruvius.nn.registry import Factory, make
from vitruvius.nn.shapes import Float, Int, shaped
from vitruvius.spec.expressions import evaluate

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope
    from vitruvius.spec.embeddings import Embedding


class TokenTable(nn.Module):
    """A row per token."""

    def __init__(self, vocab_size: int, width: int, factory: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width, **factory))

    @shaped
    def forward(self, tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Rows of the tokens, [B, T, D]."""
        return embedding(tokens_BT, self.weight)


class EmbeddingModule(nn.Module):
    """Rows of the tokens, scaled, placed and normalised as the spec says."""

    def __init__(self, spec: Embedding, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.tokens = TokenTable(scope.vocab_size, scope.width, factory)
        self.scale = None if spec.scale is None else evaluate(spec.scale, {"width": scope.width})
        self.position = None if spec.position is None else make(spec.position, scope, factory)
        self.norm = None if spec.norm is None else make(spec.norm, scope.width, factory)

    @shaped
    def forward(self, tokens_BT: Int[Tensor, "B T"], place: Place) -> Float[Tensor, "B T D"]:
        """The first residual stream, [B, T, D]."""
        x_BTD = self.tokens(tokens_BT)
        if self.scale is not None:
            x_BTD = x_BTD * self.scale
        if self.position is not None:
            x_BTD = self._placed(x_BTD, place)
        return x_BTD if self.norm is None else self.norm(x_BTD)

    def _placed(self, x_BTD: Tensor, place: Place) -> Tensor:
        """With positions; reports the variance of what they added to whoever listens."""
        assert self.position is not None
        placed_BTD = self.position.embed(x_BTD, place)
        if place.signals is not None:
            added = (placed_BTD - x_BTD).detach().float()
            place.signals.report("position_variance", added.var(correction=0))
        return placed_BTD
