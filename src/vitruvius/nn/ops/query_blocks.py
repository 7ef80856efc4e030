"""Blocks of queries with the keys they may see, and the tiles that a kernel works through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 32
"""bf16 numbers in a cache line."""

TileMaker = Callable[[], "Tensor"]

TILE_SCORES = 1 << 22
"""Scores computed at a time, 8 MiB in bf16: a block is split by batch row and head above it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class QueryBlock:
    """A run of queries and the keys that any of them may see."""

    q_start: int
    """First query of the run."""

    q_stop: int
    """One past the last query."""

    keys: tuple[slice, ...] | Tensor
    """Runs of keys, disjoint, each `slice(start, stop)` with an optional positive step; or an index tensor [Sk]."""

    batch_row: int | None = None
    """The one row of the batch that the block is of; None: all of them."""

    mask: Tensor | TileMaker | None = None
    """Which pairs are allowed, True = allowed: [Tq, Sk], or [B, 1, Tq, Sk] when rows of the batch differ; or a function
    that makes it, so that no more than one block's mask exists at a time. Blocks may share a tensor, which is prepared
    once. Each query must see at least one key."""

    mask_start: int = 0
    """The mask is about the keys from this one on, in the block's order; those before are allowed to all queries."""

    bias: Tensor | TileMaker | None = None
    """Added to the scaled (and soft-capped) scores before the softmax: [H, Tq, Sk], or [B, H, Tq, Sk] when rows of the
    batch differ; or a function that makes it. A constant: no gradient reaches it."""

    table_rows: Tensor | TileMaker | None = None
    """Which row of the table of `blockwise_attention` each pair reads, int64 [Tq, Sk], or [B, Tq, Sk] when rows of the
    batch differ; or a function that makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """B batch rows, G key heads, R query heads per key head, T queries."""

    B: int
    G: int
    R: int
    T: int

    @classmethod
    def of(cls, q_BHTK: Tensor, k_BGSK: Tensor) -> Shape:
        """Of queries and keys."""
        batch, heads, length, _ = q_BHTK.shape
        groups = k_BGSK.shape[1]
        assert heads % groups == 0, f"{heads} query heads over {groups} key heads"
        return cls(B=batch, G=groups, R=heads // groups, T=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One block for some of the (batch row, key head) pairs. N counts those pairs; M = queries * R, query-major."""

    pairs: slice
    """The (batch row, key head) pairs, b * G + g."""
    rows: slice
    """The queries, among M."""
    keys: tuple[slice, ...] | Tensor
    """The keys, among S."""
    mask: Tensor | None
    """Added to the scores: [1 or N, Tq, 1, Sk], 0 or -inf, cut to the columns where anything is forbidden."""
    columns: slice
    """Those columns."""
    bias: Tensor | None
    """Added to the scores: [N, Tq, R, Sk]."""
    table_rows: Tensor | None
    """The row of the table that each pair reads: [Tq, Sk], or [B, Tq, Sk]."""


# Kernels work on [N, M, K] queries and [N, S, K] keys: with the query heads of one key head side by side in M, one
# batched matmul serves grouped queries without repeating keys, and a block of queries is a contiguous slice.


def fold_queries(x_BHTK: Tensor, s: Shape) -> Tensor:
    """[B, H, T, K] to [N, M, K]."""
    folded = x_BHTK.reshape(s.B, s.G, s.R, s.T, -1).transpose(2, 3)
    return folded.reshape(s.B * s.G, s.T * s.R, x_BHTK.shape[-1])


def unfold_queries(x_NMK: Tensor, s: Shape) -> Tensor:
    """Back to [B, T, H, K], in that memory order."""
    x_BGTRK = x_NMK.view(s.B, s.G, s.T, s.R, -1)
    return x_BGTRK.transpose(1, 2).reshape(s.B, s.T, s.G * s.R, x_NMK.shape[-1])


def fold_keys(x_BGSK: Tensor) -> Tensor:
    """[B, G, S, K] to [N, S, K]."""
    return x_BGSK.reshape(-1, *x_BGSK.shape[2:])


def take(x_NSK: Tensor, tile: Tile) -> Tensor:
    """The tile's keys."""
    x_NSK = x_NSK[tile.pairs]
    if not isinstance(tile.keys, tuple):
        return x_NSK.index_select(1, tile.keys)
    runs = [x_NSK[:, run] for run in tile.keys]
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)


def give(total_NSK: Tensor, part_NSK: Tensor, tile: Tile) -> None:
    """Add the gradient of the keys that `take` took."""
    total_NSK = total_NSK[tile.pairs]
    if not isinstance(tile.keys, tuple):
        total_NSK.index_add_(1, tile.keys, part_NSK.to(total_NSK.dtype))
        return
    start = 0
    for run in tile.keys:
        target = total_NSK[:, run]
        target += part_NSK[:, start : start + target.shape[1]]
        start += target.shape[1]


