"""Normalisation over the last dimension, with statistics in fp32 or better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6, gain_offset: float = 0.0) -> Tensor:
    """Divide each row by its root mean square and multiply by a gain.

    `x` is [..., D]; `weight` is [D] or None; the gain is `weight + gain_offset` (Gemma stores the gain minus one).
    The row statistic, the product and the gradients are computed in fp32 (fp64 for fp64 input) and rounded once to
    the dtype of `x`. Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    return _RMSNorm.apply(x, weight, eps, gain_offset)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Subtract each row's mean, divide by its standard deviation, then apply gain and shift.

    `x` is [..., D]; `weight` and `bias` are [D] or None. PyTorch's kernel is already one pass with fp32 statistics.
    Source: Ba, Kiros and Hinton, Layer Normalization, 2016.
    """
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over many values of `dtype` are kept: fp64 stays, everything else is fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gain(weight: Tensor | None, offset: float, dtype: torch.dtype) -> Tensor | None:
    if weight is None:
        return None
    gain = weight.to(dtype)
    return gain + offset if offset else gain


class _RMSNorm(torch.autograd.Function):
    """Saves the input and one reciprocal per row; the wide copy of the input is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, gain_offset: float) -> Tensor:
        wide = statistics_dtype(x.dtype)
        xw = x.to(wide, copy=True)
        # A norm is one fused pass; `x.square().mean()` writes the squares to memory first.
        mean_square = torch.linalg.vector_norm(xw, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        reciprocal = mean_square.add_(eps).rsqrt_()
        xw.mul_(reciprocal)
        gain = _gain(weight, gain_offset, wide)
        if gain is not None:
            xw.mul_(gain)
        ctx.save_for_backward(x, weight, reciprocal)
        ctx.gain_offset = gain_offset
        return xw.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, reciprocal = ctx.saved_tensors
        wide, width = reciprocal.dtype, x.shape[-1]
        grad = grads[0].to(wide, copy=True)
        normed = x.to(wide, copy=True).mul_(reciprocal)
        gain = _gain(weight, ctx.gain_offset, wide)
        product = grad * normed
        grad_weight = None
        if gain is None:
            mean = product.sum(-1, keepdim=True).div_(width)
        else:
            if ctx.needs_input_grad[1]:
                grad_weight = product.reshape(-1, width).sum(0).to(weight.dtype)
            mean = torch.matmul(product, gain).div_(width).unsqueeze(-1)
            grad.mul_(gain)
        grad.addcmul_(normed, mean, value=-1).mul_(reciprocal)
        return grad.to(x.dtype), grad_weight, None, None
