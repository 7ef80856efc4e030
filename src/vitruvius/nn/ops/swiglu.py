"""Gated activations: act(gate) * up, saving only the two inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def gated_activation(gate: Tensor, up: Tensor, *, activation: str = "silu") -> Tensor:
    """Return `act(gate) * up`, the inside of SwiGLU (`silu`) and GeGLU (`gelu`, `gelu_tanh`).

    `gate` and `up` have the same shape and dtype; so has the result. The activation is computed again in the backward
    pass instead of being kept, which saves a tensor as large as `gate` in every layer.
    Raises KeyError for an activation that is not in `GATES`. Source: Shazeer, GLU Variants Improve Transformer, 2020.
    """
    return _Gated.apply(gate, up, *GATES[activation])


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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, up = ctx.saved_tensors
        grad = grads[0]
        grad_up = ctx.function(gate).mul_(grad)
        grad_gate = ctx.backward_function(grad * up, gate)
        return grad_gate, grad_up, None, None
