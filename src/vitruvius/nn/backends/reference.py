"""Attention with every score in the open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.nn.backends.scores import added, document_runs, sink_share, softcapped, visible, wide

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def reference(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Softmax over every allowed pair, [B, H, T, K]; weights go to `signals.attention` when somebody listens."""
    place = request.place
    mask = visible(request, place.positions, place.positions)
    if place.documents is not None:
        runs_BT = document_runs(place.documents)
        mask = mask & (runs_BT.unsqueeze(-1) == runs_BT.unsqueeze(-2)).unsqueeze(1)
    return dense(q_BHTK, k_BGTK, v_BGTK, request, mask=mask, k_positions=place.positions, decay=request.decay)


def dense(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    request: Request,
    *,
    mask: Tensor | None,
    k_positions: Tensor,
    decay: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Attention to given keys by two matrix products, softmax in at least fp32. A mask broadcasts to [B, H, T, S]."""
    repeats = q_BHTK.shape[1] // k_BGSK.shape[1]
    k_BHSK, v_BHSK = k_BGSK.repeat_interleave(repeats, dim=1), v_BGSK.repeat_interleave(repeats, dim=1)
    scores_BHTS = torch.matmul(q_BHTK, k_BHSK.transpose(-1, -2)) * request.scale
    scores_BHTS = softcapped(scores_BHTS.to(wide(scores_BHTS.dtype)), request.softcap)
    terms = added(request, request.place.positions, k_positions, heads=q_BHTK.shape[1], decay=decay)
    if terms is not None:
        scores_BHTS = scores_BHTS + terms
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf)
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    if request.sink_H is not None:
        weights_BHTS = weights_BHTS * sink_share(scores_BHTS.logsumexp(-1), request.sink_H).unsqueeze(-1)
    signals = request.place.signals
    if signals is not None and signals.attention is not None:
        signals.attention.append(weights_BHTS)
    if signals is not None and signals.largest_scores is not None:
        signals.largest_scores.append(scores_BHTS.amax(dim=(-2, -1)))
    return torch.matmul(weights_BHTS.to(q_BHTK.dtype), v_BHSK)
