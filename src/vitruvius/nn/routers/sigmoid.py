"""Sigmoid routing, balanced by a bias instead of a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitruvius.nn.ops.norm import statistics_dtype
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.routers.base import RouterModule, Routing, over_ranks, scores_of
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.routers.sigmoid import SigmoidRouter

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec.ffn.moe import Moe

_LEAST_SUM = 1e-20
"""Added to sums that scores are divided by."""


@implements(SigmoidRouter)
class SigmoidRouterModule(RouterModule):
    """Experts chosen by sigmoid(x W) + bias and weighted by sigmoid(x W) alone, in at least fp32.

    `bias` is a buffer: no gradient reaches it, `after_step` moves it towards an even load, checkpoints hold it.
    Made for a mixture: `(spec, moe, width, factory)`.
    """

    bias: Tensor

    def __init__(self, spec: SigmoidRouter, moe: Moe, width: int, factory: Factory) -> None:
        super().__init__(moe)
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(moe.experts, width, **factory))
        wide = statistics_dtype(factory["dtype"])
        self.register_buffer("bias", torch.zeros(moe.experts, dtype=wide, device=factory["device"]))

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Routing:
        """Weights and ids of each token's experts, both [N, top_k]; weights in at least fp32."""
        signals = place.signals
        logits_NE = scores_of(x_BTD.flatten(0, -2), self.weight)
        scores_NE = logits_NE.sigmoid()
        chosen_NK = self.pick(lambda: self._choose(scores_NE.detach()), signals)
        weights_NK = scores_NE.gather(1, chosen_NK)
        if self.spec.renormalise:
            weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + _LEAST_SUM)
        counts_E = self.counted(chosen_NK) if signals is not None or self.training else None
        if signals is not None and counts_E is not None:
            # Without a loss that reads them they are metrics alone, and need no gradient.
            read_NE = scores_NE if self.spec.balance_loss else scores_NE.detach()
            probabilities_NE = read_NE / (read_NE.sum(dim=-1, keepdim=True) + _LEAST_SUM)
            if self.spec.balance_loss:
                signals.losses.append(self.spec.balance_loss * self.balance(counts_E, probabilities_NE))
            self.report_load(counts_E, signals)
            self.report_scores(logits_NE, probabilities_NE, signals)
            signals.report("router_bias_max", self.bias.abs().max())
        return Routing(chosen_NK=chosen_NK, weights_NK=weights_NK * self.spec.scale)

    def _choose(self, scores_NE: Tensor) -> Tensor:
        rank_NE = scores_NE + self.bias
        top_groups = self.spec.top_groups
        if top_groups is not None and top_groups < self.spec.groups:
            grouped = rank_NE.unflatten(1, (self.spec.groups, -1))
            best_NG = grouped.topk(min(2, grouped.shape[2]), dim=-1).values.sum(dim=-1)
            open_NG = torch.zeros_like(best_NG, dtype=torch.bool)
            open_NG.scatter_(1, best_NG.topk(top_groups, dim=-1).indices, value=True)
            rank_NE = grouped.masked_fill(~open_NG.unsqueeze(2), float("-inf")).flatten(1)
        return rank_NE.topk(self.top_k, dim=-1).indices

    def after_step(self) -> None:
        """Move each bias by `bias_step`: up where the load of the update was below the mean, down where above."""
        if self.load_E is not None:
            load_E = over_ranks(self.load_E).to(self.bias)
            self.bias += self.spec.bias_step * (load_E.mean() - load_E).sign()
        super().after_step()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002 (torch's signature)
        """As every module moves and converts, but for the bias, which is never rounded to less than fp32."""
        before = self.bias
        super()._apply(fn, recurse)
        if self.bias.dtype not in {torch.float32, torch.float64}:
            self.bias = before.to(self.bias.device, torch.float32)
        return self
