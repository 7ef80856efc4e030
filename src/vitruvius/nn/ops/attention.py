"""Exact attention in blocks of queries, each over the keys it may see, in memory linear in the length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.query_blocks import (
    QueryBlock,
    Shape,
    Tile,
    count,
    fold_keys,
    fold_queries,
    give,
    take,
    tiles,
    unfold_queries,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

KEPT_PER_INPUT = 4
"""Probabilities are kept for the backward pass while they number at most this many times the elements of q, k and v,
and computed again otherwise. That keeps short sequences and narrow windows, and memory linear in the length."""


@uncompiled  # loops over blocks of matmuls: nothing to fuse, much to unroll
def blockwise_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    blocks: Sequence[QueryBlock],
    scale: float | None = None,
    softcap: float | None = None,
    decay: tuple[Tensor, Tensor] | None = None,
    table_RH: Tensor | None = None,
    with_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention of each block's queries over that block's keys, with a hand-written backward pass.

    H is a multiple of G; query head h reads key head h // (H // G), and keys are never repeated in memory. The blocks
    must cover every query once. Scores are `softcap(q.k * scale) + bias + table + c_i - c_j`, masked, and one softmax
    runs over all key runs of the block. `scale` defaults to K ** -0.5. v may have a width of its own.
    `decay` holds cumulative log-decays, c_i of the queries [B, H, T] and c_j of the keys [B, H, S], in fp32 or wider;
    `table_RH` is a learned table of which each block says what pairs read what row. Gradients reach both.
    Returns out_BHTK (a view of [B, T, H, K] memory, so that joining the heads is free) and the log-sum-exp of the
    scores [B, H, T] in fp32 (fp64 for fp64), differentiable too, or None unless `with_lse`.

    Saves q, k and v, and the probabilities only where they are small beside those (`KEPT_PER_INPUT`); elsewhere they
    are computed again, a block at a time, in the backward pass. Source of the idea: Dao et al., FlashAttention, 2022.
    Since each block holds whole rows of scores, no running maximum is needed.
    """
    factor = float(q_BHTK.shape[-1] ** -0.5) if scale is None else scale
    shape = Shape.of(q_BHTK, k_BGSK)
    plan = _Plan(blocks=tuple(blocks), scale=factor, softcap=softcap, shape=shape, with_lse=with_lse)
    c_q, c_k = (None, None) if decay is None else decay
    out_BTHK, lse_BTH = _Blockwise.apply(q_BHTK, k_BGSK, v_BGSK, c_q, c_k, table_RH, plan)
    return out_BTHK.transpose(1, 2), None if lse_BTH is None else lse_BTH.transpose(1, 2)


