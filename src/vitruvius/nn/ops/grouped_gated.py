"""Gated networks of rows in groups, one group after another: down(act(gate(x)) * up(x)) with weights of its own for each.

What stands between the products of a group is computed while it is still in a core's cache. `gate`, `up` and the activated
gate are kept for the backward pass: computing the activation again takes longer on CPUs than reading it back.
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
        y_RD = torch.empty_like(x_RD)
        kept: list[Tensor] = []
        for group, rows in runs(sizes):
            gate = torch.mm(x_RD[rows], gate_EFD[group].t())
            activated, up = function(gate), torch.mm(x_RD[rows], up_EFD[group].t())
            torch.mm(activated * up, down_EDF[group].t(), out=y_RD[rows])
            kept += [gate, up, activated]
        ctx.sizes, ctx.activation = sizes, name
        ctx.save_for_backward(x_RD, gate_EFD, up_EFD, down_EDF, *kept)
        return y_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gate_EFD, up_EFD, down_EDF, *kept = ctx.saved_tensors
        _, function_backward = GATES[ctx.activation]
        wanted = [
            torch.empty_like(tensor) if want else None
            for tensor, want in zip((x_RD, gate_EFD, up_EFD, down_EDF), ctx.needs_input_grad, strict=False)
        ]
        grad_x, grad_gate, grad_up, grad_down = wanted
        groups = zip(runs(ctx.sizes), kept[::3], kept[1::3], kept[2::3], strict=True)
        for (group, rows), gate, up, activated in groups:
            x, grad_y = x_RD[rows], grads[0][rows]
            if grad_down is not None:
                torch.mm(grad_y.t(), activated * up, out=grad_down[group])
            grad_h = torch.mm(grad_y, down_EDF[group])
            to_up, to_gate = grad_h * activated, function_backward(grad_h.mul_(up), gate)
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
