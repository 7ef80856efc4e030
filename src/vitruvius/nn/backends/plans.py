"""Plans: blocks of queries with the keys and the mask that a pattern gives each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.nn.ops import QueryBlock
from vitruvius.patterns import Clause, Pattern
from vitruvius.patterns.blocks import BLOCK, Keys, idle_keys, keys_of_block, only_distance
from vitruvius.spec.tracing.attending_stored import KEPT_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vitruvius.patterns import Segment

__all__ = [
    "BLOCK",
    "KEPT_MASKS",
    "Keys",
    "Rounder",
    "Tiler",
    "indices",
    "joined",
    "only_distance",
    "open_prefix",
    "plan_part",
    "plan_rows",
]

KEPT_MASKS = 1 << 24
"""Pairs in the masks of one plan that may be kept for the next call; further ones are made whenever they are needed."""


def plan_rows(pattern: Pattern, length: int, device: torch.device, prefix_B: Tensor | None) -> tuple[QueryBlock, ...]:
    """Blocks for rows of one document each."""
    if prefix_B is None:
        return _plan(pattern, length, device)
    opened = [open_prefix(pattern, prefix) for prefix in prefix_B.tolist()]
    if len(set(opened)) == 1:
        return _plan(opened[0], length, device)
    return tuple(
        replace(block, batch_row=row) for row, own in enumerate(opened) for block in _plan(own, length, device)
    )


@lru_cache(maxsize=64)
def _plan(pattern: Pattern, length: int, device: torch.device) -> tuple[QueryBlock, ...]:
    tiler, rounder = Tiler(pattern, device), Rounder(length)
    starts = range(0, length, BLOCK)
    return tuple(rounder(tiler.block(start, min(start + BLOCK, length), length)) for start in starts)


def forget_plans() -> None:
    """Give back the masks that plans keep for the next call; who measures memory begins with this."""
    _plan.cache_clear()
    plan_part.cache_clear()


@lru_cache(maxsize=KEPT_PARTS)
def plan_part(pattern: Pattern, start: int, stop: int, device: torch.device) -> tuple[QueryBlock, ...]:
    """Blocks for the queries [start, stop) of a row of `stop` tokens; they count queries from `start`."""
    tiler = Tiler(pattern, device)
    found: list[QueryBlock] = []
    for first in range(start, stop, BLOCK):
        block = tiler.block(first, min(first + BLOCK, stop), stop)
        found.append(replace(block, q_start=block.q_start - start, q_stop=block.q_stop - start))
    return tuple(found)


def open_prefix(pattern: Pattern, prefix: int) -> Pattern:
    """The pattern with its first `prefix` positions seeing each other in both directions."""
    return pattern | Pattern((Clause(key_high=prefix, query_high=prefix),)) if prefix > 1 else pattern


def indices(keys: tuple[slice, ...] | Tensor, device: torch.device) -> Tensor:
    """The keys of a block, in order, [Sk]."""
    if not isinstance(keys, tuple):
        return keys
    return torch.cat([torch.arange(run.start, run.stop, run.step or 1, device=device) for run in keys])


class Rounder:
    """Adds idle keys, which no query sees, until a block's count is one of a few.

    On CPUs matrix products in bf16 are compiled for every shape that comes, and some thousand of them are kept: blocks
    of ever more keys would be compiled again and again. The idle keys are at most a sixteenth, or 63.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._padded: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, block: QueryBlock) -> QueryBlock:
        """The block of a row of `length` keys, with idle ones at its end."""
        assert isinstance(block.keys, tuple)
        count = sum(len(range(run.start, run.stop, run.step or 1)) for run in block.keys)
        idle = idle_keys(count, self.length, is_masked=block.mask is not None)
        if not idle or block.mask is None:
            return block
        last = block.keys[-1]
        start = last.stop if last.step == 1 and last.stop + idle <= self.length else 0
        keys = joined([*block.keys, slice(start, start + idle, 1)])
        return replace(block, keys=keys, mask=self._with_idle(block.mask, idle))

    def _with_idle(self, mask: Tensor | Callable[[], Tensor], idle: int) -> Tensor | Callable[[], Tensor]:
        if callable(mask):
            return lambda: F.pad(mask(), (0, idle), value=False)
        at = (id(mask), idle)
        if at not in self._padded:
            self._padded[at] = (mask, F.pad(mask, (0, idle), value=False))
        return self._padded[at][1]


def joined(runs: Sequence[slice]) -> tuple[slice, ...]:
    """Runs that touch as one, so that their keys need not be copied together."""
    found: list[slice] = []
    for run in runs:
        if found and found[-1].step == run.step == 1 and found[-1].stop == run.start:
            found[-1] = slice(found[-1].start, run.stop, 1)
        else:
            found.append(run)
    return tuple(found)


class Tiler:
    """Makes the blocks of one pattern. Masks that repeat from block to block are made and kept once."""

    def __init__(self, pattern: Pattern, device: torch.device) -> None:
        self.pattern, self.device = pattern, device
        self._masks: dict[object, Tensor] = {}
        self._kept = 0
        self._only_distance = only_distance(pattern)

    def block(self, start: int, stop: int, length: int, *, offset: int = 0, batch_row: int | None = None) -> QueryBlock:
        """Queries [start, stop) of a document of `length` tokens that begins at `offset` of its row."""
        keys = self.keys(start, stop, length)
        return QueryBlock(
            q_start=start + offset,
            q_stop=stop + offset,
            keys=tuple(slice(run.start + offset, run.stop + offset, run.step) for run in keys.runs),
            batch_row=batch_row,
            mask=self._mask(start, stop, keys.masked) if keys.masked else None,
            mask_start=keys.mask_start,
        )

    def keys(self, start: int, stop: int, length: int) -> Keys:
        """The keys that queries [start, stop) of a document of `length` tokens need."""
        return keys_of_block(self.pattern, start, stop, length)

    def _mask(self, start: int, stop: int, masked: tuple[Segment, ...]) -> Tensor | Callable[[], Tensor]:
        def make() -> Tensor:
            queries = torch.arange(start, stop, device=self.device)
            keys = indices(tuple(run.slice for run in masked), self.device)
            return self.pattern.allows(queries.unsqueeze(1), keys)

        # Where only distances count, the mask of the next block is often this one moved along.
        key: object = (stop - start, tuple((run.start - start, run.size, run.step) for run in masked))
        if self._only_distance and key in self._masks:
            return self._masks[key]
        if self._kept >= KEPT_MASKS:
            return make
        mask = make()
        if not self._only_distance:
            key = (tuple(mask.shape), mask.cpu().numpy().tobytes())
        if key not in self._masks:
            self._masks[key] = mask
            self._kept += mask.numel()
        return self._masks[key]
