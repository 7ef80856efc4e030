"""Sigmoid routing, balanced by a bias instead of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import NonNegativeFloat, PositiveFloat, PositiveInt, Router, TensorSpec, register
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.tape_ops import unary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.routing import Routed
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidRouter(Router):
    """Each expert scored by itself; a bias that follows the load decides who works (DeepSeek-V3, 2024)."""

    schedulable = marks(
        scale=Schedulable(why="experts that count for more as they learn"),
        bias_step=Schedulable(why="a bias that stands still for the last part of a run (DeepSeek-V3, 2024)"),
        balance_loss=Schedulable(bears_on="cost", why="an even load first, then experts that may differ"),
    )

    kind: Literal["sigmoid"] = "sigmoid"
    renormalise: bool = True
    """Whether the chosen scores are divided by their sum."""
    scale: PositiveFloat = 1.0
    """What the weights are multiplied by; 2.5 in DeepSeek-V3."""
    groups: PositiveInt = 1
    """Groups that the experts are cut into, in order; divides `experts`."""
    top_groups: PositiveInt | None = None
    """Groups a token may choose from: those with the largest sum of their two best experts; all when not given."""
    bias_step: NonNegativeFloat = 1e-3
    """How far an expert's bias moves after each update, up when its load was below the mean, down when above."""
    balance_loss: NonNegativeFloat = 0.0
    """Coefficient of the Switch load-balance loss over scores that are divided by their sum."""

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:
        """One row per expert."""
        return {"weight": TensorSpec(shape=(experts, width), role="router")}

    def buffers_for(self, experts: int) -> Mapping[str, TensorSpec]:
        """The balancing bias, which no gradient reaches."""
        return {"bias": TensorSpec(shape=(experts,), role="bias")}

    def trace_routed(self, tape: Tape, x: Value, *, experts: int, top_k: int) -> Routed:
        """Scores of all, the chosen and their weights, and what the loss reads."""
        from vitruvius.spec.tracing import routing
        from vitruvius.spec.tracing.linear_parts import wide_linear

        with tape.call():
            scores = unary("sigmoid", wide_linear(x, experts), "output")
            chosen = routing.largest(tape, scores, top_k)
            weights = routing.gathered(scores, chosen)
            tape.hold(scores, chosen)
            if self.renormalise:
                weights = routing.divided(weights, routing.row_sums(weights, least=True))
            if self.balance_loss:
                shares = routing.divided(scores, routing.row_sums(scores, least=True))
                tape.hold(shares)
                routing.balance_loss(tape, shares)
            return routing.Routed(chosen=chosen, weights=tape.scaled(weights))

    def sum_of_weights(self, top_k: int) -> float | None:
        """The scale, when scores are divided by their sum."""
        del top_k
        return self.scale if self.renormalise else None

    def least_experts(self, top_k: int) -> tuple[int, int]:
        """As many as the groups that a token may choose from must hold, in every group."""
        open_groups = self.top_groups or self.groups
        return -(-top_k // open_groups) * self.groups, self.groups

    def silent_for(self, experts: int, top_k: int) -> Iterator[str]:
        """The map, where each token's one weight is one and no loss reads the scores."""
        if self.renormalise and (experts == 1 or (top_k == 1 and not self.balance_loss)):
            yield "weight"

    def findings_for_choice(self, experts: int, top_k: int) -> Iterator[Finding]:
        """Groups that do not divide the experts, or that do not hold enough of them."""
        if top_k == 1 and self.renormalise and not self.balance_loss:
            what = "with top_k 1 the renormalised weight is always the scale, so the router never learns"
            fix = "use renormalise: false, or a balance_loss such as 1e-3"
            yield Finding(path="renormalise", severity="warning", what=what, fix=fix)
        if experts % self.groups:
            fitting = ", ".join(str(n) for n in range(1, min(experts, 64) + 1) if experts % n == 0)
            what = f"{self.groups} groups do not divide {experts} experts"
            yield Finding(path="groups", what=what, fix=f"use one of {fitting}")
        elif self.top_groups is not None and self.top_groups > self.groups:
            what = f"{self.top_groups} groups per token, and there are {self.groups}"
            yield Finding(path="top_groups", what=what, fix=f"use at most {self.groups}, or raise groups")
        elif self.top_groups is not None and top_k > self.top_groups * (experts // self.groups):
            reach = self.top_groups * (experts // self.groups)
            what = f"{self.top_groups} of {self.groups} groups hold {reach} experts, and a token needs {top_k}"
            yield Finding(
                path="top_groups", what=what, fix=f"use top_groups {-(-top_k * self.groups // experts)} or more"
            )
