"""Experts that choose their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import NonNegativeFloat, Router, Scope, TensorSpec, register
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.tape_ops import unary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.routing import Routed
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertChoiceRouter(Router):
    """Each expert takes the tokens of a sequence that want it most, as many as its share (Zhou et al., 2022)."""

    chooses: ClassVar[Literal["experts", "tokens"]] = "tokens"

    schedulable = marks(z_loss=Schedulable(bears_on="cost", why="scores held small while they still grow fast"))

    kind: Literal["expert-choice"] = "expert-choice"
    z_loss: NonNegativeFloat = 0.0
    """Coefficient of the squared log-sum-exp of the router's scores (ST-MoE)."""

    def tensors_for(self, experts: int, width: int) -> Mapping[str, TensorSpec]:
        """One row per expert."""
        return {"weight": TensorSpec(shape=(experts, width), role="router")}

    def trace_routed(self, tape: Tape, x: Value, *, experts: int, top_k: int) -> Routed:
        """Probabilities of every token with every expert, and which of these pairs are taken."""
        from vitruvius.spec.tracing import routing
        from vitruvius.spec.tracing.linear_parts import wide_linear

        del top_k
        with tape.call():
            scores = wide_linear(x, experts)
            probabilities = unary("softmax", scores, "output")
            tape.hold(scores, probabilities)
            taken = tape.fresh(probabilities.shape, item=1, gradient=False)
            chosen = tape.fresh((experts,), item=8, gradient=False)
            tape.op("taken", reads=[probabilities], makes=[taken, chosen], forward=32 * taken.size, gives=[])
            if self.z_loss:
                routing.z_loss(tape, scores)
            return routing.Routed(chosen=chosen, weights=probabilities, kept=taken)

    def pairs(self, tokens: int, top_k: int, experts: int) -> int:
        """Each expert's share of `top_k` times the tokens, rounded up."""
        return experts * -(-tokens * top_k // experts)

    def silent_for(self, experts: int, top_k: int) -> Iterator[str]:
        """The map to one expert, which takes every token with probability one."""
        del top_k
        if experts == 1:
            yield "weight"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Whether an earlier token is taken depends on later ones."""
        if scope.causal:
            what = (
                "experts choose among all tokens of a sequence, so whether an earlier token is taken depends on later "
                "ones: a causal model would see the future in training, and could not generate"
            )
            fix = "use a softmax or sigmoid router, or expert-choice under a head that may look both ways"
            yield Finding(what=what, fix=fix)
