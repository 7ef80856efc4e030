"""Heads: from the last residual stream to logits or a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ops import linear_cross_entropy
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, Int, shaped
from vitruvius.spec.heads import LanguageModelHead

if TYPE_CHECKING:
    from vitruvius.spec import Scope


@implements(LanguageModelHead)
class LanguageModelHeadModule(nn.Module):
    """Logits over the vocabulary; when tied, from the embedding's own matrix."""

    def __init__(self, spec: LanguageModelHead, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.softcap = spec.softcap
        self.weight = None if spec.tied else nn.Parameter(torch.empty(scope.vocab_size, scope.width, **factory))

    @shaped
    def forward(self, h_BTD: Float[Tensor, "B T D"], table_VD: Float[Tensor, "V D"]) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the model's dtype; `table_VD` is the token embedding."""
        logits_BTV = F.linear(h_BTD, table_VD if self.weight is None else self.weight)
        if self.softcap is None:
            return logits_BTV
        return torch.tanh(logits_BTV / self.softcap) * self.softcap

    @shaped
    def loss(
        self,
        h_ND: Float[Tensor, "N D"],
        targets_N: Int[Tensor, " N"],
        table_VD: Float[Tensor, "V D"],
        *,
        per_token: bool = False,
    ) -> Tensor:
        """Cross-entropy in nats without ever holding all logits: the mean over targets, or [N] when `per_token`.

        Targets of -100 count nothing.
        """
        weight_VD = table_VD if self.weight is None else self.weight
        reduction = "none" if per_token else "mean"
        return linear_cross_entropy(h_ND, weight_VD, targets_N, softcap=self.softcap, reduction=reduction)
