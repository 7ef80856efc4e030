"""Expert parallelism: the experts of every mixture divided among processes, and rows that travel to them and back.

Each process routes its own tokens. Rows, sorted by expert, go to the processes that have their experts by an
all-to-all with uneven splits; there they are sorted by expert once more and computed; results go back the same way and
are weighted where they came from. Backwards, gradients travel the same ways. Routers, capacity, shared experts and
whatever a layer does around the mixture see the tokens of their own process alone, and know nothing of it.
Source: Lepikhin et al., "GShard", 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from vitruvius.nn.ffn.moe import Experts, Runs, rows_multiple
from vitruvius.nn.ops.grouped import dispatch
from vitruvius.training.engines.cutting import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.nn.ffn.moe import GroupedLinear


def mixtures_of(model: Model) -> Iterator[tuple[str, Experts]]:
    """The experts of every mixture with their name; those of a layer that comes again once."""
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            yield name, module


def spread_experts(model: Model, group: dist.ProcessGroup) -> frozenset[str]:
    """Keep this process's experts of every mixture, and let rows travel among the processes of a group.

    Returns the parameters that were cut, along their first dimension, which the size of the group divides.
    """
    names: set[str] = set()
    for name, experts in mixtures_of(model):
        for parameter in [parameter for parameter, _ in experts.named_parameters()]:
            cut(experts, parameter, 0, group)
            names.add(f"{name}.{parameter}")
        experts.journey = Journey(group)
    # A process whose rows have no token so far ahead computes as the others do, who wait for its rows.
    model.passes_alike = True
    return frozenset(names)


class Journey:
    """Rows to their experts in the processes of a group, and results back."""

    __slots__ = ("group",)

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __call__(self, experts: Experts, x_RD: Tensor, sizes_E: Tensor, linear: GroupedLinear) -> Tensor:
        """As `Experts.compute` of all experts; called by all processes of the group, also by one without rows."""
        processes = self.group.size()
        counts_PL = sizes_E.view(processes, -1)
        theirs_PL = torch.empty_like(counts_PL)
        dist.all_to_all_single(theirs_PL, counts_PL.contiguous(), group=self.group)
        sent, received = _totals(counts_PL, theirs_PL)
        rows_SD = exchanged(x_RD, sent, received, self.group)
        if torch.is_grad_enabled():
            y_SD = _computed(experts, rows_SD, theirs_PL, linear)
        else:
            # Processes that write the same text have to write it in the same steps, to the last bit of each; a row's
            # bits may depend on which others are multiplied with it, so those of each process stay by themselves.
            each = zip(rows_SD.split(received), theirs_PL.split(1), strict=True)
            y_SD = torch.cat([_computed(experts, its_SD, its_1L, linear) for its_SD, its_1L in each])
        return exchanged(y_SD, received, sent, self.group)


def _computed(experts: Experts, rows_SD: Tensor, counts_PL: Tensor, linear: GroupedLinear) -> Tensor:
    """Rows as they come, by process and then by expert, through the experts of this process; in the same order."""
    processes, here = counts_PL.shape
    expert_S = torch.arange(here, device=rows_SD.device).repeat(processes).repeat_interleave(counts_PL.flatten())
    runs = Runs.of(expert_S, here, multiple=rows_multiple(rows_SD, linear))
    y_RD = experts.compute(dispatch(rows_SD, runs.pair_R, runs.row_P.unsqueeze(1)), runs.sizes_E, linear)
    return y_RD.index_select(0, runs.row_P)


def exchanged(x_RD: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """The rows that the processes of a group have for this one, in their order; `x_RD` has this one's for each.

    sent, received: how many rows go to each process, and come from it. gloo and nccl have it alike.
    """
    return _Exchanged.apply(x_RD, tuple(sent), tuple(received), group)


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, sent: tuple[int, ...], received: tuple[int, ...], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _passed(x_RD, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _passed(grad, ctx.received, ctx.sent, ctx.group), None, None, None


def _passed(x_RD: Tensor, sent: tuple[int, ...], received: tuple[int, ...], group: dist.ProcessGroup) -> Tensor:
    made = x_RD.new_empty(sum(received), *x_RD.shape[1:])
    dist.all_to_all_single(made, x_RD.contiguous(), list(received), list(sent), group=group)
    return made


def _totals(*counts: Tensor) -> list[list[int]]:
    """Rows by process, of each table of rows by process and expert; the host waits for the device once."""
    found: list[list[int]] = torch.stack([each.sum(dim=1) for each in counts]).tolist()
    return found
