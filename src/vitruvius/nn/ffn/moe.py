"""A dropless mixture of experts on grouped matrix products, with a readable loop as reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.ffn.mlp import activate
from vitruvius.nn.ops import gated_activation
from vitruvius.nn.registry import Factory, implements, make, make_router
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.ffn.moe import STACKABLE, Moe

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope

    Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Experts(nn.Module):
    """The experts' tensors, stacked on a leading axis of E."""

    def __init__(self, expert: Mlp | Gated, count: int, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.gated = isinstance(expert, Gated)
        self.activation: str = expert.activation
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
        assert isinstance(spec.expert, STACKABLE), "the rules of the spec refuse other experts"
        self.router = make_router(spec, scope.width, factory)
        self.experts = Experts(spec.expert, spec.experts, scope, factory)
        self.shared_expert = None if spec.shared_expert is None else make(spec.shared_expert, scope, factory)

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Float[Tensor, "B T D"]:
        """Act on each position: [B, T, D] to [B, T, D]."""
        x_ND = x_BTD.flatten(0, -2)
        weights, chosen = self.router(x_ND, place.signals)
        out_BTD = self._mix(x_ND, weights, chosen, place.backend).view_as(x_BTD)
        return out_BTD if self.shared_expert is None else out_BTD + self.shared_expert(x_BTD, place)

    def _mix(self, x_ND: Tensor, weights: Tensor, chosen: Tensor, backend: str) -> Tensor:
        """Sort the (token, expert) pairs by expert, run each expert on its run, add up per token."""
        widths = {x_ND.shape[1], *(weight.shape[-1] for weight in self.experts.parameters())}
        multiply_by = _choose(x_ND, backend, widths)
        padded = multiply_by is grouped and x_ND.device.type == "cpu" and x_ND.dtype == torch.bfloat16
        runs = _Runs.of(chosen, self.count, multiple=ROWS if padded else 1)
        y = self.experts(x_ND.index_select(0, runs.token), multiply_by(runs.sizes_E))
        y_NAD = y.index_select(0, runs.row_of_pair).view(*chosen.shape, y.shape[1])
        return (y_NAD * weights.to(y.dtype).unsqueeze(2)).sum(dim=1)


ROWS = 64
"""On CPUs, bf16 products are compiled for each number of rows; rounding runs up to this lets them be reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """(token, expert) pairs in runs, one run for each expert."""

    token: Tensor
    """Token of each row; padding rows repeat token 0, and nobody reads their results."""
    sizes_E: Tensor
    """Rows of each expert's run."""
    row_of_pair: Tensor
    """Row of each pair, in the order of the tokens and then of their choices."""

    @classmethod
    def of(cls, chosen: Tensor, experts: int, *, multiple: int) -> _Runs:
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts_E = torch.bincount(flat, minlength=experts)
        sizes_E = (counts_E + multiple - 1) // multiple * multiple
        shift_E = (sizes_E - counts_E).cumsum(0) - (sizes_E - counts_E)
        row_of_sorted = torch.arange(flat.numel(), device=flat.device) + shift_E[flat[order]]
        row_of_pair = torch.empty_like(order)
        row_of_pair[order] = row_of_sorted
        rows = flat.numel() if multiple == 1 else int(sizes_E.sum())
        token = torch.zeros(rows, dtype=torch.int64, device=flat.device)
        token[row_of_sorted] = order // chosen.shape[1]
        return cls(token=token, sizes_E=sizes_E, row_of_pair=row_of_pair)


_ALIGNMENT = 16
"""Bytes that torch's grouped product wants rows to be a multiple of."""


def _choose(x_ND: Tensor, backend: str, widths: set[int]) -> Callable[[Tensor], Multiply]:
    """Grouped products where torch has them, else the loop, which is also the reference.

    Torch has them in fp32 and bf16, for rows whose bytes are a multiple of 16.
    """
    if backend == "reference" or x_ND.dtype not in {torch.float32, torch.bfloat16} or x_ND.is_meta:
        return looped
    aligned = all(width * x_ND.element_size() % _ALIGNMENT == 0 for width in widths)
    return grouped if aligned else looped


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
