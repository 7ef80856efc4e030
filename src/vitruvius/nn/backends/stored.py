"""Attention of new queries to keys that a cache holds: one query per row while decoding, several in a prefill."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.errors import UsageError
from vitruvius.nn.backends.choosing import attend
from vitruvius.nn.backends.chunked import in_blocks, with_terms
from vitruvius.nn.backends.plans import BLOCK, plan_part
from vitruvius.nn.backends.reference import dense
from vitruvius.nn.backends.request import Asked
from vitruvius.nn.backends.scores import added, sink_share, softcapped, wide
from vitruvius.nn.backends.table import STORED, Row, Situation, Work, lookup
from vitruvius.nn.ops import QueryBlock
from vitruvius.patterns import causal
from vitruvius.spec.tracing.attending_stored import KEYS_AT_ONCE

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request
    from vitruvius.nn.mixers.keyvalue import Readable


_IN_BLOCKS = {"softcap", "bias", "table", "decay", "sink"}
"""Terms that torch's attention does not know, or only as a tensor of all pairs."""


@lru_cache(maxsize=256)
def stored_row(terms: frozenset[str], widths: tuple[int, int], device: str, work: Work) -> Row:
    """The row of the table for one query per row against the keys of a cache."""
    return lookup(STORED, Situation(pattern=causal, terms=terms, device=device, dtype="any", work=work, widths=widths))


def attend_stored(q_BHTK: Tensor, readable: Readable, request: Request) -> Tensor:
    """Attention of new queries to keys in a cache, [B, H, T, K]; the readable's mask is the pattern's.

    Raises UsageError when a prefix comes in parts: its first tokens read its last.
    """
    widths = (readable.k_BGSK.shape[-1], readable.v_BGSK.shape[-1])
    signals = request.place.signals
    if signals is not None and signals.requests is not None:
        signals.requests.append(Asked(request=request, widths=widths, stored=True))
    if request.prefix_B is not None:
        _ensure_whole(request.prefix_B, request.place.positions)
    if readable.of_queries:
        return attend(q_BHTK, readable.k_BGSK, readable.v_BGSK, request)
    decay = None
    if request.decay is not None:
        decay = (request.decay[0], readable.tensors["decay"].squeeze(-1))
    if readable.first_query is not None and request.prefix_B is None and request.place.backend != "reference":
        return _in_order(q_BHTK, readable, request, readable.first_query, decay)
    mask = readable.mask if request.prefix_B is None else _with_prefix(readable, request.prefix_B, request)
    k_BGSK, v_BGSK = readable.k_BGSK, readable.v_BGSK
    if request.place.backend == "reference":
        return dense(q_BHTK, k_BGSK, v_BGSK, request, mask=mask, k_positions=readable.positions, decay=decay)
    if q_BHTK.shape[2] == 1:
        return _one_query(q_BHTK, readable, request, mask, decay)
    return _many_queries(q_BHTK, readable, request, mask, decay)


def _ensure_whole(prefix_B: Tensor, q: Tensor) -> None:
    first, last = (q[..., 0], q[..., -1]) if q.dim() == 2 else (q[:1], q[-1:])
    if bool(((first < prefix_B) & ((first > 0) | (last + 1 < prefix_B))).any()):
        what = "the tokens of a prefix came in parts, and its first tokens read its last"
        raise UsageError(what, fix="pass the whole prefix in the first call with this cache")


def _with_prefix(readable: Readable, prefix_B: Tensor, request: Request) -> Tensor | None:
    mask = readable.mask
    if mask is None:
        return None
    prefix_B11 = prefix_B.view(-1, 1, 1)
    q, k = request.place.positions.unsqueeze(-1), readable.positions.unsqueeze(-2)
    return mask | ((q < prefix_B11) & (k < prefix_B11) & (k >= 0)).unsqueeze(1)


def _one_query(
    q_BH1K: Tensor, readable: Readable, request: Request, mask: Tensor | None, decay: tuple[Tensor, Tensor] | None
) -> Tensor:
    """A single query per row: the heads of a group become queries of one head, so that keys are never repeated."""
    k_BGSK, v_BGSK = readable.k_BGSK, readable.v_BGSK
    groups = k_BGSK.shape[1]
    q_BGRK = q_BH1K.unflatten(1, (groups, -1)).squeeze(3)
    terms = added(request, request.place.positions, readable.positions, heads=q_BH1K.shape[1], decay=decay)
    if terms is not None:
        terms = terms.unflatten(-3, (groups, -1)).squeeze(-2)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BGRK, k_BGSK, v_BGSK))
    widths = (k_BGSK.shape[-1], v_BGSK.shape[-1])
    row = stored_row(request.terms, widths, q_BGRK.device.type, "train" if wanted else "infer")
    if row.backend == "matmul":
        return _in_the_open(q_BGRK, readable, request, mask, terms)
    if terms is not None:
        terms = terms if mask is None else terms.masked_fill(~mask, -torch.inf)
        mask = terms.to(q_BGRK.dtype).expand(q_BGRK.shape[0], *terms.shape[-3:])
    if request.sink_H is None:
        out_BGRK = F.scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask, scale=request.scale)
        return out_BGRK.flatten(1, 2).unsqueeze(2)
    return _with_sink(q_BGRK, readable, request, mask, request.sink_H)


