"""Rotary positions: turn pairs of channels by an angle that grows with the position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.ops.norm import row_blocks, statistics_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, pairing: str = "halves") -> Tensor:
    """Rotate the first 2*P channels of `x` by the angles whose cosine and sine are given; the rest pass unchanged.

    `x` is [..., K]; `cos` and `sin` are [..., P] with 2*P <= K and broadcast against `x` without its last dimension
    (for x_BHTK that is [T, P] or [B, 1, T, P]). Which channels make pair i is a name in `PAIRINGS`. The tables are
    constants: no gradient reaches them. Computed in fp32 (fp64 for fp64) and rounded once to the dtype of `x`, keeping
    its memory layout. Source: Su et al., RoFormer, 2021.
    """
    if torch.compiler.is_compiling():
        return _formula(x, cos, sin, pairing)
    return _Rotary.apply(x, cos, sin, pairing)


PAIRINGS: dict[str, Callable[[int], tuple[slice, slice]]] = {
    "halves": lambda pairs: (slice(0, pairs), slice(pairs, 2 * pairs)),
    "interleaved": lambda pairs: (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)),
}
"""Name -> number of pairs -> the first channels of all pairs, and the second ones.

    halves        i and i + P, as in GPT-NeoX, Llama and Hugging Face
    interleaved   2i and 2i + 1, as in RoFormer, GPT-J and DeepSeek
"""


def _formula(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    """The definition, for a compiler to fuse."""
    turning, wide = 2 * cos.shape[-1], statistics_dtype(x.dtype)
    one, other = PAIRINGS[pairing](cos.shape[-1])
    first, second = x[..., one].to(wide), x[..., other].to(wide)
    new = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.cat(new, dim=-1) if pairing == "halves" else torch.stack(new, dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), x[..., turning:]), dim=-1) if turning < x.shape[-1] else turned.to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    wide = statistics_dtype(x.dtype)
    cos, sin = cos.to(wide), sin.to(wide)
    one, other = PAIRINGS[pairing](cos.shape[-1])
    both = torch.cat((cos, cos), dim=-1) if pairing == "halves" else cos.repeat_interleave(2, dim=-1)
    turned = both.shape[-1]
    # Same strides as x: queries come as a [B, H, T, K] view of [B, T, H, K] memory and leave as one.
    out = torch.empty_like(x)
    if turned < x.shape[-1]:
        out[..., turned:] = x[..., turned:]
    # A few rows of the batch at a time stay in cache, where the same tables serve every row.
    shared = x.dim() > cos.dim() or cos.shape[0] == 1
    for part in row_blocks(x.shape[0], x[:1].numel()) if shared else (slice(None),):
        block = x[part, ..., :turned].to(wide)
        new = block * both
        new[..., one].addcmul_(block[..., other], sin, value=-1)
        new[..., other].addcmul_(block[..., one], sin)
        out[part, ..., :turned] = new
    return out


class _Rotary(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle, so nothing but the tables is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.pairing = pairing
        return _rotate(x, cos, sin, pairing)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin, ctx.pairing), None, None, None
