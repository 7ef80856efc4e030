"""Exact attention in blocks of queries, each over the keys it may see, in memory linear in the length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 32
"""bf16 numbers in a cache line."""

TileMaker = Callable[[], "Tensor"]

TILE_SCORES = 1 << 22
"""Scores computed at a time, 8 MiB in bf16: a block is split by batch row and head above it."""

KEPT_PER_INPUT = 4
"""Probabilities are kept for the backward pass while they number at most this many times the elements of q, k and v,
and computed again otherwise. That keeps short sequences and narrow windows, and memory linear in the length."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class QueryBlock:
    """A run of queries and the keys that any of them may see. Reuse blocks: their masks are prepared once."""

    q_start: int
    """First query of the run."""

    q_stop: int
    """One past the last query."""

    keys: tuple[slice, ...] | Tensor
    """Runs of keys, disjoint, each `slice(start, stop)` with an optional positive step; or an index tensor [Sk]."""

    mask: Tensor | TileMaker | None = None
    """Which pairs are allowed, True = allowed: [Tq, Sk], or [B, 1, Tq, Sk] when rows of the batch differ; or a function
    that makes it, so that no more than one block's mask exists at a time. Each query must see at least one key."""

    bias: Tensor | TileMaker | None = None
    """Added to the scaled (and soft-capped) scores before the softmax: [H, Tq, Sk]; or a function that makes it.
    A constant: no gradient reaches it."""


@uncompiled  # loops over blocks of matmuls: nothing to fuse, much to unroll
def blockwise_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    blocks: Sequence[QueryBlock],
    scale: float | None = None,
    softcap: float | None = None,
    with_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention of each block's queries over that block's keys, with a hand-written backward pass.

    H is a multiple of G; query head h reads key head h // (H // G), and keys are never repeated in memory. The blocks
    must cover every query once. Scores are `softcap(q.k * scale) + bias`, masked, and one softmax runs over all key
    runs of the block. `scale` defaults to K ** -0.5. v may have a width of its own.
    Returns out_BHTK (a view of [B, T, H, K] memory, so that joining the heads is free) and the log-sum-exp of the
    scores [B, H, T] in fp32 (fp64 for fp64), or None unless `with_lse`; no gradient flows through the latter.

    Saves q, k and v, and the probabilities only where they are small beside those (`KEPT_PER_INPUT`); elsewhere they
    are computed again, a block at a time, in the backward pass. Source of the idea: Dao et al., FlashAttention, 2022.
    Since each block holds whole rows of scores, no running maximum is needed.
    """
    factor = float(q_BHTK.shape[-1] ** -0.5) if scale is None else scale
    plan = _Plan(blocks=tuple(blocks), scale=factor, softcap=softcap, shape=_Shape.of(q_BHTK, k_BGSK))
    out_BTHK = _Blockwise.apply(q_BHTK, k_BGSK, v_BGSK, plan)
    lse_BHT = _log_sum_exp(q_BHTK, k_BGSK, plan) if with_lse else None
    return out_BTHK.transpose(1, 2), lse_BHT


def causal_blocks(length: int, block: int = 128, *, device: torch.device | None = None) -> tuple[QueryBlock, ...]:
    """Blocks for plain causal attention over `length` tokens: future tiles are skipped, only the diagonal is masked."""
    made: list[QueryBlock] = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        mask = torch.ones(stop - start, stop, dtype=torch.bool, device=device).tril_(diagonal=start)
        made.append(QueryBlock(q_start=start, q_stop=stop, keys=(slice(0, stop),), mask=mask))
    return tuple(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """B batch rows, G key heads, R query heads per key head, T queries."""

    B: int
    G: int
    R: int
    T: int

    @classmethod
    def of(cls, q_BHTK: Tensor, k_BGSK: Tensor) -> _Shape:
        batch, heads, length, _ = q_BHTK.shape
        groups = k_BGSK.shape[1]
        assert heads % groups == 0, f"{heads} query heads over {groups} key heads"
        return cls(B=batch, G=groups, R=heads // groups, T=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    blocks: tuple[QueryBlock, ...]
    scale: float
    softcap: float | None
    shape: _Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """One block for some of the (batch row, key head) pairs. N counts those pairs; M = queries * R, query-major."""

    pairs: slice
    rows: slice
    keys: tuple[slice, ...] | Tensor
    mask: Tensor | None
    """Added to the scores: [1 or N, Tq, 1, Sk], 0 or -inf, cut to the columns where anything is forbidden."""
    columns: slice
    """Those columns."""
    bias: Tensor | None
    """[N, Tq, R, Sk]."""


# Everything below works on [N, M, K] queries and [N, S, K] keys: with the query heads of one key head side by side in
# M, one batched matmul serves grouped queries without repeating keys, and a block of queries is a contiguous slice.


def _fold_queries(x_BHTK: Tensor, s: _Shape) -> Tensor:
    folded = x_BHTK.reshape(s.B, s.G, s.R, s.T, -1).transpose(2, 3)
    return folded.reshape(s.B * s.G, s.T * s.R, x_BHTK.shape[-1])


def _unfold_queries(x_NMK: Tensor, s: _Shape) -> Tensor:
    """Back to [B, T, H, K], in that memory order."""
    x_BGTRK = x_NMK.view(s.B, s.G, s.T, s.R, -1)
    return x_BGTRK.transpose(1, 2).reshape(s.B, s.T, s.G * s.R, x_NMK.shape[-1])


def _fold_keys(x_BGSK: Tensor) -> Tensor:
    return x_BGSK.reshape(-1, *x_BGSK.shape[2:])


def _take(x_NSK: Tensor, tile: _Tile) -> Tensor:
    x_NSK = x_NSK[tile.pairs]
    if not isinstance(tile.keys, tuple):
        return x_NSK.index_select(1, tile.keys)
    runs = [x_NSK[:, run] for run in tile.keys]
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)


def _give(total_NSK: Tensor, part_NSK: Tensor, tile: _Tile) -> None:
    """Add the gradient of the keys that `_take` took."""
    total_NSK = total_NSK[tile.pairs]
    if not isinstance(tile.keys, tuple):
        total_NSK.index_add_(1, tile.keys, part_NSK.to(total_NSK.dtype))
        return
    start = 0
    for run in tile.keys:
        target = total_NSK[:, run]
        target += part_NSK[:, start : start + target.shape[1]]
        start += target.shape[1]


def _tiles(plan: _Plan, keys: int, dtype: torch.dtype) -> Iterator[_Tile]:
    s = plan.shape
    pairs = s.B * s.G
    for block in plan.blocks:
        taken = _count(block.keys, keys)
        mask, columns = _prepared(block, dtype)
        bias = _made(block.bias)
        per_pair = (block.q_stop - block.q_start) * s.R * taken
        step = min(pairs, max(1, TILE_SCORES // max(per_pair, 1)))
        for start in range(0, pairs, step):
            chosen = slice(start, min(start + step, pairs))
            yield _Tile(
                pairs=chosen,
                rows=slice(block.q_start * s.R, block.q_stop * s.R),
                keys=block.keys,
                mask=_mask_of(mask, chosen, s),
                columns=columns,
                bias=_bias_of(bias, chosen, s),
            )


def _made(tile: Tensor | TileMaker | None) -> Tensor | None:
    return tile() if callable(tile) else tile


def _count(keys: tuple[slice, ...] | Tensor, length: int) -> int:
    if isinstance(keys, tuple):
        return sum(len(range(*run.indices(length))) for run in keys)
    return keys.numel()


_MASKS: WeakKeyDictionary[QueryBlock, dict[torch.dtype, tuple[Tensor | None, slice]]] = WeakKeyDictionary()


def _prepared(block: QueryBlock, dtype: torch.dtype) -> tuple[Tensor | None, slice]:
    """The block's mask as `_additive` gives it; of a mask that is a tensor it is kept while the block lives."""
    if callable(block.mask):
        return _additive(block.mask(), dtype)
    kept = _MASKS.setdefault(block, {})
    if dtype not in kept:
        kept[dtype] = _additive(block.mask, dtype)
    return kept[dtype]


