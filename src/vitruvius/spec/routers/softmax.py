"""Softmax routing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitruvius.spec.node import NonNegativeFloat, Router, register


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxRouter(Router):
    """A softmax over a linear map of the token, of which the top_k largest are taken (Shazeer et al., 2017)."""

    kind: Literal["softmax"] = "softmax"
    renormalise: bool = True
    """Whether the chosen weights are divided by their sum (Mixtral, Qwen3), which equals a softmax over the chosen."""
    balance_loss: NonNegativeFloat = 0.01
    """Coefficient of the Switch load-balance loss: experts x sum_i share_i x mean probability_i."""
    z_loss: NonNegativeFloat = 0.0
    """Coefficient of the squared log-sum-exp of the router's scores (ST-MoE)."""
