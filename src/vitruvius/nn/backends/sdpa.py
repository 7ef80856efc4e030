"""Attention through torch's scaled dot product attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from vitruvius.patterns import causal

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def sdpa(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Plain causal attention or that of everyone to everyone, [B, H, T, K]; `serves` says which requests those are."""
    gqa = q_BHTK.shape[1] != k_BGTK.shape[1]
    is_causal = request.pattern == causal
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGTK, v_BGTK, is_causal=is_causal, scale=request.scale, enable_gqa=gqa
    )