def _additive(allowed: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, slice]:
    """0 or -inf for the columns between the first and the last that forbid anything, and which these are.

    A causal block thus masks its diagonal alone. Adding is faster than filling where a mask of bytes says so.
    """
    nowhere = slice(0, 0)
    if allowed is None:
        return None, nowhere
    used = allowed.flatten(0, -2).all(0).logical_not_().nonzero()
    if used.numel() == 0:
        return None, nowhere
    # Whole cache lines: a column more costs less than a row that starts off the vector width.
    columns = slice(int(used[0]) // ALIGNMENT * ALIGNMENT, -(-(int(used[-1]) + 1) // ALIGNMENT) * ALIGNMENT)
    allowed = allowed[..., columns]
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf), columns


def _mask_of(mask: Tensor | None, pairs: slice, s: _Shape) -> Tensor | None:
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask[None, :, None, :]
    batch_row = torch.arange(pairs.start, pairs.stop, device=mask.device) // s.G
    return mask[:, 0].expand(s.B, -1, -1)[batch_row].unsqueeze(2)


def _bias_of(bias_HTS: Tensor | None, pairs: slice, s: _Shape) -> Tensor | None:
    if bias_HTS is None:
        return None
    group = torch.arange(pairs.start, pairs.stop, device=bias_HTS.device) % s.G
    return bias_HTS.unflatten(0, (s.G, s.R)).transpose(1, 2)[group]


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scale * (a @ b), scaled before it is rounded."""
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _scores(q_NMK: Tensor, k_NSK: Tensor, tile: _Tile, plan: _Plan) -> tuple[Tensor, Tensor | None]:
    """Masked scores [N, M, S], and the tanh of the soft cap where there is one."""
    scores = _scaled_bmm(q_NMK, k_NSK.transpose(1, 2), plan.scale)
    tanh = None
    if plan.softcap is not None:
        tanh = scores.div_(plan.softcap).tanh_()
        scores = tanh * plan.softcap
    by_head = scores.unflatten(1, (-1, plan.shape.R))
    if tile.bias is not None:
        by_head.add_(tile.bias)
    if tile.mask is not None:
        by_head[..., tile.columns].add_(tile.mask)
    return scores, tanh


def _keeps(plan: _Plan, q_NMK: Tensor, k_NSK: Tensor, v_NSK: Tensor) -> bool:
    """Whether the probabilities are small enough to keep. The soft cap's derivative needs its scores again anyway."""
    if plan.softcap is not None:
        return False
    keys = k_NSK.shape[1]
    per_pair = sum((block.q_stop - block.q_start) * _count(block.keys, keys) for block in plan.blocks) * plan.shape.R
    return per_pair * q_NMK.shape[0] <= KEPT_PER_INPUT * (q_NMK.numel() + k_NSK.numel() + v_NSK.numel())


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, plan: _Plan) -> Tensor:
        q_NMK = _fold_queries(q_BHTK, plan.shape)
        k_NSK, v_NSK = _fold_keys(k_BGSK), _fold_keys(v_BGSK)
        out_NMK = q_NMK.new_empty(*q_NMK.shape[:2], v_NSK.shape[-1])
        keep = any(ctx.needs_input_grad) and _keeps(plan, q_NMK, k_NSK, v_NSK)
        kept: list[Tensor] = []
        for tile in _tiles(plan, k_NSK.shape[1], q_NMK.dtype):
            scores, _ = _scores(q_NMK[tile.pairs, tile.rows], _take(k_NSK, tile), tile, plan)
            probabilities = torch.softmax(scores, dim=-1)
            out_NMK[tile.pairs, tile.rows] = torch.bmm(probabilities, _take(v_NSK, tile))
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(q_NMK, k_NSK, v_NSK, *kept)
        ctx.plan = plan
        return _unfold_queries(out_NMK, plan.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTHK: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NMK, k_NSK, v_NSK, *kept = ctx.saved_tensors
        plan: _Plan = ctx.plan
        s, dtype = plan.shape, q_NMK.dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        do_NMK = _fold_queries(grad_BTHK.transpose(1, 2), s)
        dq_NMK = torch.empty_like(q_NMK)
        dk_NSK = torch.zeros_like(k_NSK, dtype=wide)
        dv_NSK = torch.zeros_like(v_NSK, dtype=wide)
        for index, tile in enumerate(_tiles(plan, k_NSK.shape[1], dtype)):
            q, do = q_NMK[tile.pairs, tile.rows], do_NMK[tile.pairs, tile.rows]
            k, v, tanh = _take(k_NSK, tile), _take(v_NSK, tile), None
            if kept:
                probabilities = kept[index]
            else:
                scores, tanh = _scores(q, k, tile, plan)
                probabilities = torch.softmax(scores, dim=-1)
            _give(dv_NSK, torch.bmm(probabilities.transpose(1, 2), do), tile)
            dp = torch.bmm(do, v.transpose(1, 2))
            # One fused pass, which PyTorch keeps private: ds = p * (dp - sum(dp * p)).
            ds = torch.ops.aten._softmax_backward_data(dp, probabilities, -1, dtype)  # noqa: SLF001
            if tanh is not None:
                ds.mul_(tanh.square_().neg_().add_(1))
            dq_NMK[tile.pairs, tile.rows] = _scaled_bmm(ds, k, plan.scale)
            _give(dk_NSK, _scaled_bmm(ds.transpose(1, 2), q, plan.scale), tile)
        dq = _unfold_queries(dq_NMK, s).transpose(1, 2)
        dk = dk_NSK.to(dtype).view(s.B, s.G, *k_NSK.shape[1:])
        dv = dv_NSK.to(dtype).view(s.B, s.G, *v_NSK.shape[1:])
        return dq, dk, dv, None


@torch.no_grad()
def _log_sum_exp(q_BHTK: Tensor, k_BGSK: Tensor, plan: _Plan) -> Tensor:
    s = plan.shape
    q_NMK, k_NSK = _fold_queries(q_BHTK, s), _fold_keys(k_BGSK)
    wide = torch.float64 if q_NMK.dtype == torch.float64 else torch.float32
    lse_NM1 = q_NMK.new_empty(*q_NMK.shape[:2], 1, dtype=wide)
    for tile in _tiles(plan, k_NSK.shape[1], q_NMK.dtype):
        scores, _ = _scores(q_NMK[tile.pairs, tile.rows], _take(k_NSK, tile), tile, plan)
        lse_NM1[tile.pairs, tile.rows] = torch.logsumexp(scores.to(wide), dim=-1, keepdim=True)
    return _unfold_queries(lse_NM1, s).squeeze(-1).transpose(1, 2)
