"""Softmax routing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import NonNegativeFloat, Router, TensorSpec, register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:
        """One row per expert."""
        return {"weight": TensorSpec(shape=(experts, width), role="router")}

    def findings_for_choice(self, top_k: int) -> Iterator[Finding]:
        """One expert with its weight divided by itself weighs one, whatever the router says."""
        if top_k == 1 and self.renormalise and not (self.balance_loss or self.z_loss):
            what = (
                "with top_k 1 the renormalised weight is always 1, and without auxiliary losses the router never learns"
            )
            fix = "use renormalise: false (Switch), or a balance_loss such as 0.01"
            yield Finding(path="renormalise", severity="warning", what=what, fix=fix)
