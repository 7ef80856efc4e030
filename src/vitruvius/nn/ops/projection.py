"""Several linear maps of one input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.norm import statistics_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def joint_linear(
    x: Tensor, weights_OI: Sequence[Tensor], biases_O: Sequence[Tensor | None] | None = None
) -> tuple[Tensor, ...]:
    """Several linear maps of the same input: [..., O1], [..., O2], ... for weights [O1, I], [O2, I], ...

    The gradient of x is summed inside the matmuls of the backward pass, where separate calls would make one tensor per
    map and then add them. Joining the weights into one matmul instead is slower on CPU: its results are strided views,
    and their gradients have to be copied together again.
    """
    biases = tuple(biases_O) if biases_O is not None else (None,) * len(weights_OI)
    if torch.compiler.is_compiling():
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights_OI, biases, strict=True))
    return _Joint.apply(x, len(weights_OI), *weights_OI, *biases)


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights = tuple(weight for weight in parameters[:count] if weight is not None)
        ctx.save_for_backward(x, *weights)
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, parameters[count:], strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        wants_x, _, *wants = ctx.needs_input_grad
        x_NI = x.reshape(-1, x.shape[-1])
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_x = None
        if wants_x:
            grad_x = torch.mm(flat[0], weights[0])
            for grad_NO, weight in zip(flat[1:], weights[1:], strict=True):
                grad_x.addmm_(grad_NO, weight)
            grad_x = grad_x.view(x.shape)
        wants_weight, wants_bias = wants[: len(weights)], wants[len(weights) :]
        grad_weights = [
            torch.mm(grad_NO.t(), x_NI) if want else None for grad_NO, want in zip(flat, wants_weight, strict=True)
        ]
        grad_biases = [
            grad_NO.sum(0, dtype=statistics_dtype(grad_NO.dtype)).to(grad_NO.dtype) if want else None
            for grad_NO, want in zip(flat, wants_bias, strict=True)
        ]
        return (grad_x, None, *grad_weights, *grad_biases)
