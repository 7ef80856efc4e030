"""Linear maps, and several of one input at once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for x of [..., I]. PyTorch's own is the fastest of all that were tried."""
    return F.linear(x, weight_OI, bias_O)


def joint_linear(
    x: Tensor, weights_OI: Sequence[Tensor], biases_O: Sequence[Tensor | None] | None = None
) -> tuple[Tensor, ...]:
    """Several linear maps of the same input, as one matmul forward and two backward.

    `weights_OI` are [O1, I], [O2, I], ...; the results are [..., O1], [..., O2], ..., views of one tensor. The weights
    stay separate parameters: they are joined for the call, which costs far less than the extra passes over x.
    """
    biases = tuple(biases_O) if biases_O is not None else (None,) * len(weights_OI)
    if torch.compiler.is_compiling():
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights_OI, biases, strict=True))
    return _Joint.apply(x, len(weights_OI), *weights_OI, *biases)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights = tuple(weight for weight in parameters[:count] if weight is not None)
        biases = parameters[count:]
        ctx.save_for_backward(x, *weights)
        ctx.has_bias = [bias is not None for bias in biases]
        sizes = [weight.shape[0] for weight in weights]
        if any(ctx.has_bias):
            bias = _joined([x.new_zeros(o) if b is None else b for o, b in zip(sizes, biases, strict=True)])
        else:
            bias = None
        out = F.linear(x, _joined(weights), bias)
        return out.split(sizes, dim=-1) if count > 1 else (out,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        sizes = [weight.shape[0] for weight in weights]
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, dim=-1)
        grad_NO = grad.reshape(-1, grad.shape[-1])
        needs = ctx.needs_input_grad
        grad_x = torch.mm(grad_NO, _joined(weights)).view(x.shape) if needs[0] else None
        grad_weights: list[Tensor | None] = [None] * len(weights)
        if any(needs[2 : 2 + len(weights)]):
            grad_weights = list(torch.mm(grad_NO.t(), x.reshape(-1, x.shape[-1])).split(sizes))
        ends = [0]
        for size in sizes:
            ends.append(ends[-1] + size)
        wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
        grad_biases = [
            grad_NO[:, start:stop].sum(0, dtype=wide).to(grad.dtype) if has else None
            for has, (start, stop) in zip(ctx.has_bias, pairwise(ends), strict=True)
        ]
        return (grad_x, None, *grad_weights, *grad_biases)
