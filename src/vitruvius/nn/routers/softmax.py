"""Softmax routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.routers.base import RouterModule, Routing, scores_of
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.routers.softmax import SoftmaxRouter

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec.ffn.moe import Moe


@implements(SoftmaxRouter)
class SoftmaxRouterModule(RouterModule):
    """Scores in at least fp32, a softmax over all experts or over the chosen ones, the top_k largest.

    Made for a mixture: `(spec, moe, width, factory)`.
    """

    def __init__(self, spec: SoftmaxRouter, moe: Moe, width: int, factory: Factory) -> None:
        super().__init__(moe)
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(moe.experts, width, **factory))

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Routing:
        """Weights and ids of each token's experts, both [N, top_k]; weights in at least fp32."""
        signals = place.signals
        scores_NE = self.noisy(scores_of(x_BTD.flatten(0, -2), self.weight), self.spec.noise, place)
        chosen_NK = self.pick(lambda: scores_NE.topk(self.top_k, dim=-1).indices, signals)
        if self.spec.order == "top-k-then-softmax":
            weights_NK = scores_NE.gather(1, chosen_NK).softmax(dim=-1)
            # Without a loss that reads them they are metrics alone, and need no gradient.
            read_NE = scores_NE if self.spec.balance_loss else scores_NE.detach()
            probabilities_NE = read_NE.softmax(dim=-1) if signals is not None else None
        else:
            probabilities_NE = scores_NE.softmax(dim=-1)
            weights_NK = probabilities_NE.gather(1, chosen_NK)
            if self.spec.renormalise:
                weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        if signals is not None and probabilities_NE is not None:
            counts_E = self.counted(chosen_NK)
            if self.spec.balance_loss:
                signals.losses.append(self.spec.balance_loss * self.balance(counts_E, probabilities_NE))
            if self.spec.z_loss:
                signals.losses.append(self.spec.z_loss * scores_NE.logsumexp(dim=-1).square().mean())
            self.report_load(counts_E, signals)
            self.report_scores(scores_NE, probabilities_NE, signals)
        return Routing(chosen_NK=chosen_NK, weights_NK=weights_NK)
