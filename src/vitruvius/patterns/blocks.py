"""Attention in blocks of queries, on paper: the keys that each block of a sequence needs, and how many are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.segments import Segment, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.patterns.algebra import Pattern

BLOCK = 128
"""Queries per block."""
_MOST_LOOKED_AT = 1024
"""Blocks of one sequence."""


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


def keys_of_block(pattern: Pattern, start: int, stop: int, length: int) -> Keys:
    """The keys that queries [start, stop) of a document of `length` tokens need."""
    full: list[Segment] = []
    partial: list[Segment] = []
    for run in segments(pattern, start, stop, length):
        (full if all_see(pattern, start, stop, run) else partial).append(run)
    masked = list(partial)
    if partial and partial[0].step == 1 and partial[0].start < start < partial[0].stop:
        # Of causal attention's one run, every query sees what lies before them all: the mask is the diagonal's.
        before = Segment(start=partial[0].start, stop=start, step=1)
        if all_see(pattern, start, stop, before):
            masked[0] = Segment(start=start, stop=partial[0].stop, step=1)
    return Keys(runs=(*full, *partial), masked=tuple(masked))


def all_see(pattern: Pattern, start: int, stop: int, run: Segment) -> bool:
    """Whether every query in [start, stop) sees every key of a run, through one clause."""
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
        for clause in pattern.clauses
    )


def idle_keys(count: int, length: int, *, is_masked: bool) -> int:
    """Keys nobody sees that a block of `count` keys computes besides, in a row of `length`.

    On CPUs matrix products in bf16 are compiled for every shape that comes, and some thousand of them are kept: blocks
    of ever more keys would be compiled again and again. The idle keys are at most a sixteenth, or 63.
    """
    idle = -count % max(64, 1 << max(0, count.bit_length() - 5))
    return idle if is_masked and idle <= length else 0


def only_distance(pattern: Pattern) -> bool:
    """Whether a pattern looks at how far apart query and key stand, and not at where."""
    return not any(c.restricts_keys or c.restricts_queries or c.chunks or c.predicates for c in pattern.clauses)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSize:
    """One block of a sequence, in numbers."""

    queries: int
    keys: int
    """Those computed, idle ones included."""
    runs: int
    """Pieces of the sequence that the keys are; more than one are copied together."""
    masked: int
    """Pairs that a mask is about."""
    shape: object
    """Blocks of one shape share their mask; None where that is not known."""
    count: int = 1
    """How many blocks it stands for: its own, or a stretch of a very long sequence."""

    @property
    def pairs(self) -> int:
        """Scores of one head."""
        return self.queries * self.keys


@lru_cache(maxsize=256)
def block_sizes(pattern: Pattern, length: int) -> tuple[BlockSize, ...]:
    """The blocks of one document of `length` tokens, as the attention in blocks computes them.

    Beyond 131,072 tokens each stands for several, and the last of each stretch is the one that is looked at.
    """
    return tuple(_sizes(pattern, length))


def _sizes(pattern: Pattern, length: int) -> Iterator[BlockSize]:
    shifts = only_distance(pattern)
    highs = [clause.distance_high for clause in pattern.clauses]
    reach = max(highs, default=0) if shifts else FOREVER
    inner: BlockSize | None = None
    step = max(1, -(-length // (BLOCK * _MOST_LOOKED_AT)))
    last = (length - 1) // BLOCK
    for first in range(0, last + 1, step):
        index = min(first + step - 1, last)
        start, count = index * BLOCK, index - first + 1
        stop = min(start + BLOCK, length)
        # Blocks that stand further from either end than the pattern reaches are all alike.
        is_inner = reach < start and stop + reach < length and all(c.distance_low > -length for c in pattern.clauses)
        if is_inner and inner is not None:
            yield inner if inner.count == count else replace(inner, count=count)
            continue
        size = replace(_size(pattern, start, stop, length, shifts=shifts), count=count)
        inner = size if is_inner else inner
        yield size


def _size(pattern: Pattern, start: int, stop: int, length: int, *, shifts: bool) -> BlockSize:
    keys = keys_of_block(pattern, start, stop, length)
    count = keys.count
    idle = idle_keys(count, length, is_masked=bool(keys.masked))
    runs = len(_joined(keys.runs))
    if idle:
        last = keys.runs[-1]
        follows = last.step == 1 and last.stop + idle <= length
        runs += 0 if follows else 1
    masked = (stop - start) * sum(run.size for run in keys.masked)
    shape = tuple((run.start - start, run.size, run.step) for run in keys.masked)
    return BlockSize(
        queries=stop - start,
        keys=count + idle,
        runs=runs,
        masked=masked + (stop - start) * idle if masked else 0,
        shape=(stop - start, shape) if shifts else None,
    )


def _joined(runs: tuple[Segment, ...]) -> list[Segment]:
    found: list[Segment] = []
    for run in runs:
        if found and found[-1].step == run.step == 1 and found[-1].stop == run.start:
            found[-1] = Segment(start=found[-1].start, stop=run.stop, step=1)
        else:
            found.append(run)
    return found
