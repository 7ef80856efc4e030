"""Attention through torch's scaled dot product attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def sdpa(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Plain causal attention, [B, H, T, K]; the caller has made sure that the request is that."""
    gqa = q_BHTK.shape[1] != k_BGTK.shape[1]
    return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, scale=request.scale, enable_gqa=gqa)


def sdpa_masked(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, *, mask: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Attention of a few queries to given keys, [B, H, T, K]. A mask broadcasts to [B, H, T, S]."""
    if q_BHTK.shape[2] == 1 and bias is None:
        return _one_query(q_BHTK, k_BGSK, v_BGSK, mask=mask, scale=scale)
    added = mask
    if bias is not None:
        added = bias.to(q_BHTK.dtype)
        if mask is not None:
            added = added.masked_fill(~mask, -torch.inf)
        if added.dim() == 3:
            added = added.unsqueeze(0)
    gqa = q_BHTK.shape[1] != k_BGSK.shape[1]
    return F.scaled_dot_product_attention(q_BHTK, k_BGSK, v_BGSK, attn_mask=added, scale=scale, enable_gqa=gqa)


def _one_query(q_BH1K: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, *, mask: Tensor | None, scale: float) -> Tensor:
    """A single query per row: the heads of a group become queries of one head, so that keys are never repeated."""
    groups = k_BGSK.shape[1]
    q_BGRK = q_BH1K.unflatten(1, (groups, -1)).squeeze(3)
    out_BGRK = F.scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask, scale=scale)
    return out_BGRK.flatten(1, 2).unsqueeze(2)
