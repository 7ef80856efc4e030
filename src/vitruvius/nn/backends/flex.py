"""Attention through torch's FlexAttention: one fused kernel for any pattern and any term, compiled when first used.

It trains on CUDA. On CPUs there is no backward pass, so it serves inference only, where nothing requires a gradient.
Which tiles of the score matrix a kernel visits is worked out from the pattern, without ever listing all pairs, and
kept. Every pattern, set of terms and shape is compiled once; past `MOST_KERNELS` of them the chunked backend takes
over, since torch would go on uncompiled: slow, and in memory quadratic in the length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from vitruvius.errors import UsageError
from vitruvius.nn.backends.chunked import chunked
from vitruvius.nn.backends.folding import fold_time, folded_request, folding, unfold_time
from vitruvius.nn.backends.packed import batch_of, by_distance
from vitruvius.nn.backends.plans import BLOCK, only_distance
from vitruvius.nn.backends.scores import sink_share, wide
from vitruvius.patterns import full_tile, segments

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request
    from vitruvius.patterns import Pattern

MOST_KERNELS = 24
"""Kernels that one process compiles: half a minute each on a CPU, and some memory."""
_KERNELS: set[object] = set()

Index = Any
"""A row, head or position as the kernel's programmer sees it: a tensor of no dimensions."""
ScoreMod = Callable[["Tensor", Index, Index, Index, Index], "Tensor"]
MaskMod = Callable[[Index, Index, Index, Index], Any]


