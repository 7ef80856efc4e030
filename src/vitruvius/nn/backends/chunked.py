"""Exact attention over a pattern in blocks of queries: memory linear in length, forward and backward.

Each block of queries takes the keys that its pattern may need (windows as runs, globals and sinks as strided runs) and
one softmax runs over all of them, so nothing has to be merged. Dilated patterns are folded first (`folding.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.nn.backends.folding import fold_time, folded_request, folding, unfold_time
from vitruvius.nn.backends.packed import plan_packed
from vitruvius.nn.backends.plans import indices, plan_rows
from vitruvius.nn.backends.scores import sink_share
from vitruvius.nn.ops import QueryBlock, blockwise_attention
from vitruvius.nn.ops.compiling import uncompiled

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


@uncompiled
def chunked(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Attention of a sequence to itself over any pattern, [B, H, T, K]."""
    batch, _, length, _ = q_BHTK.shape
    step, pattern = folding(request, length)
    if step == 1:
        return _chunked(q_BHTK, k_BGTK, v_BGTK, request)
    request = folded_request(request, step, pattern, length, batch)
    q, k, v = (fold_time(x, step) for x in (q_BHTK, k_BGTK, v_BGTK))
    return unfold_time(_chunked(q, k, v, request), step, length)


def _chunked(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    if request.place.documents is None:
        blocks = plan_rows(request.pattern, q_BHTK.shape[2], q_BHTK.device, request.prefix_B)
    else:
        blocks = plan_packed(request.pattern, request.place.documents, request.prefix_B)
    if request.bias is not None or request.table is not None:
        blocks = tuple(with_terms(block, request, q_BHTK) for block in blocks)
    return in_blocks(q_BHTK, k_BGTK, v_BGTK, request, blocks, request.decay)


def in_blocks(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    request: Request,
    blocks: tuple[QueryBlock, ...],
    decay: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """What a request asks for besides its pattern, by the kernel that works in blocks, [B, H, T, K]."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTK, k_BGSK, v_BGSK))
    if not (wanted or request.terms - {"documents", "prefix"}) and k_BGSK.shape[-1] == v_BGSK.shape[-1]:
        return _without_gradients(q_BHTK, k_BGSK, v_BGSK, blocks, request.scale)
    out_BHTK, lse_BHT = blockwise_attention(
        q_BHTK,
        k_BGSK,
        v_BGSK,
        blocks=blocks,
        scale=request.scale,
        softcap=request.softcap,
        decay=decay,
        table_RH=None if request.table is None else request.table.weight_RH,
        with_lse=request.sink_H is not None,
    )
    if lse_BHT is None or request.sink_H is None:
        return out_BHTK
    return out_BHTK * sink_share(lse_BHT, request.sink_H).unsqueeze(-1).to(out_BHTK.dtype)


def _without_gradients(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, blocks: tuple[QueryBlock, ...], scale: float
) -> Tensor:
    """The same blocks through torch's attention, whose forward pass is faster and keeps nothing."""
    gqa = q_BHTK.shape[1] != k_BGSK.shape[1]
    out_BTHK = q_BHTK.new_empty(q_BHTK.transpose(1, 2).shape)
    for block in blocks:
        rows = slice(None) if block.batch_row is None else slice(block.batch_row, block.batch_row + 1)
        queries = slice(block.q_start, block.q_stop)
        k, v = (_take(x[rows], block.keys) for x in (k_BGSK, v_BGSK))
        mask = block.mask() if callable(block.mask) else block.mask
        if mask is not None and block.mask_start:
            mask = F.pad(mask, (block.mask_start, 0), value=True)
        out = F.scaled_dot_product_attention(
            q_BHTK[rows, :, queries], k, v, attn_mask=mask, scale=scale, enable_gqa=gqa
        )
        out_BTHK[rows, queries] = out.transpose(1, 2)
    return out_BTHK.transpose(1, 2)


def _take(x_BGSK: Tensor, keys: tuple[slice, ...] | Tensor) -> Tensor:
    if not isinstance(keys, tuple):
        return x_BGSK.index_select(2, keys)
    runs = [x_BGSK[:, :, run] for run in keys]
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=2)


def with_terms(block: QueryBlock, request: Request, q_BHTK: Tensor, *, first_query: int = 0) -> QueryBlock:
    """The block with what the position adds; only distances matter to it, so indices serve as positions.

    first_query: the index among the keys at which the first of the queries stands.
    """
    device, heads = q_BHTK.device, q_BHTK.shape[1]
    bias, table = request.bias, request.table

    def positions() -> tuple[Tensor, Tensor]:
        start, stop = block.q_start + first_query, block.q_stop + first_query
        return torch.arange(start, stop, device=device), indices(block.keys, device)

    return replace(
        block,
        bias=None if bias is None else lambda: bias(*positions(), heads),
        table_rows=None if table is None else lambda: table.index(*positions()),
    )
