"""Gated activations, act(gate) * up, and the feed-forward network around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.projection import ROWS

if TYPE_CHECKING:
    from torch import Tensor


def gated_activation(gate: Tensor, up: Tensor, *, activation: str = "silu") -> Tensor:
    """Return `act(gate) * up`, the inside of SwiGLU (`silu`) and GeGLU (`gelu`, `gelu_tanh`).

    `gate` and `up` have the same shape and dtype; so has the result. The activation is computed again in the backward
    pass instead of being kept, which saves a tensor as large as `gate` in every layer.
    Raises KeyError for an activation that is not in `GATES`. Source: Shazeer, GLU Variants Improve Transformer, 2020.
    """
    return _Gated.apply(gate, up, *GATES[activation])


def gated_ffn(x: Tensor, gate_FI: Tensor, up_FI: Tensor, down_OF: Tensor, *, activation: str = "silu") -> Tensor:
    """Return `(act(x @ gate.T) * (x @ up.T)) @ down.T` for x of [..., I], the feed-forward network of Llama and its kin.

    Both directions go through the network a few hundred rows at a time, so that what lies between the matmuls stays in
    cache; only x and the two projections are saved. Raises KeyError for an activation that is not in `GATES`.
    """
    return _GatedFFN.apply(x, gate_FI, up_FI, down_OF, *GATES[activation])


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(grad, x)


def _gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(grad, x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


Unary = Callable[["Tensor"], "Tensor"]
UnaryBackward = Callable[["Tensor", "Tensor"], "Tensor"]

GATES: dict[str, tuple[Unary, UnaryBackward]] = {
    "silu": (F.silu, _silu_backward),
    "gelu": (F.gelu, _gelu_backward),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_backward),
}
"""Name of the activation: the function, and its backward as (gradient of the output, input) -> gradient of the input."""


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, function: Unary, backward: UnaryBackward) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.function, ctx.backward_function = function, backward
        return function(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        grad = grads[0]
        grad_up = ctx.function(gate).mul_(grad)
        grad_gate = ctx.backward_function(grad * up, gate)
        return grad_gate, grad_up, None, None


class _GatedFFN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate_FI: Tensor,
        up_FI: Tensor,
        down_OF: Tensor,
        function: Unary,
        backward: UnaryBackward,
    ) -> Tensor:
        hidden = gate_FI.shape[0]
        x_NI = x.reshape(-1, x.shape[-1])
        joint = torch.cat((gate_FI, up_FI))
        projected = x_NI.new_empty(x_NI.shape[0], 2 * hidden)
        out_NO = x_NI.new_empty(x_NI.shape[0], down_OF.shape[0])
        for start in range(0, x_NI.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            block = torch.mm(x_NI[rows], joint.t(), out=projected[rows])
            gated = function(block[:, :hidden]).mul_(block[:, hidden:])
            torch.mm(gated, down_OF.t(), out=out_NO[rows])
        ctx.save_for_backward(x, gate_FI, up_FI, down_OF, projected)
        ctx.function, ctx.backward_function = function, backward
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_FI, up_FI, down_OF, projected = ctx.saved_tensors
        hidden = gate_FI.shape[0]
        x_NI, grad_NO = x.reshape(-1, x.shape[-1]), grads[0].reshape(-1, grads[0].shape[-1])
        joint = torch.cat((gate_FI, up_FI))
        grad_x, grad_joint, grad_down = torch.empty_like(x_NI), torch.zeros_like(joint), torch.zeros_like(down_OF)
        for start in range(0, x_NI.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            gate, up = projected[rows, :hidden], projected[rows, hidden:]
            activated = ctx.function(gate)
            grad_gated = torch.mm(grad_NO[rows], down_OF)
            grad_projected = torch.empty_like(projected[rows])
            torch.mul(grad_gated, activated, out=grad_projected[:, hidden:])
            grad_projected[:, :hidden] = ctx.backward_function(grad_gated.mul_(up), gate)
            grad_down.addmm_(grad_NO[rows].t(), activated.mul_(up))
            grad_joint.addmm_(grad_projected.t(), x_NI[rows])
            torch.mm(grad_projected, joint, out=grad_x[rows])
        grad_gate, grad_up = grad_joint.split(hidden)
        return grad_x.view(x.shape), grad_gate, grad_up, grad_down, None, None
