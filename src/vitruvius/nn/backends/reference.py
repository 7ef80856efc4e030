"""Attention with every score in the open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def reference(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Softmax over every allowed pair, [B, H, T, K]; weights go to `signals.attention` when somebody listens."""
    place = request.place
    mask = request.pattern.allows(place.positions.unsqueeze(-1), place.positions.unsqueeze(-2))
    if mask.dim() == 3:
        mask = mask.unsqueeze(1)
    if place.documents is not None:
        mask = mask & (place.documents.unsqueeze(-1) == place.documents.unsqueeze(-2)).unsqueeze(1)
    bias = None
    if request.bias is not None:
        bias = request.bias(place.positions, place.positions, q_BHTK.shape[1])
    listen = None if place.signals is None else place.signals.attention
    return dense(q_BHTK, k_BGTK, v_BGTK, mask=mask, bias=bias, scale=request.scale, weights=listen)


def dense(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Attention to given keys by two matrix products, softmax in at least fp32. A mask broadcasts to [B, H, T, S]."""
    repeats = q_BHTK.shape[1] // k_BGSK.shape[1]
    k_BHSK, v_BHSK = k_BGSK.repeat_interleave(repeats, dim=1), v_BGSK.repeat_interleave(repeats, dim=1)
    scores_BHTS = torch.matmul(q_BHTK, k_BHSK.transpose(-1, -2)) * scale
    wide = torch.float64 if scores_BHTS.dtype == torch.float64 else torch.float32
    scores_BHTS = scores_BHTS.to(wide)
    if bias is not None:
        scores_BHTS = scores_BHTS + bias
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf)
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    if weights is not None:
        weights.append(weights_BHTS)
    return torch.matmul(weights_BHTS.to(q_BHTK.dtype), v_BHSK)
