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
    order: Literal["softmax-then-top-k", "top-k-then-softmax"] = "softmax-then-top-k"
    """Whether probabilities are over all experts or over the chosen ones; the second always sums to one."""
    renormalise: bool = True
    """Whether the chosen weights are divided by their sum (Mixtral, Qwen3), which equals a softmax over the chosen."""
    balance_loss: NonNegativeFloat = 0.01
    """Coefficient of the Switch load-balance loss: experts x sum_i share_i x mean probability_i."""
    z_loss: NonNegativeFloat = 0.0
    """Coefficient of the squared log-sum-exp of the router's scores (ST-MoE)."""

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:
        """One row per expert."""
        return {"weight": TensorSpec(shape=(experts, width), role="router")}

    def sum_of_weights(self, top_k: int) -> float | None:
        """One, unless the chosen keep the probabilities they have among all."""
        del top_k
        return 1.0 if self._sums_to_one else None

    def silent_for(self, experts: int, top_k: int) -> Iterator[str]:
        """The map, where each token's one weight is one and no loss reads the scores."""
        if experts == 1 or (top_k == 1 and self._sums_to_one and not self._has_losses):
            yield "weight"

    def findings_for_choice(self, experts: int, top_k: int) -> Iterator[Finding]:
        """One expert with its weight divided by itself weighs one, whatever the router says."""
        del experts
        if self.order == "top-k-then-softmax" and not self.renormalise:
            what = "a softmax over the chosen experts sums to one already, renormalised or not"
            fix = "leave renormalise out, or use order: softmax-then-top-k"
            yield Finding(path="renormalise", severity="warning", what=what, fix=fix)
        elif top_k == 1 and self._sums_to_one and not self._has_losses:
            what = (
                "with top_k 1 the renormalised weight is always 1, and without auxiliary losses the router never learns"
            )
            fix = "use renormalise: false (Switch), or a balance_loss such as 0.01"
            yield Finding(path="renormalise", severity="warning", what=what, fix=fix)

    @property
    def _sums_to_one(self) -> bool:
        return self.renormalise or self.order == "top-k-then-softmax"

    @property
    def _has_losses(self) -> bool:
        return bool(self.balance_loss or self.z_loss)
