"""Plans: blocks of queries with the keys and the mask that a pattern gives each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.nn.ops import QueryBlock
from vitruvius.patterns import Clause, Pattern, Segment, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

BLOCK = 128
"""Queries per block."""
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


def open_prefix(pattern: Pattern, prefix: int) -> Pattern:
    """The pattern with its first `prefix` positions seeing each other in both directions."""
    return pattern | Pattern((Clause(key_high=prefix, query_high=prefix),)) if prefix > 1 else pattern


def only_distance(pattern: Pattern) -> bool:
    """Whether a pattern looks at how far apart query and key stand, and not at where."""
    return not any(c.restricts_keys or c.restricts_queries or c.chunks or c.predicates for c in pattern.clauses)


def indices(keys: tuple[slice, ...] | Tensor, device: torch.device) -> Tensor:
    """The keys of a block, in order, [Sk]."""
    if not isinstance(keys, tuple):
        return keys
    return torch.cat([torch.arange(run.start, run.stop, run.step or 1, device=device) for run in keys])


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a block of queries may see, in the order in which its scores stand."""

    runs: tuple[Segment, ...]
    """All of it; those that every query sees come first."""
    masked: tuple[Segment, ...]
    """The end of `runs`, from the first key on that some query does not see."""

    @property
    def count(self) -> int:
        """How many keys there are."""
        return sum(run.size for run in self.runs)

    @property
    def mask_start(self) -> int:
        """How many of the first keys need no mask."""
        return self.count - sum(run.size for run in self.masked)


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
        idle = -count % max(64, 1 << max(0, count.bit_length() - 5))
        if not idle or idle > self.length or block.mask is None:
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
        full: list[Segment] = []
        partial: list[Segment] = []
        for run in segments(self.pattern, start, stop, length):
            (full if self._all_see(start, stop, run) else partial).append(run)
        masked = list(partial)
        if partial and partial[0].step == 1 and partial[0].start < start < partial[0].stop:
            # Of causal attention's one run, every query sees what lies before them all: the mask is the diagonal's.
            before = Segment(start=partial[0].start, stop=start, step=1)
            if self._all_see(start, stop, before):
                masked[0] = Segment(start=start, stop=partial[0].stop, step=1)
        return Keys(runs=(*full, *partial), masked=tuple(masked))

    def _all_see(self, start: int, stop: int, run: Segment) -> bool:
        last = run.start + (run.size - 1) * run.step
        return any(
            clause.distance_multiple == clause.query_step == 1
            and not (clause.chunks or clause.predicates)
            and clause.query_low <= start
            and stop <= clause.query_high
            and clause.key_low <= run.start
            and last < clause.key_high
            and run.step % clause.key_step == 0
            and run.start % clause.key_step == clause.key_residue
            and clause.distance_low <= start - last
            and stop - 1 - run.start <= clause.distance_high
            for clause in self.pattern.clauses
        )

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
