"""Routing by the token itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitruvius.nn.ops.draws import STEP, mixed
from vitruvius.nn.ops.norm import statistics_dtype
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.routers.base import RouterModule, Routing
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.routers.hashed import HashRouter

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec.ffn.moe import Moe


@implements(HashRouter)
class HashRouterModule(RouterModule):
    """Every expert draws a fixed random number for each token id; a token goes to the top_k largest, in equal parts.

    Nothing is stored, so it works for any vocabulary. Made for a mixture: `(spec, moe, width, factory)`.
    """

    def __init__(self, spec: HashRouter, moe: Moe, width: int, factory: Factory) -> None:
        del width, factory
        super().__init__(moe)
        self.salt = spec.salt

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Routing:
        """Weights and ids of each token's experts, both [N, top_k]; weights are 1 / top_k."""
        assert place.tokens is not None, "the model says which tokens these are"
        tokens_N, signals = place.tokens.flatten(), place.signals
        chosen_NK = self.pick(lambda: self._drawn(tokens_N), signals)
        if signals is not None:
            self.report_load(self.counted(chosen_NK), signals)
        weights_NK = torch.full_like(chosen_NK, 1 / self.top_k, dtype=statistics_dtype(x_BTD.dtype))
        return Routing(chosen_NK=chosen_NK, weights_NK=weights_NK)

    def _drawn(self, tokens_N: Tensor) -> Tensor:
        expert_E = torch.arange(self.experts, device=tokens_N.device)
        token_N1 = mixed(tokens_N.to(torch.int64) + self.salt * STEP).unsqueeze(1)
        # The id of the expert in the last place: equal draws would be told apart differently in another batch.
        draws_NE = mixed(token_N1 + (expert_E + 1) * STEP) * self.experts + expert_E
        return draws_NE.topk(self.top_k, dim=-1).indices
