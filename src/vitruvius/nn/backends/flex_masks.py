"""Which tiles of the score matrix FlexAttention visits, worked out from the pattern without ever listing all pairs.

Keys that stand apart (a global every 128) would leave no tile empty. They are copied ahead of all others, where they
stand close together, and the tiles behind them serve the rest of the pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from vitruvius.nn.backends.packed import batch_of, by_distance
from vitruvius.nn.backends.plans import BLOCK, only_distance
from vitruvius.patterns import Pattern, full_tile, segments

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request

Index = Any
"""A row, head or position as the kernel's programmer sees it: a tensor of no dimensions."""
MaskMod = Callable[[Index, Index, Index, Index], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a kernel needs to know of the keys."""

    mask: BlockMask
    ahead: Tensor | None = None
    """Positions of the keys that are copied ahead of all others, [A], a multiple of the block; None: none are."""
    positions: Tensor | None = None
    """Positions of all keys then, [A + T]."""


def keys_of(request: Request, length: int, device: torch.device) -> Keys:
    """The tiles of a request, and the keys that are copied ahead for it."""
    place = request.place
    if place.documents is not None:
        batch = batch_of(place.documents)
        prefix = None if request.prefix_B is None else tuple(request.prefix_B.tolist())
        key = ("flex", request.pattern, prefix)
        if key not in batch.plans:
            mask = _packed_mask(request.pattern, batch.runs_BT, batch.positions_BT, request.prefix_B)
            batch.plans[key] = Keys(mask=mask)
        return batch.plans[key]
    if request.prefix_B is not None:
        return Keys(mask=_prefix_mask(request.pattern, length, request.prefix_B))
    return _plain_keys(request.pattern, length, device)


def forget_keys() -> None:
    """Give back the masks that are kept for the next call."""
    _plain_keys.cache_clear()
    _tiles.cache_clear()


@lru_cache(maxsize=64)
def _plain_keys(pattern: Pattern, length: int, device: torch.device) -> Keys:
    apart = Pattern(tuple(clause for clause in pattern.clauses if clause.key_step > 1))
    close = Pattern(tuple(clause for clause in pattern.clauses if clause.key_step == 1))
    runs = segments(apart, 0, length, length)
    count = sum(run.size for run in runs)
    if count == 0 or count * 4 > length:
        return Keys(mask=_plain_mask(pattern, length, device))
    chosen = torch.cat([torch.arange(run.start, run.stop, run.step) for run in runs]).sort().values
    return _gathered_keys(close, apart, chosen, length, device)


def _gathered_keys(close: Pattern, apart: Pattern, chosen: Tensor, length: int, device: torch.device) -> Keys:
    """Keys that stand apart first, then all of them for the rest of the pattern."""
    count = len(chosen)
    ahead = F.pad(chosen, (0, -count % BLOCK))
    padded = len(ahead)
    positions = torch.cat([ahead, torch.arange(length)]).to(device)

    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del b, h
        at = positions[k]
        near = close.allows(q, at)
        return ((k >= padded) & near) | ((k < count) & apart.allows(q, at) & ~near)

    live, full = _tiles(close, length, torch.device("cpu"))
    queries = torch.arange(0, length, BLOCK)
    last = (queries + BLOCK).clamp(max=length) - 1
    ends = torch.arange(BLOCK, padded + 1, BLOCK) - 1
    first_of, last_of = chosen[ends - BLOCK + 1], chosen[ends.clamp(max=count - 1)]
    low = min(clause.distance_low for clause in apart.clauses)
    high = max(clause.distance_high for clause in apart.clauses)
    live_ahead = (last.unsqueeze(1) - first_of >= low) & (queries.unsqueeze(1) - last_of <= high)
    live = torch.cat([live_ahead, live], dim=1)
    full = torch.cat([torch.zeros_like(live_ahead), full], dim=1)
    mask = _made(live[None].to(device), full[None].to(device), mask_mod, (length, padded + length))
    return Keys(mask=mask, ahead=ahead.to(device), positions=positions)


def _plain_mask(pattern: Pattern, length: int, device: torch.device) -> BlockMask:
    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del b, h
        return pattern.allows(q, k)

    live, full = _tiles(pattern, length, device)
    return _made(live[None], full[None], mask_mod, (length, length))


def _prefix_mask(pattern: Pattern, length: int, prefix_B: Tensor) -> BlockMask:
    def mask_mod(b: Index, h: Index, q: Index, k: Index) -> Index:
        del h
        return pattern.allows(q, k) | ((q < prefix_B[b]) & (k < prefix_B[b]))

    live, full = _tiles(pattern, length, prefix_B.device)
    opened = torch.arange(0, length, BLOCK, device=prefix_B.device) < prefix_B.unsqueeze(1)
    return _made(
        live | (opened.unsqueeze(2) & opened.unsqueeze(1)),
        full.expand(len(prefix_B), -1, -1),
        mask_mod,
        (length, length),
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
    return _made(meet if prefix_B is not None else live & meet, full, mask_mod, (length, length))


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


def _made(live: Tensor, full: Tensor, mask_mod: MaskMod, lengths: tuple[int, int]) -> BlockMask:
    """From tiles [B or 1, tiles of queries, tiles of keys]."""
    arguments: list[Tensor] = []
    for tiles in ((live & ~full).unsqueeze(1), full.unsqueeze(1)):
        arguments += [tiles.sum(-1).int(), tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True).int()]
    return BlockMask.from_kv_blocks(*arguments, BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=lengths)