def causal_blocks(length: int, block: int = 128, *, device: torch.device | None = None) -> tuple[QueryBlock, ...]:
    """Blocks for plain causal attention over `length` tokens: future tiles are skipped, only the diagonal is masked."""
    made: list[QueryBlock] = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        mask = torch.ones(stop - start, stop, dtype=torch.bool, device=device).tril_(diagonal=start)
        made.append(QueryBlock(q_start=start, q_stop=stop, keys=(slice(0, stop),), mask=mask))
    return tuple(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    blocks: tuple[QueryBlock, ...]
    scale: float
    softcap: float | None
    shape: Shape
    with_lse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """Folded inputs: what a tile is cut from."""

    q_NMK: Tensor
    k_NSK: Tensor
    v_NSK: Tensor
    cq_NM: Tensor | None
    ck_NSR: Tensor | None
    table_RH: Tensor | None

    def tiles(self, plan: _Plan) -> Iterator[Tile]:
        return tiles(plan.blocks, plan.shape, keys=self.k_NSK.shape[1], table_RH=self.table_RH, like=self.q_NMK)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scale * (a @ b), scaled before it is rounded."""
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _scores(q_NMK: Tensor, k_NSK: Tensor, tile: Tile, x: _Inputs, plan: _Plan) -> tuple[Tensor, Tensor | None]:
    """Masked scores [N, M, S], and the tanh of the soft cap where there is one."""
    scores = _scaled_bmm(q_NMK, k_NSK.transpose(1, 2), plan.scale)
    tanh = None
    if plan.softcap is not None:
        tanh = scores.div_(plan.softcap).tanh_()
        scores = tanh * plan.softcap
    by_head = scores.unflatten(1, (-1, plan.shape.R))
    if tile.bias is not None:
        by_head.add_(tile.bias)
    if x.cq_NM is not None and x.ck_NSR is not None:
        cq_NTR = x.cq_NM[tile.pairs, tile.rows].unflatten(1, (-1, plan.shape.R))
        ck_NRS = take(x.ck_NSR, tile).transpose(1, 2).contiguous()
        # The difference first: both are large late in a sequence, and a score beside either would lose its digits.
        by_head.add_((cq_NTR.unsqueeze(-1) - ck_NRS.unsqueeze(1)).to(scores.dtype))
    if tile.mask is not None:
        by_head[..., tile.columns].add_(tile.mask)
    return scores, tanh


def _keeps(plan: _Plan, q_NMK: Tensor, k_NSK: Tensor, v_NSK: Tensor) -> bool:
    """Whether the probabilities are small enough to keep. The soft cap's derivative needs its scores again anyway."""
    if plan.softcap is not None:
        return False
    keys, pairs = k_NSK.shape[1], 0
    for block in plan.blocks:
        rows = plan.shape.B if block.batch_row is None else 1
        pairs += (block.q_stop - block.q_start) * count(block.keys, keys) * rows
    heads = plan.shape.G * plan.shape.R
    return pairs * heads <= KEPT_PER_INPUT * (q_NMK.numel() + k_NSK.numel() + v_NSK.numel())


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHTK: Tensor,
        k_BGSK: Tensor,
        v_BGSK: Tensor,
        cq_BHT: Tensor | None,
        ck_BHS: Tensor | None,
        table_RH: Tensor | None,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor | None]:
        s = plan.shape
        x = _Inputs(
            q_NMK=fold_queries(q_BHTK, s),
            k_NSK=fold_keys(k_BGSK),
            v_NSK=fold_keys(v_BGSK),
            cq_NM=None if cq_BHT is None else fold_queries(cq_BHT.unsqueeze(-1), s).squeeze(-1),
            ck_NSR=None if ck_BHS is None else fold_keys(ck_BHS.unflatten(1, (s.G, s.R)).transpose(2, 3)),
            table_RH=table_RH,
        )
        out_NMK = x.q_NMK.new_empty(*x.q_NMK.shape[:2], x.v_NSK.shape[-1])
        lse_NM1 = None
        if plan.with_lse:
            lse_NM1 = x.q_NMK.new_empty(*x.q_NMK.shape[:2], 1, dtype=_wide(x.q_NMK.dtype))
        keep = any(ctx.needs_input_grad) and _keeps(plan, x.q_NMK, x.k_NSK, x.v_NSK)
        kept: list[Tensor] = []
        for tile in x.tiles(plan):
            scores, _ = _scores(x.q_NMK[tile.pairs, tile.rows], take(x.k_NSK, tile), tile, x, plan)
            probabilities = torch.softmax(scores, dim=-1)
            out_NMK[tile.pairs, tile.rows] = torch.bmm(probabilities, take(x.v_NSK, tile))
            if lse_NM1 is not None:
                # The largest score's probability is exp(score - lse), never small: two passes that only read.
                largest, peak = scores.amax(-1, keepdim=True), probabilities.amax(-1, keepdim=True)
                lse_NM1[tile.pairs, tile.rows] = largest.to(lse_NM1.dtype) - peak.to(lse_NM1.dtype).log_()
            if keep:
                kept.append(probabilities)
        ctx.save_for_backward(x.q_NMK, x.k_NSK, x.v_NSK, x.cq_NM, x.ck_NSR, table_RH, *kept)
        ctx.plan = plan
        return unfold_queries(out_NMK, s), None if lse_NM1 is None else unfold_queries(lse_NM1, s).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTHK: Tensor, grad_lse_BTH: Tensor | None) -> tuple[Tensor | None, ...]:
        q_NMK, k_NSK, v_NSK, cq_NM, ck_NSR, table_RH, *kept = ctx.saved_tensors
        x = _Inputs(q_NMK=q_NMK, k_NSK=k_NSK, v_NSK=v_NSK, cq_NM=cq_NM, ck_NSR=ck_NSR, table_RH=table_RH)
        grads = _Gradients(x, ctx.plan, grad_BTHK, grad_lse_BTH)
        for index, tile in enumerate(x.tiles(ctx.plan)):
            grads.add(tile, kept[index] if kept else None)
        return grads.unfolded()


