"""Rotary positions: turn pairs of channels by an angle that grows with the position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.ops.norm import row_blocks, statistics_dtype

if TYPE_CHECKING:
    from torch import Tensor


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2*P channels of `x` by the angles whose cosine and sine are given; the rest pass unchanged.

    `x` is [..., K]; `cos` and `sin` are [..., P] with 2*P <= K and broadcast against `x` without its last dimension
    (for x_BHTK that is [T, P] or [B, 1, T, P]). Channel i is paired with channel i + P, the half-split layout of
    GPT-NeoX and Hugging Face. The tables are constants: no gradient reaches them. Computed in fp32 (fp64 for fp64) and
    rounded once to the dtype of `x`, keeping its memory layout.
    Source: Su et al., RoFormer, 2021.
    """
    if torch.compiler.is_compiling():
        return _formula(x, cos, sin)
    return _Rotary.apply(x, cos, sin)


def _formula(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The definition, for a compiler to fuse."""
    half, wide = cos.shape[-1], statistics_dtype(x.dtype)
    first, second = x[..., :half].to(wide), x[..., half : 2 * half].to(wide)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return torch.cat((turned, x[..., 2 * half :]), dim=-1) if 2 * half < x.shape[-1] else turned


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = statistics_dtype(x.dtype)
    cos, sin = cos.to(wide), sin.to(wide)
    both = torch.cat((cos, cos), dim=-1)
    half, turned = cos.shape[-1], both.shape[-1]
    # Same strides as x: queries come as a [B, H, T, K] view of [B, T, H, K] memory and leave as one.
    out = torch.empty_like(x)
    if turned < x.shape[-1]:
        out[..., turned:] = x[..., turned:]
    # A few rows of the batch at a time stay in cache, where the same tables serve every row.
    shared = x.dim() > cos.dim() or cos.shape[0] == 1
    for part in row_blocks(x.shape[0], x[:1].numel()) if shared else (slice(None),):
        block = x[part, ..., :turned].to(wide)
        new = block * both
        new[..., :half].addcmul_(block[..., half:], sin, value=-1)
        new[..., half:].addcmul_(block[..., :half], sin)
        out[part, ..., :turned] = new
    return out


class _Rotary(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle, so nothing but the tables is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None
