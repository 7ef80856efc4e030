"""Gated networks of rows in groups, one group after another: down(act(gate(x)) * up(x)) with weights of its own for each.

What stands between the products of a group is computed while it is still in a core's cache, and only `gate` and `up` are
kept for the backward pass; the whole-tensor formula writes five tensors of [rows, hidden] to memory and reads them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.gated import GATES
from vitruvius.nn.ops.grouped import runs

if TYPE_CHECKING:
    from torch import Tensor


@uncompiled
def grouped_gated(
    x_RD: Tensor, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor, sizes_E: Tensor, *, activation: str = "silu"
) -> Tensor:
    """Each group of rows through its own gated network: [R, D] to [R, D].

    sizes_E: rows of each group, in order; groups without rows are passed over. activation: a name in `GATES`. Works in
    every float dtype, on every device (which has to wait for the sizes). Source: Shazeer, GLU Variants, 2020.
    """
    return _GroupedGated.apply(x_RD, gate_EFD, up_EFD, down_EDF, tuple(sizes_E.tolist()), activation)


class _GroupedGated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor, sizes: tuple[int, ...], name: str
    ) -> Tensor:
        function, _ = GATES[name]
        gates_RF, ups_RF = (x_RD.new_empty(x_RD.shape[0], gate_EFD.shape[1]) for _ in range(2))
        y_RD = torch.empty_like(x_RD)
        for group, rows in runs(sizes):
            gate, up = gates_RF[rows], ups_RF[rows]
            torch.mm(x_RD[rows], gate_EFD[group].t(), out=gate)
            torch.mm(x_RD[rows], up_EFD[group].t(), out=up)
            torch.mm(function(gate).mul_(up), down_EDF[group].t(), out=y_RD[rows])
        ctx.sizes, ctx.activation = sizes, name
        ctx.save_for_backward(x_RD, gate_EFD, up_EFD, down_EDF, gates_RF, ups_RF)
        return y_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gate_EFD, up_EFD, down_EDF, gates_RF, ups_RF = ctx.saved_tensors
        function, function_backward = GATES[ctx.activation]
        wanted = [
            torch.empty_like(tensor) if want else None
            for tensor, want in zip((x_RD, gate_EFD, up_EFD, down_EDF), ctx.needs_input_grad, strict=False)
        ]
        grad_x, grad_gate, grad_up, grad_down = wanted
        for group, rows in runs(ctx.sizes):
            x, gate, up, grad_y = x_RD[rows], gates_RF[rows], ups_RF[rows], grads[0][rows]
            activated = function(gate)
            if grad_down is not None:
                torch.mm(grad_y.t(), activated * up, out=grad_down[group])
            grad_h = grad_y @ down_EDF[group]
            to_up = activated.mul_(grad_h)
            to_gate = function_backward(grad_h.mul_(up), gate)
            if grad_gate is not None:
                torch.mm(to_gate.t(), x, out=grad_gate[group])
            if grad_up is not None:
                torch.mm(to_up.t(), x, out=grad_up[group])
            if grad_x is not None:
                torch.mm(to_gate, gate_EFD[group], out=grad_x[rows])
                grad_x[rows].addmm_(to_up, up_EFD[group])
        for group, size in enumerate(ctx.sizes):
            for grad in wanted[1:]:
                if grad is not None and not size:
                    grad[group].zero_()
        return (*wanted, None, None)