class _Gradients:
    """Gradients of all inputs, summed tile by tile; those of keys in at least fp32."""

    def __init__(self, x: _Inputs, plan: _Plan, grad_BTHK: Tensor, grad_lse_BTH: Tensor | None) -> None:
        s, wide = plan.shape, _wide(x.q_NMK.dtype)
        self.x, self.plan = x, plan
        self.out_NMK = fold_queries(grad_BTHK.transpose(1, 2), s)
        self.lse_NM1 = None
        if plan.with_lse and grad_lse_BTH is not None:
            self.lse_NM1 = fold_queries(grad_lse_BTH.transpose(1, 2).unsqueeze(-1), s)
        self.q_NMK = torch.empty_like(x.q_NMK)
        self.k_NSK = torch.zeros_like(x.k_NSK, dtype=wide)
        self.v_NSK = torch.zeros_like(x.v_NSK, dtype=wide)
        self.ck_NSR = None if x.ck_NSR is None else torch.zeros_like(x.ck_NSR)
        self.table_HR = None if x.table_RH is None else x.table_RH.new_zeros(x.table_RH.T.shape, dtype=wide)

    def add(self, tile: Tile, probabilities: Tensor | None) -> None:
        """One tile's part; its probabilities are computed again where they were not kept."""
        x, plan = self.x, self.plan
        q, do = x.q_NMK[tile.pairs, tile.rows], self.out_NMK[tile.pairs, tile.rows]
        k, v, tanh = take(x.k_NSK, tile), take(x.v_NSK, tile), None
        if probabilities is None:
            scores, tanh = _scores(q, k, tile, x, plan)
            probabilities = torch.softmax(scores, dim=-1)
        give(self.v_NSK, torch.bmm(probabilities.transpose(1, 2), do), tile)
        dp = torch.bmm(do, v.transpose(1, 2))
        # One fused pass, which PyTorch keeps private: ds = p * (dp - sum(dp * p)).
        ds = torch.ops.aten._softmax_backward_data(dp, probabilities, -1, q.dtype)  # noqa: SLF001
        if self.lse_NM1 is not None:
            ds.addcmul_(probabilities, self.lse_NM1[tile.pairs, tile.rows].to(ds.dtype))
        self._add_terms(ds, tile)
        if tanh is not None:
            ds.mul_(tanh.square_().neg_().add_(1))
        self.q_NMK[tile.pairs, tile.rows] = _scaled_bmm(ds, k, plan.scale)
        give(self.k_NSK, _scaled_bmm(ds.transpose(1, 2), q, plan.scale), tile)

    def _add_terms(self, ds_NMS: Tensor, tile: Tile) -> None:
        """What the scores' gradient means for the decay of the keys and for the table."""
        s = self.plan.shape
        ds_NTRS = ds_NMS.unflatten(1, (-1, s.R))
        if self.ck_NSR is not None:
            columns_NRS = ds_NTRS.sum(1, dtype=self.ck_NSR.dtype)
            give(self.ck_NSR, columns_NRS.neg_().transpose(1, 2), tile)
        if self.table_HR is not None and tile.table_rows is not None:
            shared = tile.table_rows.dim() == 2
            for n, pair in enumerate(range(tile.pairs.start, tile.pairs.stop)):
                batch_row, group = divmod(pair, s.G)
                rows = (tile.table_rows if shared else tile.table_rows[batch_row]).flatten()
                for r in range(s.R):
                    values = ds_NTRS[n, :, r].flatten().to(self.table_HR.dtype)
                    self.table_HR[group * s.R + r].index_add_(0, rows, values)

    def unfolded(self) -> tuple[Tensor | None, ...]:
        """In the shapes of the inputs of `_Blockwise`."""
        x, s = self.x, self.plan.shape
        dtype = x.q_NMK.dtype
        dq = unfold_queries(self.q_NMK, s).transpose(1, 2)
        dk = self.k_NSK.to(dtype).view(s.B, s.G, *x.k_NSK.shape[1:])
        dv = self.v_NSK.to(dtype).view(s.B, s.G, *x.v_NSK.shape[1:])
        dcq = dck = None
        if x.cq_NM is not None and self.ck_NSR is not None:
            # A row's own decay moves all its scores alike: the softmax does not notice, its log-sum-exp moves along.
            dcq_NM = torch.zeros_like(x.cq_NM) if self.lse_NM1 is None else self.lse_NM1.squeeze(-1).to(x.cq_NM.dtype)
            dcq = unfold_queries(dcq_NM.unsqueeze(-1), s).squeeze(-1).transpose(1, 2)
            dck = self.ck_NSR.view(s.B, s.G, -1, s.R).transpose(2, 3).flatten(1, 2)
        dtable = None if self.table_HR is None or x.table_RH is None else self.table_HR.T.to(x.table_RH.dtype)
        return dq, dk, dv, dcq, dck, dtable, None
