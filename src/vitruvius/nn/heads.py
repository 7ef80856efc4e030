"""Heads: from the last residual stream to logits or a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ops import LossParts, linear_cross_entropy
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, Int, shaped
from vitruvius.spec.heads import LanguageModelHead, MaskedLanguageModelHead

if TYPE_CHECKING:
    from vitruvius.spec import Scope


class _VocabularyHead(nn.Module):
    """A map to the vocabulary; when tied, the embedding's own matrix."""

    def __init__(self, *, tied: bool, softcap: float | None, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.softcap, self.scale = softcap, scope.logit_scale
        self.weight = None if tied else nn.Parameter(torch.empty(scope.vocab_size, scope.width, **factory))
        self.bias: nn.Parameter | None = None

    def prepare(self, h: Tensor) -> Tensor:
        """What the map reads, from the last residual stream, [..., D]."""
        return h if self.scale == 1.0 else h * self.scale

    @shaped
    def forward(self, h_BTD: Float[Tensor, "B T D"], table_VD: Float[Tensor, "V D"]) -> Float[Tensor, "B T V"]:
        """Logits [B, T, V] in the model's dtype; `table_VD` is the token embedding."""
        logits_BTV = F.linear(self.prepare(h_BTD), table_VD if self.weight is None else self.weight, self.bias)
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
        z_loss: float = 0.0,
        parts: LossParts | None = None,
    ) -> Tensor:
        """Cross-entropy in nats without ever holding all logits: the mean over targets, or [N] when `per_token`.

        Targets of -100 count nothing. z_loss: coefficient of the squared log-sum-exp, which is added; `parts` is told
        both apart.
        """
        weight_VD = table_VD if self.weight is None else self.weight
        reduction = "none" if per_token else "mean"
        h_ND = self.prepare(h_ND)
        if self.bias is not None:
            # One more channel, always 1, carries the bias through the map.
            h_ND = torch.cat([h_ND, torch.ones_like(h_ND[:, :1])], dim=1)
            weight_VD = torch.cat([weight_VD, self.bias.unsqueeze(1)], dim=1)
        return linear_cross_entropy(
            h_ND, weight_VD, targets_N, softcap=self.softcap, reduction=reduction, z_loss=z_loss, parts=parts
        )


@implements(LanguageModelHead)
class LanguageModelHeadModule(_VocabularyHead):
    """Logits of the next token."""

    def __init__(self, spec: LanguageModelHead, scope: Scope, factory: Factory) -> None:
        super().__init__(tied=spec.tied, softcap=spec.softcap, scope=scope, factory=factory)


@implements(MaskedLanguageModelHead)
class MaskedLanguageModelHeadModule(_VocabularyHead):
    """Logits of the token that stands there, after BERT's transform where the spec says so."""

    def __init__(self, spec: MaskedLanguageModelHead, scope: Scope, factory: Factory) -> None:
        super().__init__(tied=spec.tied, softcap=None, scope=scope, factory=factory)
        transformed = spec.transform == "gelu"
        self.dense = nn.Linear(scope.width, scope.width, **factory) if transformed else None
        self.norm = nn.LayerNorm(scope.width, eps=1e-12, **factory) if transformed else None
        if spec.bias:
            self.bias = nn.Parameter(torch.empty(scope.vocab_size, **factory))

    def prepare(self, h: Tensor) -> Tensor:
        """What the map reads: square map, GELU, norm."""
        if self.dense is not None and self.norm is not None:
            h = self.norm(F.gelu(self.dense(h)))
        return super().prepare(h)