def tiles(
    blocks: tuple[QueryBlock, ...], s: Shape, *, keys: int, table_RH: Tensor | None, like: Tensor
) -> Iterator[Tile]:
    """The tiles of some blocks over `keys` keys, with what is added to the scores in the dtype of `like`."""
    for block in blocks:
        pairs = (
            range(s.B * s.G) if block.batch_row is None else range(block.batch_row * s.G, (block.batch_row + 1) * s.G)
        )
        mask, columns = _prepared(block, like.dtype)
        rows = _made(block.table_rows)
        bias = _added(block, rows, table_RH, like.dtype)
        per_pair = (block.q_stop - block.q_start) * s.R * count(block.keys, keys)
        step = min(len(pairs), max(1, TILE_SCORES // max(per_pair, 1)))
        for start in range(pairs.start, pairs.stop, step):
            chosen = slice(start, min(start + step, pairs.stop))
            yield Tile(
                pairs=chosen,
                rows=slice(block.q_start * s.R, block.q_stop * s.R),
                keys=block.keys,
                mask=_mask_of(mask, chosen, s),
                columns=columns,
                bias=_bias_of(bias, chosen, s),
                table_rows=rows,
            )


def count(keys: tuple[slice, ...] | Tensor, length: int) -> int:
    """How many keys of `length` there are in some runs, or in an index."""
    if isinstance(keys, tuple):
        return sum(len(range(*run.indices(length))) for run in keys)
    return keys.numel()


def _made(tile: Tensor | TileMaker | None) -> Tensor | None:
    return tile() if callable(tile) else tile


_MASKS = WeakTensorKeyDictionary()
"""Masks that are tensors -> what `_additive` makes of them, by dtype and alignment, while they live."""


def _prepared(block: QueryBlock, dtype: torch.dtype) -> tuple[Tensor | None, slice]:
    """The block's mask as `_additive` gives it."""
    if block.mask is None:
        return None, slice(0, 0)
    if callable(block.mask):
        return _additive(block.mask(), dtype, block.mask_start)
    kept = _MASKS.get(block.mask)
    if kept is None:
        kept = _MASKS[block.mask] = {}
    key = (dtype, block.mask_start % ALIGNMENT)
    if key not in kept:
        kept[key] = _additive(block.mask, dtype, key[1])
    additive, columns = kept[key]
    shift = block.mask_start - key[1]
    return additive, slice(columns.start + shift, columns.stop + shift)


def _additive(allowed: Tensor, dtype: torch.dtype, start: int) -> tuple[Tensor | None, slice]:
    """0 or -inf for the columns between the first and the last that forbid anything, and which these are.

    `start` is the first column of the mask. A causal block thus masks its diagonal alone. Adding is faster than filling
    where a mask of bytes says so.
    """
    used = allowed.flatten(0, -2).all(0).logical_not_().nonzero()
    if used.numel() == 0:
        return None, slice(0, 0)
    # Whole cache lines: a column more costs less than a row that starts off the vector width.
    low = max(start, (start + int(used[0])) // ALIGNMENT * ALIGNMENT)
    high = min(start + allowed.shape[-1], -(-(start + int(used[-1]) + 1) // ALIGNMENT) * ALIGNMENT)
    allowed = allowed[..., low - start : high - start]
    additive = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)
    return additive, slice(low, high)


def _added(block: QueryBlock, rows: Tensor | None, table_RH: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Bias and table together, [1 or B, H, Tq, Sk]."""
    bias = _made(block.bias)
    if table_RH is not None and rows is not None:
        looked_up = table_RH.detach().T[:, rows].movedim(0, -3)
        bias = looked_up if bias is None else bias + looked_up
    if bias is None:
        return None
    return (bias.unsqueeze(0) if bias.dim() == 3 else bias).to(dtype)


def _mask_of(mask: Tensor | None, pairs: slice, s: Shape) -> Tensor | None:
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask[None, :, None, :]
    batch_row = torch.arange(pairs.start, pairs.stop, device=mask.device) // s.G
    return mask[:, 0].expand(s.B, -1, -1)[batch_row].unsqueeze(2)


def _bias_of(bias_BHTS: Tensor | None, pairs: slice, s: Shape) -> Tensor | None:
    if bias_BHTS is None:
        return None
    pair = torch.arange(pairs.start, pairs.stop, device=bias_BHTS.device)
    bias_BGTRS = bias_BHTS.unflatten(1, (s.G, s.R)).transpose(2, 3)
    return bias_BGTRS[pair // s.G if len(bias_BHTS) > 1 else 0, pair % s.G]
