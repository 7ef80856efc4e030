"""Normalisation over the last dimension, with statistics in fp32 or better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK = 1 << 17
"""Elements a thread works on at a time: 0.5 MiB in fp32, so that a block and its temporaries stay in a core's cache."""


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6, gain_offset: float = 0.0) -> Tensor:
    """Divide each row by its root mean square and multiply by a gain.

    `x` is [..., D]; `weight` is [D] or None; the gain is `weight + gain_offset` (Gemma stores the gain minus one).
    The row statistic, the product and the gradients are computed in fp32 (fp64 for fp64 input) and rounded once to
    the dtype of `x`. Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    if torch.compiler.is_compiling():
        return _formula(x, weight, eps, gain_offset)
    return _RMSNorm.apply(x, weight, eps, gain_offset)


def forked_rms_norm(
    x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6, gain_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return `(x, rms_norm(x, ...))` for a residual branch, `x + f(rms_norm(x))`.

    The gradients of the two meet inside the backward pass of the norm, in fp32, instead of in a pass of their own.
    """
    if torch.compiler.is_compiling():
        return x, _formula(x, weight, eps, gain_offset)
    return _ForkedRMSNorm.apply(x, weight, eps, gain_offset)


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


def _formula(x: Tensor, weight: Tensor | None, eps: float, gain_offset: float) -> Tensor:
    """The definition: what a compiler fuses by itself needs no blocks and no backward pass of ours."""
    wide = statistics_dtype(x.dtype)
    xw = x.to(wide)
    normed = xw * torch.rsqrt(xw.square().mean(-1, keepdim=True) + eps)
    gain = _gain(weight, gain_offset, wide)
    return (normed if gain is None else normed * gain).to(x.dtype)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Runs of rows of about BLOCK elements for each thread, so that several passes over one run find it in cache."""
    step = max(1, BLOCK * torch.get_num_threads() // max(width, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, gain_offset: float) -> Tensor:
    """Save the input and one reciprocal per row; the wide copy of the input is made again in the backward pass."""
    width, wide = x.shape[-1], statistics_dtype(x.dtype)
    x_ND = x.reshape(-1, width)
    gain = _gain(weight, gain_offset, wide)
    out_ND = torch.empty_like(x_ND)
    reciprocal_N1 = torch.empty(x_ND.shape[0], 1, dtype=wide, device=x.device)
    for rows in row_blocks(*x_ND.shape):
        block = x_ND[rows].to(wide, copy=True)
        # A norm is one fused pass; `x.square().mean()` writes the squares to memory first.
        mean_square = torch.linalg.vector_norm(block, dim=-1, keepdim=True).square_().div_(width)
        reciprocal_N1[rows] = mean_square.add_(eps).rsqrt_()
        block.mul_(reciprocal_N1[rows])
        if gain is not None:
            block.mul_(gain)
        out_ND[rows] = block
    ctx.save_for_backward(x, weight, reciprocal_N1)
    ctx.gain_offset = gain_offset
    return out_ND.view(x.shape)


def _backward(ctx: Any, grad_out: Tensor, grad_around: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and weight; `grad_around` is what reaches x on other ways than through the norm."""
    x, weight, reciprocal_N1 = ctx.saved_tensors
    width, wide = x.shape[-1], reciprocal_N1.dtype
    x_ND, grad_ND = x.reshape(-1, width), grad_out.reshape(-1, width)
    around_ND = None if grad_around is None else grad_around.reshape(-1, width)
    gain = _gain(weight, ctx.gain_offset, wide)
    grad_x = torch.empty_like(x_ND)
    grad_weight = torch.zeros(width, dtype=wide, device=x.device)
    for rows in row_blocks(*x_ND.shape):
        normed = x_ND[rows].to(wide, copy=True).mul_(reciprocal_N1[rows])
        grad = grad_ND[rows].to(wide, copy=True)
        product = grad * normed
        if gain is None:
            mean = product.mean(-1, keepdim=True)
        else:
            grad_weight += product.sum(0)
            mean = torch.mv(product, gain).div_(width).unsqueeze(-1)
            grad.mul_(gain)
        grad.addcmul_(normed, mean, value=-1).mul_(reciprocal_N1[rows])
        grad_x[rows] = grad if around_ND is None else grad.add_(around_ND[rows])
    return grad_x.view(x.shape), None if weight is None else grad_weight.to(weight.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, gain_offset: float) -> Tensor:
        return _forward(ctx, x, weight, eps, gain_offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(ctx, grads[0], None), None, None)


class _ForkedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, gain_offset: float) -> tuple[Tensor, Tensor]:
        return x.view_as(x), _forward(ctx, x, weight, eps, gain_offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(ctx, grads[1], grads[0]), None, None)
