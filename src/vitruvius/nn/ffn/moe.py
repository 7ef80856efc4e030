"""A mixture of experts on grouped matrix products, with a readable loop as reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.ffn.mlp import activate
from vitruvius.nn.ops import gated_activation
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.counting import occurrences
from vitruvius.nn.ops.grouped import combine, dispatch, fused_linear, grouped_linear, looped_linear
from vitruvius.nn.registry import Factory, implements, make, make_router
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.ffn.moe import STACKABLE, Moe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.nn.place import Place, Signals
    from vitruvius.nn.routers.base import Routing
    from vitruvius.spec import Scope

    GroupedLinear = Callable[[Tensor, Sequence[tuple[Tensor, Tensor | None]], Tensor], tuple[Tensor, ...]]
    Journey = Callable[["Experts", Tensor, Tensor, GroupedLinear], Tensor]


class Experts(nn.Module):
    """The experts' tensors, stacked on a leading axis of E."""

    def __init__(self, expert: Mlp | Gated, count: int, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.gated = isinstance(expert, Gated)
        self.activation: str = expert.activation
        self.journey: Journey | None = None
        """Set where other processes have some of the experts: how rows come to theirs, and results back."""
        for name, tensor in expert.tensors(scope).items():
            parameter = nn.Parameter(torch.empty(count, *tensor.shape, **factory))
            self.register_parameter(name.replace(".", "_"), parameter)

    def forward(self, x_RD: Tensor, sizes_E: Tensor, linear: GroupedLinear) -> Tensor:
        """Rows sorted by expert through their experts, [R, D] to [R, D]; `sizes_E` says how many each expert has."""
        if self.journey is not None:
            return self.journey(self, x_RD, sizes_E, linear)
        return self.compute(x_RD, sizes_E, linear)

    def compute(self, x_RD: Tensor, sizes_E: Tensor, linear: GroupedLinear) -> Tensor:
        """The same through the experts that this module has the tensors of."""
        if self.gated:
            gate_RF, up_RF = linear(x_RD, [self._map("gate"), self._map("up")], sizes_E)
            h_RF = gated_activation(gate_RF, up_RF, activation=self.activation)
        else:
            h_RF = activate(linear(x_RD, [self._map("up")], sizes_E)[0], self.activation)
        return linear(h_RF, [self._map("down")], sizes_E)[0]

    def _map(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weights [E, out, in] and biases [E, out] of one of the experts' linear maps."""
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None)


@implements(Moe)
class MoeModule(nn.Module):
    """Each token through its experts, weighted, and through the shared expert when there is one."""

    def __init__(self, spec: Moe, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.count, self.capacity = spec.experts, spec.capacity
        assert isinstance(spec.expert, STACKABLE), "the rules of the spec refuse other experts"
        self.router = make_router(spec, scope.width, factory)
        self.experts = Experts(spec.expert, spec.experts, scope, factory)
        self.shared_expert = None if spec.shared_expert is None else make(spec.shared_expert, scope, factory)
        gated = spec.shared_expert is not None and spec.shared_gate == "sigmoid"
        self.shared_gate = nn.Linear(scope.width, 1, bias=False, **factory) if gated else None

    @shaped
    def forward(self, x_BTD: Float[Tensor, "B T D"], place: Place) -> Float[Tensor, "B T D"]:
        """Act on each position: [B, T, D] to [B, T, D]."""
        routing = self.router(x_BTD, place)
        if self.capacity is not None and self.training:
            routing = self._within_capacity(routing, self.capacity, place.signals)
        out_BTD = self._mix(x_BTD.flatten(0, -2), routing, place.backend).view_as(x_BTD)
        if self.shared_expert is None:
            return out_BTD
        shared_BTD = self.shared_expert(x_BTD, place)
        if self.shared_gate is not None:
            shared_BTD = self.shared_gate(x_BTD).sigmoid() * shared_BTD
        return out_BTD + shared_BTD

    def _within_capacity(self, routing: Routing, capacity: float, signals: Signals | None) -> Routing:
        """The routing without the pairs that come to an expert when it is full: earlier tokens go first.

        So no token is dropped for the sake of a later one. Weights stay as they are: what is dropped adds nothing.
        """
        expert_P = routing.chosen_NK.flatten()
        most = math.ceil(capacity * expert_P.numel() / self.count)
        order_P = expert_P.argsort(stable=True)
        counts_E = occurrences(expert_P, self.count)
        starts_E = counts_E.cumsum(0) - counts_E
        rank_P = torch.arange(expert_P.numel(), device=expert_P.device) - starts_E[expert_P[order_P]]
        kept_P = torch.empty_like(order_P, dtype=torch.bool)
        kept_P[order_P] = rank_P < most
        if signals is not None:
            signals.report("dropped_fraction", 1 - kept_P.float().mean())
        return replace(routing, kept_NK=kept_P.view_as(routing.chosen_NK))

    def _mix(self, x_ND: Tensor, routing: Routing, backend: str) -> Tensor:
        """Sort the (token, expert) pairs by expert, run each expert on its run, add up per token."""
        widths = {x_ND.shape[1], *(weight.shape[-1] for weight in self.experts.parameters())}
        linear = _choose(x_ND, backend, widths)
        # Where rows travel, runs are filled up behind the journey.
        multiple = rows_multiple(x_ND, linear) if self.experts.journey is None else 1
        if routing.kept_NK is not None:
            return self._mix_kept(x_ND, routing, routing.kept_NK, linear, multiple)
        runs = Runs.of(routing.chosen_NK.flatten(), self.count, multiple=multiple)
        token_R, row_NK = runs.pair_R // routing.chosen_NK.shape[1], runs.row_P.view_as(routing.chosen_NK)
        y_RD = self.experts(dispatch(x_ND, token_R, row_NK), runs.sizes_E, linear)
        return combine(y_RD, routing.weights_NK, token_R, row_NK)

    def _mix_kept(
        self, x_ND: Tensor, routing: Routing, kept_NK: Tensor, linear: GroupedLinear, multiple: int
    ) -> Tensor:
        """The same where some pairs are left out, so that tokens have different numbers of rows."""
        token_P, choice_P = kept_NK.nonzero(as_tuple=True)
        runs = Runs.of(routing.chosen_NK[token_P, choice_P], self.count, multiple=multiple)
        if not token_P.numel() and self.experts.journey is None:
            return torch.zeros_like(x_ND)
        x_RD = x_ND.index_select(0, token_P[runs.pair_R])
        y_PD = self.experts(x_RD, runs.sizes_E, linear).index_select(0, runs.row_P)
        weights_P1 = routing.weights_NK[token_P, choice_P].to(y_PD.dtype).unsqueeze(1)
        return torch.zeros_like(x_ND).index_add(0, token_P, y_PD * weights_P1)


ROWS = 32
"""On CPUs, bf16 products are compiled for each number of rows; rounding runs up to this lets them be reused."""


def rows_multiple(x_ND: Tensor, linear: GroupedLinear) -> int:
    """What the rows of each run are rounded up to."""
    rounded = linear is not looped_linear and x_ND.device.type == "cpu" and x_ND.dtype == torch.bfloat16
    return ROWS if rounded else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """(token, expert) pairs in runs, one run for each expert."""

    pair_R: Tensor
    """Pair of each row; rows that fill up a run repeat pair 0, and nobody reads their results."""
    sizes_E: Tensor
    """Rows of each expert's run."""
    row_P: Tensor
    """Row of each pair."""

    @classmethod
    @uncompiled  # how many rows there are follows from the routing: a compiler would break off there, and say so
    def of(cls, expert_P: Tensor, experts: int, *, multiple: int) -> Runs:
        """The runs of pairs with these experts, each filled up to a multiple of so many rows."""
        order = expert_P.argsort(stable=True)
        counts_E = occurrences(expert_P, experts)
        sizes_E = (counts_E + multiple - 1) // multiple * multiple
        shift_E = (sizes_E - counts_E).cumsum(0) - (sizes_E - counts_E)
        row_of_sorted = torch.arange(expert_P.numel(), device=expert_P.device) + shift_E[expert_P[order]]
        row_P = torch.empty_like(order)
        row_P[order] = row_of_sorted
        rows = expert_P.numel() if multiple == 1 else int(sizes_E.sum())
        pair_R = torch.zeros(rows, dtype=torch.int64, device=expert_P.device)
        pair_R[row_of_sorted] = order
        return cls(pair_R=pair_R, sizes_E=sizes_E, row_P=row_P)


_ALIGNMENT = 16
"""Bytes that torch's grouped product wants rows to be a multiple of."""
_FUSED = {("cpu", torch.float32), ("cpu", torch.bfloat16), ("cuda", torch.bfloat16)}
"""Where torch has a grouped product that is worth its name: elsewhere it takes no such numbers, or waits as we do."""


def _choose(x_ND: Tensor, backend: str, widths: set[int]) -> GroupedLinear:
    """The loop when it is asked for, torch's grouped product where it has one, else our own."""
    if backend == "reference":
        return looped_linear
    aligned = all(width * x_ND.element_size() % _ALIGNMENT == 0 for width in widths)
    # The compiler knows of the product in bf16 alone.
    known = x_ND.dtype == torch.bfloat16 or not torch.compiler.is_compiling()
    return fused_linear if aligned and known and (x_ND.device.type, x_ND.dtype) in _FUSED else grouped_linear
