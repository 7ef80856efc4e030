"""Experts that choose their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.routers.base import RouterModule, Routing, scores_of
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.routers.expert_choice import ExpertChoiceRouter

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec.ffn.moe import Moe


@implements(ExpertChoiceRouter)
class ExpertChoiceRouterModule(RouterModule):
    """Of each sequence an expert takes the ceil(length * top_k / experts) tokens of the largest probability.

    A sequence is a row, or a document of a packed row, so that what stands beside it changes nothing. What is recorded
    and replayed is who was taken, [N, E] bool. Made for a mixture: `(spec, moe, width, factory)`.
    """

    def __init__(self, spec: ExpertChoiceRouter, moe: Moe, width: int, factory: Factory) -> None:
        super().__init__(moe)
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(moe.experts, width, **factory))

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Routing:
        """Every token with every expert, [N, E] each, and which of these pairs are taken."""
        signals = place.signals
        scores_NE = scores_of(x_BTD.flatten(0, -2), self.weight)
        probabilities_NE = scores_NE.softmax(dim=-1)
        taken_NE = self.pick(lambda: self._taken(probabilities_NE.detach(), sequences(x_BTD, place.documents)), signals)
        if signals is not None:
            if self.spec.z_loss:
                signals.losses.append(self.spec.z_loss * scores_NE.logsumexp(dim=-1).square().mean())
            self.report_load(taken_NE.sum(dim=0), signals)
            self.report_scores(scores_NE, probabilities_NE, signals)
            signals.report("unrouted_fraction", (~taken_NE.any(dim=1)).float().mean())
        expert_NE = torch.arange(self.experts, device=x_BTD.device).expand_as(taken_NE)
        return Routing(chosen_NK=expert_NE, weights_NK=probabilities_NE, kept_NK=taken_NE)

    def _taken(self, probabilities_NE: Tensor, sequence_N: Tensor) -> Tensor:
        """Whether each token is among the best of its sequence, for each expert; of equal ones the earlier."""
        by_value_EN = probabilities_NE.t().argsort(dim=1, descending=True, stable=True)
        by_sequence_EN = sequence_N[by_value_EN].argsort(dim=1, stable=True)
        order_EN = by_value_EN.gather(1, by_sequence_EN)
        lengths_S = torch.bincount(sequence_N)
        starts_S = lengths_S.cumsum(0) - lengths_S
        sorted_N = sequence_N.sort().values
        rank_N = torch.arange(len(sequence_N), device=sequence_N.device) - starts_S[sorted_N]
        share_S = -(-lengths_S * self.top_k // self.experts)
        taken_EN = torch.empty_like(order_EN, dtype=torch.bool)
        taken_EN.scatter_(1, order_EN, (rank_N < share_S[sorted_N]).expand_as(order_EN))
        return taken_EN.t()


def sequences(x_BTD: Tensor, documents_BT: Tensor | None) -> Tensor:
    """The sequence that each token belongs to, int64 [N] from 0: its row, or its document in a packed row."""
    batch, length, _ = x_BTD.shape
    if documents_BT is None:
        return torch.arange(batch, device=x_BTD.device).repeat_interleave(length)
    starts_BT = torch.ones_like(documents_BT, dtype=torch.int64)
    starts_BT[:, 1:] = (documents_BT[:, 1:] != documents_BT[:, :-1]).long()
    return starts_BT.flatten().cumsum(0) - 1