def _with_sink(q_BGRK: Tensor, readable: Readable, request: Request, mask: Tensor | None, sink_H: Tensor) -> Tensor:
    """Torch's kernel for CPUs, called by the name under which it returns the log-sum-exp too."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q_BGRK.dtype).masked_fill_(~mask, -torch.inf)
    out_BGRK, lse_BGR = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
        q_BGRK, readable.k_BGSK, readable.v_BGSK, attn_mask=mask, scale=request.scale
    )
    share_BH1 = sink_share(lse_BGR.flatten(1).unsqueeze(-1), sink_H)
    return (out_BGRK.flatten(1, 2) * share_BH1.to(out_BGRK.dtype)).unsqueeze(2)


def _in_the_open(
    q_BGRK: Tensor, readable: Readable, request: Request, mask: Tensor | None, terms: Tensor | None
) -> Tensor:
    k_BGSK, v_BGSK = readable.k_BGSK, readable.v_BGSK
    scores_BGRS = softcapped(_wide_scores(q_BGRK, k_BGSK) * request.scale, request.softcap)
    if terms is not None:
        scores_BGRS = scores_BGRS + terms
    if mask is not None:
        scores_BGRS = scores_BGRS.masked_fill(~mask, -torch.inf)
    out_BHP = _wide_sum(scores_BGRS.softmax(-1), v_BGSK).flatten(1, 2)
    if request.sink_H is not None:
        lse_BH1 = scores_BGRS.logsumexp(-1).flatten(1).unsqueeze(-1)
        out_BHP = out_BHP * sink_share(lse_BH1, request.sink_H)
    return out_BHP.to(q_BGRK.dtype).unsqueeze(2)


def _wide_scores(q_BGRK: Tensor, k_BGSK: Tensor) -> Tensor:
    """Products with all keys in at least fp32: on a CPU those of a few rows in bf16 are far slower.

    Narrower keys are copied in that format some at a time, so that no step holds the whole cache twice.
    """
    dtype = wide(k_BGSK.dtype)
    q_BGRK = q_BGRK.to(dtype)
    parts = [torch.matmul(q_BGRK, k.to(dtype).transpose(-1, -2)) for k in _runs(k_BGSK)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _wide_sum(weights_BGRS: Tensor, v_BGSK: Tensor) -> Tensor:
    """All values under their weights, likewise."""
    dtype = wide(v_BGSK.dtype)
    total_BGRK, start = None, 0
    for v in _runs(v_BGSK):
        part = torch.matmul(weights_BGRS[..., start : start + v.shape[2]].to(dtype), v.to(dtype))
        total_BGRK = part if total_BGRK is None else total_BGRK + part
        start += v.shape[2]
    assert total_BGRK is not None
    return total_BGRK


def _runs(x_BGSK: Tensor) -> tuple[Tensor, ...]:
    """All keys, or runs of `KEYS_AT_ONCE` where they have to be copied."""
    return (x_BGSK,) if wide(x_BGSK.dtype) == x_BGSK.dtype else x_BGSK.split(KEYS_AT_ONCE, dim=2)


def _in_order(
    q_BHTK: Tensor, readable: Readable, request: Request, first_query: int, decay: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Several queries per row at the end of a sequence whose keys all stand in their places.

    In blocks over just the keys that the pattern lets them see, so that no mask of all pairs is ever made.
    """
    k_BGSK, v_BGSK = readable.k_BGSK, readable.v_BGSK
    blocks = plan_part(request.pattern, first_query, first_query + q_BHTK.shape[2], q_BHTK.device)
    if request.bias is not None or request.table is not None:
        blocks = tuple(with_terms(block, request, q_BHTK, first_query=first_query) for block in blocks)
    return in_blocks(q_BHTK, k_BGSK, v_BGSK, request, blocks, decay)


def _many_queries(
    q_BHTK: Tensor, readable: Readable, request: Request, mask: Tensor | None, decay: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Several queries per row: by torch where a mask says it all, else in blocks, whose terms are small."""
    k_BGSK, v_BGSK = readable.k_BGSK, readable.v_BGSK
    length, heads = q_BHTK.shape[2], q_BHTK.shape[1]
    if not request.terms & _IN_BLOCKS and k_BGSK.shape[-1] == v_BGSK.shape[-1]:
        gqa = heads != k_BGSK.shape[1]
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, scale=request.scale, enable_gqa=gqa
        )
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], length, -1)
    starts = range(0, length, BLOCK)
    blocks = tuple(_block(start, min(start + BLOCK, length), readable, request, mask, heads) for start in starts)
    return in_blocks(q_BHTK, k_BGSK, v_BGSK, request, blocks, decay)


def _block(start: int, stop: int, readable: Readable, request: Request, mask: Tensor | None, heads: int) -> QueryBlock:
    """Some queries over all keys, with what the position adds."""
    q_positions, k_positions = request.place.positions[..., start:stop], readable.positions.clamp(min=0)
    bias, table = request.bias, request.table
    return QueryBlock(
        q_start=start,
        q_stop=stop,
        keys=(slice(0, readable.k_BGSK.shape[2], 1),),
        mask=None if mask is None else lambda: mask[..., start:stop, :],
        bias=None if bias is None else lambda: bias(q_positions, k_positions, heads),
        table_rows=None if table is None else lambda: table.index(q_positions, k_positions),
    )
