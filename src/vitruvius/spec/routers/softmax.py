"""Softmax routing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import NonNegativeFloat, Router, TensorSpec, register
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.tape_ops import unary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.routing import Routed
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxRouter(Router):
    """A softmax over a linear map of the token, of which the top_k largest are taken (Shazeer et al., 2017)."""

    schedulable = marks(
        balance_loss=Schedulable(bears_on="cost", why="an even load first, then experts that may differ"),
        z_loss=Schedulable(bears_on="cost", why="scores held small while they still grow fast"),
        noise=Schedulable(bears_on="cost", why="experts tried out at first, and a choice that settles"),
    )

    kind: Literal["softmax"] = "softmax"
    order: Literal["softmax-then-top-k", "top-k-then-softmax"] = "softmax-then-top-k"
    """Whether probabilities are over all experts or over the chosen ones; the second always sums to one."""
    renormalise: bool = True
    """Whether the chosen weights are divided by their sum (Mixtral, Qwen3), which equals a softmax over the chosen."""
    balance_loss: NonNegativeFloat = 0.01
    """Coefficient of the Switch load-balance loss: experts x sum_i share_i x mean probability_i."""
    z_loss: NonNegativeFloat = 0.0
    """Coefficient of the squared log-sum-exp of the router's scores (ST-MoE)."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of the noise that scores get while training, before the choice (Shazeer et al., 2017)."""

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:
        """One row per expert."""
        return {"weight": TensorSpec(shape=(experts, width), role="router")}

    def trace_routed(self, tape: Tape, x: Value, *, experts: int, top_k: int) -> Routed:
        """Scores of all, the chosen and their weights, and what the losses read."""
        from vitruvius.spec.tracing import routing
        from vitruvius.spec.tracing.linear_parts import wide_linear

        with tape.call():
            scores = wide_linear(x, experts)
            if self.noise:
                routing.noise(tape, scores)
            chosen = routing.largest(tape, scores, top_k)
            tape.hold(scores, chosen)
            if self.order == "top-k-then-softmax":
                weights = unary("softmax", routing.gathered(scores, chosen), "output")
                probabilities = unary("softmax", scores if self.balance_loss else scores.detached(), "output")
            else:
                probabilities = unary("softmax", scores, "output")
                weights = routing.gathered(probabilities, chosen)
                if self.renormalise:
                    weights = routing.divided(weights, routing.row_sums(weights))
            tape.hold(probabilities, weights)
            if self.balance_loss:
                routing.balance_loss(tape, probabilities)
            if self.z_loss:
                routing.z_loss(tape, scores)
            return routing.Routed(chosen=chosen, weights=weights)

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