def flex(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Attention of a sequence to itself over any pattern, [B, H, T, K].

    Raises UsageError where a gradient is asked for on a CPU.
    """
    inputs = (q_BHTK, k_BGTK, v_BGTK)
    on_cpu = q_BHTK.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        what = "FlexAttention has no backward pass on a CPU"
        raise UsageError(what, where="backend flex", fix="use backend auto, or compute without gradients")
    key = (request.pattern, request.terms, *((x.shape, x.dtype, x.device) for x in inputs))
    if (key not in _KERNELS and len(_KERNELS) >= MOST_KERNELS) or (on_cpu and not _compiles_on_cpu(request, q_BHTK)):
        return chunked(q_BHTK, k_BGTK, v_BGTK, request)
    _KERNELS.add(key)
    q, k, v = (x.detach() for x in inputs) if on_cpu else inputs  # refused there even where gradients are off
    batch, _, length, _ = q.shape
    step, pattern = folding(request, length)
    if step == 1:
        return _flex(q, k, v, request)
    request = folded_request(request, step, pattern, length, batch)
    q, k, v = (fold_time(x, step) for x in (q, k, v))
    return unfold_time(_flex(q, k, v, request), step, length)


def _flex(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    result = kernel()(
        q_BHTK,
        k_BGTK,
        v_BGTK,
        score_mod=_score_mod(request, q_BHTK),
        block_mask=_block_mask(request, q_BHTK.shape[2], q_BHTK.device),
        scale=request.scale,
        enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1],
        return_aux=None if request.sink_H is None else AuxRequest(lse=True),
    )
    if request.sink_H is None:
        return result
    out_BHTK, auxiliary = result
    return out_BHTK * sink_share(auxiliary.lse, request.sink_H).unsqueeze(-1).to(out_BHTK.dtype)


def _compiles_on_cpu(request: Request, q_BHTK: Tensor) -> bool:
    """There the compiler knows neither fp64 nor the log-sum-exp that a sink needs."""
    return request.sink_H is None and q_BHTK.dtype != torch.float64


@cache
def kernel() -> Callable[..., Any]:
    """FlexAttention, compiled for the shapes that come."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_KERNELS)  # noqa: SLF001
    return torch.compile(flex_attention, dynamic=False)


# What is added to the scores


def _score_mod(request: Request, q_BHTK: Tensor) -> ScoreMod | None:
    if not request.terms & {"softcap", "bias", "table", "decay"}:
        return None
    heads, length = q_BHTK.shape[1:3]
    cap, last = request.softcap, length - 1
    dtype = wide(q_BHTK.dtype)  # the kernel's own; of a wider term the CPU's makes NaN
    bias_HX = rows_X = weight_RH = c_q = c_k = None
    if request.bias is not None:
        bias = request.bias
        bias_HX = _by_distance(lambda q, k: bias(q, k, heads), length, q_BHTK.device).to(dtype)
    if request.table is not None:
        rows_X = _by_distance(request.table.index, length, q_BHTK.device)
        weight_RH = request.table.weight_RH.to(dtype)
    if request.decay is not None:
        c_q, c_k = (c.to(dtype) for c in request.decay)

    def score_mod(score: Tensor, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        if bias_HX is not None:
            score = score + bias_HX[h, q - k + last]
        if rows_X is not None and weight_RH is not None:
            score = score + weight_RH[rows_X[q - k + last], h]
        if c_q is not None and c_k is not None:
            score = score + (c_q[b, h, q] - c_k[b, h, k])
        return score

    return score_mod


def _by_distance(term: Callable[[Tensor, Tensor], Tensor], length: int, device: torch.device) -> Tensor:
    """What a term says for distances q - k from 1 - length to length - 1, along the last dimension."""
    first, all_ = torch.zeros(1, dtype=torch.int64, device=device), torch.arange(length, device=device)
    behind, ahead = term(all_, first)[..., 0], term(first, all_)[..., 0, :]
    return torch.cat([ahead[..., 1:].flip(-1), behind], dim=-1)


# Which pairs are visible, and which tiles hold them


def _block_mask(request: Request, length: int, device: torch.device) -> BlockMask:
    if request.place.documents is None and request.prefix_B is None:
        return _plain_mask(request.pattern, length, device)
    if request.place.documents is None:
        assert request.prefix_B is not None
        return _prefix_mask(request.pattern, length, request.prefix_B)
    batch = batch_of(request.place.documents)
    prefix = None if request.prefix_B is None else tuple(request.prefix_B.tolist())
    key = ("flex", request.pattern, prefix)
    if key not in batch.plans:
        batch.plans[key] = _packed_mask(request.pattern, batch.runs_BT, batch.positions_BT, request.prefix_B)
    return batch.plans[key]


@lru_cache(maxsize=64)
def _plain_mask(pattern: Pattern, length: int, device: torch.device) -> BlockMask:
    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del b, h
        return pattern.allows(q, k)

    live, full = _tiles(pattern, length, device)
    return _made(live[None], full[None], mask_mod, length)


def _prefix_mask(pattern: Pattern, length: int, prefix_B: Tensor) -> BlockMask:
    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del h
        return pattern.allows(q, k) | ((q < prefix_B[b]) & (k < prefix_B[b]))

    live, full = _tiles(pattern, length, prefix_B.device)
    opened = torch.arange(0, length, BLOCK, device=prefix_B.device) < prefix_B.unsqueeze(1)
    return _made(
        live | (opened.unsqueeze(2) & opened.unsqueeze(1)), full.expand(len(prefix_B), -1, -1), mask_mod, length
    )


def _packed_mask(pattern: Pattern, runs_BT: Tensor, positions_BT: Tensor, prefix_B: Tensor | None) -> BlockMask:
    length = runs_BT.shape[1]

    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del h
        q_at, k_at = positions_BT[b, q], positions_BT[b, k]
        allowed = pattern.allows(q_at, k_at)
        if prefix_B is not None:
            allowed = allowed | ((q_at < prefix_B[b]) & (k_at < prefix_B[b]))
        return allowed & (runs_BT[b, q] == runs_BT[b, k])

    # Documents are numbered in order, so a tile holds a common one where the ranges of its numbers meet.
    padded = F.pad(runs_BT.float(), (0, -length % BLOCK), mode="replicate").view(len(runs_BT), -1, BLOCK)
    low, high = padded.amin(-1), padded.amax(-1)
    meet = (low.unsqueeze(2) <= high.unsqueeze(1)) & (high.unsqueeze(2) >= low.unsqueeze(1))
    live, full = _tiles(by_distance(pattern), length, runs_BT.device)
    one = meet & (low == high).unsqueeze(2) & (low == high).unsqueeze(1)
    full = full & one if only_distance(pattern) else torch.zeros_like(meet)
    return _made(meet if prefix_B is not None else live & meet, full, mask_mod, length)


@lru_cache(maxsize=64)
def _tiles(pattern: Pattern, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tiles where some pair may be allowed and those where all are, bool [tiles of queries, tiles of keys]."""
    count = -(-length // BLOCK)
    live, full = (torch.zeros(count, count, dtype=torch.bool) for _ in range(2))
    for tile in range(count):
        start, stop = tile * BLOCK, min((tile + 1) * BLOCK, length)
        for run in segments(pattern, start, stop, length):
            keys = torch.arange(run.start, run.stop, run.step)
            live[tile, keys.div(BLOCK, rounding_mode="floor")] = True
        for other in live[tile].nonzero().flatten().tolist():
            full[tile, other] = full_tile(pattern, start, stop, other * BLOCK, min((other + 1) * BLOCK, length))
    return live.to(device), full.to(device)


def _made(live: Tensor, full: Tensor, mask_mod: MaskMod, length: int) -> BlockMask:
    """From tiles [B or 1, tiles of queries, tiles of keys]."""
    arguments: list[Tensor] = []
    for tiles in ((live & ~full).unsqueeze(1), full.unsqueeze(1)):
        arguments += [tiles.sum(-1).int(), tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True).int()]
    return BlockMask.from_kv_blocks(*arguments, BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=(length, length))
