"""Mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.node import (
    FeedForward,
    Flops,
    PositiveFloat,
    PositiveInt,
    Router,
    Scope,
    TensorSpec,
    Twin,
    register,
    under,
)
from vitruvius.spec.routers.softmax import SoftmaxRouter
from vitruvius.spec.schedulable import Schedulable, marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

STACKABLE = (Mlp, Gated)
"""Families of experts that are computed stacked; a kind that derives from one keeps its formula and tensor names."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Moe(FeedForward):
    """Many feed-forward experts of which a router picks `top_k` per token."""

    schedulable = marks(
        top_k=Schedulable(
            form="count", bears_on="cost", why="from many experts to few: dense to sparse (Nie et al., 2021)"
        ),
        capacity=Schedulable(bears_on="cost", why="room for an uneven load until routing has settled"),
    )

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    """Experts to choose from."""
    top_k: PositiveInt
    """Experts that a token passes through; on average, where experts choose tokens."""
    expert: FeedForward
    """One expert: an mlp, swiglu or geglu."""
    router: Router = field(default_factory=SoftmaxRouter)
    """How experts are chosen and weighted."""
    shared_expert: FeedForward | None = None
    """An expert that every token passes through besides the chosen ones."""
    shared_gate: Literal["none", "sigmoid"] = "none"
    """What the shared expert's output is multiplied by: nothing, or the sigmoid of a map of the token (Qwen2-MoE)."""
    capacity: PositiveFloat | None = None
    """While training, the most tokens that an expert takes, in even shares; without it no token is dropped."""

    @property
    def is_causal(self) -> bool:
        """Experts that choose among the tokens of a text look at all of them."""
        return self.router.chooses == "experts"

    @property
    def hidden_width(self) -> int:
        """Width of the inner activations of the experts that one token passes through."""
        shared = self.shared_expert.hidden_width if self.shared_expert else 0
        return self.top_k * self.expert.hidden_width + shared

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The router's tensors, the experts' stacked on a leading axis, the shared expert's."""
        router = self.router.tensors_for(self.experts, scope.width)
        tensors = {f"router.{name}": tensor for name, tensor in router.items()}
        for name, tensor in self.expert.tensors(scope).items():
            stacked = replace(tensor, shape=(self.experts, *tensor.shape), used=(self.top_k, self.experts))
            tensors[f"experts.{name.replace('.', '_')}"] = stacked
        if self.shared_expert is not None:
            shared = self.shared_expert.tensors(scope)
            tensors |= {f"shared_expert.{name}": tensor for name, tensor in shared.items()}
            if self.shared_gate == "sigmoid":
                tensors["shared_gate.weight"] = TensorSpec(shape=(1, scope.width))
        return tensors

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Each token through its experts, weighted, and through the shared expert when there is one."""
        from vitruvius.spec.tracing.routing import trace_mixture

        return trace_mixture(tape, self, x, scope)

    def buffers(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """What the router keeps besides its parameters."""
        del scope
        return {f"router.{name}": tensor for name, tensor in self.router.buffers_for(self.experts).items()}

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The router's map of every token, the chosen experts' maps, and what the shared expert says of itself."""
        pairs = self.router.pairs(tokens, self.top_k, self.experts)
        maps = 2 * sum(t.count for t in self.router.tensors_for(self.experts, scope.width).values() if t.is_linear)
        if self.shared_expert is None:
            shared = Flops()
        else:
            shared = self.shared_expert.flops(scope, tokens)
            maps += 2 * scope.width if self.shared_gate == "sigmoid" else 0
        return self.expert.flops(scope, pairs) + shared + Flops(useful=maps * tokens, dense=maps * tokens)

    def details(self, scope: Scope) -> Iterator[str]:
        """How many experts, and what they are."""
        yield f"{self.top_k:,} of {self.experts:,} experts"
        yield f"each {self.expert.kind}, {scope.width:,} → {self.expert.hidden_width:,}"
        if self.shared_expert is not None:
            gated = ", gated" if self.shared_gate != "none" else ""
            yield f"shared {self.shared_expert.kind}, {scope.width:,} → {self.shared_expert.hidden_width:,}{gated}"
        if self.capacity is not None:
            yield f"capacity {self.capacity:g} while training"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """More chosen than there are, mixtures within mixtures, and experts that cannot be stacked."""
        if self.top_k > self.experts:
            what = f"{self.top_k} experts per token, and there are {self.experts}"
            yield Finding(path="top_k", what=what, fix=f"use at most {self.experts}")
        yield from under("router", self.router.findings(scope))
        if self.top_k <= self.experts:
            yield from under("router", self.router.findings_for_choice(self.experts, self.top_k))
        yield from self._findings_of_capacity()
        if self.shared_gate != "none" and self.shared_expert is None:
            what = "a gate for a shared expert, and there is no shared expert"
            yield Finding(path="shared_gate", what=what, fix="give a shared_expert, or leave shared_gate out")
        if not isinstance(self.expert, (*STACKABLE, Moe)):
            kind = self.expert.kind
            what = f"experts of kind {kind} cannot be computed stacked"
            fix = f"use an mlp, swiglu or geglu as expert; {kind} may be the shared_expert, which stands alone"
            yield Finding(path="expert", what=what, fix=fix)
        for name, expert in (("expert", self.expert), ("shared_expert", self.shared_expert)):
            if isinstance(expert, Moe):
                what = "an expert cannot be a mixture itself"
                yield Finding(path=name, what=what, fix="use an mlp, swiglu or geglu")
            elif expert is not None:
                yield from under(name, expert.findings(scope))

    def _findings_of_capacity(self) -> Iterator[Finding]:
        if self.capacity is None:
            return
        if self.router.chooses == "tokens":
            what = "each expert takes exactly its share already, so there is nothing over capacity"
            yield Finding(path="capacity", what=what, fix="leave capacity out; top_k sets the share")
        elif self.capacity < 1:
            what = f"experts that take {self.capacity:g} of an even share drop tokens however even the load is"
            yield Finding(path="capacity", severity="warning", what=what, fix="use 1.25, or leave it out to drop none")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Fewer experts in the same ratio to the chosen ones, as many as the router's groups need."""
        top_k = min(self.top_k, 2)
        ratio = min(Fraction(self.experts, self.top_k), Fraction(twin.most))
        least, multiple = self.router.least_experts(top_k)
        experts = max(int(ratio * top_k), least)
        return {"top_k": top_k, "experts": -(-experts // multiple) * multiple}

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """What the router says is silent: the choice among one expert is no choice."""
        del scope, length
        yield from (f"router.{name}" for name in self.router.silent_for(self.experts, self.top_k))
