"""Exact attention over a pattern in blocks of queries: memory linear in length, forward and backward.

Each block of queries takes the keys that its pattern may need (windows as runs, globals and sinks as strided runs) and
one softmax runs over all of them, so nothing has to be merged. A pattern whose distances are all multiples of r never
lets positions of different residue mod r meet: the residues become batch rows and the pattern a plain window.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from vitruvius.nn.ops import QueryBlock, blockwise_attention
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.patterns import Clause, Pattern
from vitruvius.patterns.segments import fold, full_tile, segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.nn.backends.request import BiasHook, Request

BLOCK = 128
"""Queries per block."""
_KEPT_MASKS = 1 << 24
"""Pairs in the masks of one plan that may be kept for the next call; above, each block's mask is made when needed."""


@uncompiled
def chunked(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Attention of a sequence to itself over any pattern, [B, H, T, K]."""
    length = q_BHTK.shape[2]
    place = request.place
    step, pattern = fold(request.pattern)
    if step > 1 and length > step:
        q, k, v = (_fold(x, step) for x in (q_BHTK, k_BGTK, v_BGTK))
        documents = None if place.documents is None else _fold_documents(place.documents, step)
        out = _attend(q, k, v, request, pattern, documents, step)
        return _unfold(out, step, length)
    return _attend(q_BHTK, k_BGTK, v_BGTK, request, request.pattern, place.documents, 1)


def _attend(
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTK: Tensor,
    request: Request,
    pattern: Pattern,
    documents: Tensor | None,
    step: int,
) -> Tensor:
    length, heads, device = q_BHTK.shape[2], q_BHTK.shape[1], q_BHTK.device
    if documents is None:
        blocks = _blocks(pattern, length, device)
    else:
        positions = request.place.positions if step == 1 else None
        blocks = _packed_blocks(pattern, length, documents, positions)
    if request.bias is not None:
        blocks = tuple(_with_bias(block, request.bias, heads, step, device) for block in blocks)
    out_BHTK, _ = blockwise_attention(q_BHTK, k_BGTK, v_BGTK, blocks=blocks, scale=request.scale)
    return out_BHTK


def _fold(x_BHTK: Tensor, step: int) -> Tensor:
    """Residues of time as batch rows: [B, H, T, K] to [B * step, H, ceil(T / step), K], padded at the end."""
    batch, heads, length, width = x_BHTK.shape
    x_BHTK = torch.nn.functional.pad(x_BHTK, (0, 0, 0, -length % step))
    return x_BHTK.view(batch, heads, -1, step, width).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _unfold(x_BHTK: Tensor, step: int, length: int) -> Tensor:
    x = x_BHTK.unflatten(0, (-1, step)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return x[:, :, :length]


def _fold_documents(documents_BT: Tensor, step: int) -> Tensor:
    padded = torch.nn.functional.pad(documents_BT, (0, -documents_BT.shape[1] % step), value=-1)
    return padded.view(documents_BT.shape[0], -1, step).transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=64)
def _blocks(pattern: Pattern, length: int, device: torch.device) -> tuple[QueryBlock, ...]:
    """Blocks of queries with their keys and masks, for rows of one document each."""
    plans = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    keys = [tuple(s.slice for s in segments(pattern, start, stop, length)) for start, stop in plans]
    pairs = sum((stop - start) * _count(runs) for (start, stop), runs in zip(plans, keys, strict=True))
    blocks: list[QueryBlock] = []
    for (start, stop), runs in zip(plans, keys, strict=True):
        mask: Tensor | Callable[[], Tensor] | None = None
        if not all(full_tile(pattern, start, stop, run.start, run.stop) for run in runs):
            mask = _mask_maker(pattern, start, stop, runs, device)
            mask = mask() if pairs <= _KEPT_MASKS else mask
        blocks.append(QueryBlock(q_start=start, q_stop=stop, keys=runs, mask=mask))
    return tuple(blocks)


def _count(runs: tuple[slice, ...]) -> int:
    return sum(len(range(run.start, run.stop, run.step or 1)) for run in runs)


def _indices(runs: tuple[slice, ...], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(run.start, run.stop, run.step or 1, device=device) for run in runs])


def _mask_maker(
    pattern: Pattern, start: int, stop: int, runs: tuple[slice, ...], device: torch.device
) -> Callable[[], Tensor]:
    def make() -> Tensor:
        queries = torch.arange(start, stop, device=device)
        return pattern.allows(queries.unsqueeze(1), _indices(runs, device))

    return make


def _packed_blocks(
    pattern: Pattern, length: int, documents_BT: Tensor, positions_BT: Tensor | None
) -> tuple[QueryBlock, ...]:
    """Blocks for packed rows: keys by distance alone, since documents start anywhere; the mask does the rest.

    positions are within the document, or None when the pattern looks at distances only.
    """
    device = documents_BT.device
    reach = _distances(pattern)
    by_distance = reach == pattern
    blocks: list[QueryBlock] = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        runs = tuple(s.slice for s in segments(reach, start, stop, length))
        queries, keys = torch.arange(start, stop, device=device), _indices(runs, device)

        def make(queries: Tensor = queries, keys: Tensor = keys) -> Tensor:
            same = documents_BT[:, queries].unsqueeze(-1) == documents_BT[:, keys].unsqueeze(-2)
            if by_distance or positions_BT is None:
                return (same & pattern.allows(queries.unsqueeze(1), keys)).unsqueeze(1)
            q, k = positions_BT[:, queries], positions_BT[:, keys]
            return (same & pattern.allows(q.unsqueeze(-1), k.unsqueeze(-2))).unsqueeze(1)

        blocks.append(QueryBlock(q_start=start, q_stop=stop, keys=runs, mask=make))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _distances(pattern: Pattern) -> Pattern:
    """The pattern with only its bounds on distance kept: a superset that does not depend on where a document starts."""
    clauses = (
        Clause(
            distance_low=clause.distance_low,
            distance_high=clause.distance_high,
            distance_multiple=clause.distance_multiple,
        )
        for clause in pattern.clauses
    )
    return Pattern(tuple(clauses))


def _with_bias(block: QueryBlock, bias: BiasHook, heads: int, step: int, device: torch.device) -> QueryBlock:
    """The block with the position's bias; only distances matter to it, so indices serve as positions."""

    def make() -> Tensor:
        queries = torch.arange(block.q_start, block.q_stop, device=device) * step
        return bias(queries, _indices(block.keys, device) * step, heads)  # pyright: ignore[reportArgumentType]

    return replace(block, bias=make)
