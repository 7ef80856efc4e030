"""Mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.node import FeedForward, Flops, PositiveInt, Router, Scope, TensorSpec, register, under
from vitruvius.spec.routers.softmax import SoftmaxRouter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STACKABLE = (Mlp, Gated)
"""Families of experts that are computed stacked; a kind that derives from one keeps its formula and tensor names."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Moe(FeedForward):
    """Many feed-forward experts of which a router picks `top_k` per token; no token is dropped."""

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    """Experts to choose from."""
    top_k: PositiveInt
    """Experts that a token passes through."""
    expert: FeedForward
    """One expert: an mlp, swiglu or geglu."""
    router: Router = field(default_factory=SoftmaxRouter)
    """How experts are chosen and weighted."""
    shared_expert: FeedForward | None = None
    """An expert that every token passes through besides the chosen ones."""

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
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """The router's and the chosen experts' linear maps, and what the shared expert says of itself."""
        if self.shared_expert is None:
            return super(Moe, self).flops(scope, tokens)
        routed = replace(self, shared_expert=None)
        return routed.flops(scope, tokens) + self.shared_expert.flops(scope, tokens)

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """More chosen than there are, mixtures within mixtures, and experts that cannot be stacked."""
        if self.top_k > self.experts:
            what = f"{self.top_k} experts per token, and there are {self.experts}"
            yield Finding(path="top_k", what=what, fix=f"use at most {self.experts}")
        yield from under("router", self.router.findings(scope))
        yield from under("router", self.router.findings_for_choice(self.top_k))
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
