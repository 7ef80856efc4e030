"""Attention with linear biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.alibi import ALiBi

if TYPE_CHECKING:
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads


@implements(ALiBi)
class ALiBiModule(nn.Module):
    """A penalty proportional to distance, one slope per head."""

    def __init__(self, spec: ALiBi, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        del heads, scope, factory
        self.spec = spec

    def bias(self, q_positions: Tensor, k_positions: Tensor, heads: int) -> Tensor:
        """-slope x |q - k|: [H, T, S] from [T] and [S], or [B, H, T, S] when rows differ; fp32."""
        slopes_H = torch.tensor(self.spec.slopes(heads), dtype=torch.float32, device=q_positions.device)
        distance = (q_positions.unsqueeze(-1) - k_positions.unsqueeze(-2)).abs().float()
        return -slopes_H[:, None, None] * distance.unsqueeze(-3)
