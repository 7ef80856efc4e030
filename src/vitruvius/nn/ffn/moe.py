"""A dropless mixture of experts on grouped matrix products, with a readable loop as reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ffn.mlp import activate
from vitruvius.nn.ops import gated_activation
from vitruvius.nn.registry import Factory, implements, make, module_class
from vitruvius.spec.ffn.mlp import Gated
from vitruvius.spec.ffn.moe import Moe

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope
    from vitruvius.spec.node import FeedForward

    Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Experts(nn.Module):
    """The experts' tensors, stacked on a leading axis of E."""

    def __init__(self, expert: FeedForward, count: int, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.gated = isinstance(expert, Gated)
        self.activation: str = expert.activation  # pyright: ignore[reportAttributeAccessIssue]
        for name, tensor in expert.tensors(scope).items():
            parameter = nn.Parameter(torch.empty(count, *tensor.shape, **factory))
            self.register_parameter(name.replace(".", "_"), parameter)

    def forward(self, x_ND: Tensor, multiply: Multiply) -> Tensor:
        """Tokens sorted by expert through their experts; `multiply(x, weight_Eoi, bias_Eo)` is a grouped linear map."""
        if self.gated:
            gate, up = (multiply(x_ND, *self._map(name)) for name in ("gate", "up"))
            return multiply(gated_activation(gate, up, activation=self.activation), *self._map("down"))
        return multiply(activate(multiply(x_ND, *self._map("up")), self.activation), *self._map("down"))

    def _map(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weights [E, out, in] and biases [E, out] of one of the experts' linear maps."""
        return self.get_parameter(f"{name}_weight"), getattr(self, f"{name}_bias", None)


@implements(Moe)
class MoeModule(nn.Module):
    """Each token through its top_k experts, weighted, and through the shared expert when there is one."""

    def __init__(self, spec: Moe, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.count = spec.experts
        router = module_class(type(spec.router))
        assert router is not None, spec.router
        self.router = router(spec.router, spec, scope.width, factory)
        self.experts = Experts(spec.expert, spec.experts, scope, factory)
        self.shared_expert = None if spec.shared_expert is None else make(spec.shared_expert, scope, factory)

    def forward(self, x_BTD: Tensor, place: Place) -> Tensor:
        """Act on each position: [B, T, D] to [B, T, D]."""
        x_ND = x_BTD.flatten(0, -2)
        weights, chosen = self.router(x_ND, place.signals)
        out_ND = self._mix(x_ND, weights, chosen, place.backend)
        if self.shared_expert is not None:
            out_ND = out_ND + self.shared_expert(x_ND)
        return out_ND.view_as(x_BTD)

    def _mix(self, x_ND: Tensor, weights: Tensor, chosen: Tensor, backend: str) -> Tensor:
        """Sort the (token, expert) pairs by expert, run each expert on its run, add up per token."""
        top_k = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)
        token = order // top_k
        counts_E = torch.bincount(chosen.flatten(), minlength=self.count)
        multiply = _choose(x_ND, backend)(counts_E)
        y = self.experts(x_ND.index_select(0, token), multiply)
        weighted = y * weights.flatten().index_select(0, order).to(y.dtype).unsqueeze(1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        return weighted.index_select(0, back).view(-1, top_k, y.shape[1]).sum(dim=1)


def _choose(x_ND: Tensor, backend: str) -> Callable[[Tensor], Multiply]:
    """Grouped products where torch has them (fp32 and bf16), else the loop, which is also the reference."""
    if backend == "reference" or x_ND.dtype not in {torch.float32, torch.bfloat16} or x_ND.is_meta:
        return looped
    return grouped


def looped(counts_E: Tensor) -> Multiply:
    """A linear map per expert, one after another; experts without tokens are passed over."""
    sizes = counts_E.tolist()

    def multiply(x_ND: Tensor, weight_Eoi: Tensor, bias_Eo: Tensor | None) -> Tensor:
        runs = x_ND.split(sizes)
        return torch.cat(
            [
                F.linear(run, weight_Eoi[e], None if bias_Eo is None else bias_Eo[e])
                for e, run in enumerate(runs)
                if run.shape[0]
            ]
        )

    return multiply


def grouped(counts_E: Tensor) -> Multiply:
    """All experts in one call of torch's grouped matrix product."""
    ends_E = counts_E.cumsum(0).to(torch.int32)

    def multiply(x_ND: Tensor, weight_Eoi: Tensor, bias_Eo: Tensor | None) -> Tensor:
        y = F.grouped_mm(x_ND, weight_Eoi.transpose(1, 2), offs=ends_E)
        return y if bias_Eo is None else y + bias_Eo.repeat_interleave(counts_E, dim=0)

    return multiply
