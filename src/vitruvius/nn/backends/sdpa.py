"""Attention through torch's scaled dot product attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from vitruvius.nn.backends.chunked import chunked
from vitruvius.nn.backends.table import PLAIN

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def sdpa(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Plain causal attention or that of everyone to everyone, [B, H, T, K]; of anything else the chunked backend's."""
    plain = PLAIN.get(request.pattern)
    if plain is None or request.terms or k_BGTK.shape[-1] != v_BGTK.shape[-1]:
        return chunked(q_BHTK, k_BGTK, v_BGTK, request)
    gqa = q_BHTK.shape[1] != k_BGTK.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTK, k_BGTK, v_BGTK, is_causal=plain == "causal", scale=request.scale, enable_gqa=gqa
    )
