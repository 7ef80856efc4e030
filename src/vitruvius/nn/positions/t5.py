"""A learned bias for each class of distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.request import TableBias
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.t5 import T5Position

if TYPE_CHECKING:
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads


@implements(T5Position)
class T5PositionModule(nn.Module):
    """A table of biases, [classes, heads], read by the class of the distance between query and key."""

    def __init__(self, spec: T5Position, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        del scope
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.buckets, heads.queries, **factory))

    def table_bias(self) -> TableBias:
        """The table, and which row each pair of positions reads."""
        return TableBias(weight_RH=self.weight, index=self._index)

    def _index(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Classes of the distances, int64 [..., T, S] from [..., T] and [..., S]."""
        back = q_positions.unsqueeze(-1) - k_positions.unsqueeze(-2)
        starts = torch.tensor(self.spec.starts(), dtype=back.dtype, device=back.device)
        if self.spec.direction == "causal":
            return torch.bucketize(back.clamp(min=0), starts, right=True)
        later = (back < 0).long() * self.spec.classes
        return later + torch.bucketize(back.abs(), starts, right=True)
