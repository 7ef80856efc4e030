"""Softmax routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ops.norm import statistics_dtype
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.routers.softmax import SoftmaxRouter

if TYPE_CHECKING:
    from vitruvius.nn.place import Signals
    from vitruvius.spec.ffn.moe import Moe


@implements(SoftmaxRouter)
class SoftmaxRouterModule(nn.Module):
    """Scores in at least fp32, a softmax over all experts, the top_k largest.

    Made for a mixture: `(spec, moe, width, factory)`.
    """

    def __init__(self, spec: SoftmaxRouter, moe: Moe, width: int, factory: Factory) -> None:
        super().__init__()
        self.spec, self.experts, self.top_k = spec, moe.experts, moe.top_k
        self.weight = nn.Parameter(torch.empty(moe.experts, width, **factory))

    @shaped
    def forward(self, x_ND: Float[Tensor, "N D"], signals: Signals | None) -> tuple[Tensor, Tensor]:
        """Weights and ids of each token's experts, both [N, top_k]; weights in at least fp32."""
        wide = statistics_dtype(x_ND.dtype)
        scores_NE = F.linear(x_ND.to(wide), self.weight.to(wide))
        probabilities_NE = scores_NE.softmax(dim=-1)
        chosen = self._choose(probabilities_NE, signals)
        weights = probabilities_NE.gather(1, chosen)
        if self.spec.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if signals is not None:
            self._report(scores_NE, probabilities_NE, chosen, signals)
        return weights, chosen

    def _choose(self, probabilities_NE: Tensor, signals: Signals | None) -> Tensor:
        if signals is not None and signals.replay is not None:
            chosen = next(signals.replay)
        else:
            chosen = probabilities_NE.topk(self.top_k, dim=-1).indices
        if signals is not None and signals.routing is not None:
            signals.routing.append(chosen)
        return chosen

    def _report(self, scores_NE: Tensor, probabilities_NE: Tensor, chosen: Tensor, signals: Signals) -> None:
        """The Switch balance loss, the z-loss, and what one watches: load spread, entropy, dead experts."""
        load_E = torch.bincount(chosen.flatten(), minlength=self.experts).to(probabilities_NE.dtype)
        share_E = load_E / chosen.numel()
        if self.spec.balance_loss:
            balance = self.experts * (share_E * probabilities_NE.mean(dim=0)).sum()
            signals.losses.append(self.spec.balance_loss * balance)
        if self.spec.z_loss:
            signals.losses.append(self.spec.z_loss * scores_NE.logsumexp(dim=-1).square().mean())
        entropy = -(probabilities_NE * probabilities_NE.clamp_min(1e-30).log()).sum(dim=-1).mean()
        signals.report("router_entropy", entropy)
        signals.report("expert_load_max_over_mean", share_E.max() * self.experts)
        signals.report("dead_experts", (load_E == 0).sum())
