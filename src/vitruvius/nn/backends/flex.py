"""Attention through torch's FlexAttention: one fused kernel for any pattern and any term, compiled when first used.

It trains on CUDA. On CPUs there is no backward pass, so it serves inference only, where nothing requires a gradient.
Which tiles of the score matrix a kernel visits is worked out from the pattern (`flex_masks.py`) and kept. Every
pattern, set of terms and shape is compiled once; past `MOST_KERNELS` of them the chunked backend takes over, since
torch would go on uncompiled: slow, and in memory quadratic in the length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from vitruvius.errors import UsageError
from vitruvius.nn.backends.chunked import chunked
from vitruvius.nn.backends.flex_masks import Index, keys_of
from vitruvius.nn.backends.folding import fold_time, folded_request, folding, unfold_time
from vitruvius.nn.backends.scores import sink_share, wide
from vitruvius.nn.ops.compiling import uncompiled

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request

MOST_KERNELS = 24
"""Kernels that one process compiles: half a minute each on a CPU, and some memory."""
_KERNELS: set[object] = set()

ScoreMod = Callable[["Tensor", Index, Index, Index, Index], "Tensor"]


@uncompiled  # what stands around the kernel: masks are worked out once and kept, which a compiler would trace each time
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
    keys = keys_of(request, q_BHTK.shape[2], q_BHTK.device)
    if keys.ahead is not None:
        k_BGTK, v_BGTK = (torch.cat([x.index_select(2, keys.ahead), x], dim=2) for x in (k_BGTK, v_BGTK))
    result = kernel()(
        q_BHTK,
        k_BGTK,
        v_BGTK,
        score_mod=_score_mod(request, q_BHTK, keys.positions),
        block_mask=keys.mask,
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


def _score_mod(request: Request, q_BHTK: Tensor, positions_S: Tensor | None) -> ScoreMod | None:
    """What is done to a score; `positions_S` are those of the keys, where they do not stand in order."""
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
        at = k if positions_S is None else positions_S[k]
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        if bias_HX is not None:
            score = score + bias_HX[h, q - at + last]
        if rows_X is not None and weight_RH is not None:
            score = score + weight_RH[rows_X[q - at + last], h]
        if c_q is not None and c_k is not None:
            score = score + (c_q[b, h, q] - c_k[b, h, at])
        return score

    return score_mod


def _by_distance(term: Callable[[Tensor, Tensor], Tensor], length: int, device: torch.device) -> Tensor:
    """What a term says for distances q - k from 1 - length to length - 1, along the last dimension."""
    first, all_ = torch.zeros(1, dtype=torch.int64, device=device), torch.arange(length, device=device)
    behind, ahead = term(all_, first)[..., 0], term(first, all_)[..., 0, :]
    return torch.cat([ahead[..., 1:].flip(-1), behind], dim=-1)
