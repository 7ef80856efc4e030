"""Attention of new tokens to a cache, on a tape: what a prefill in pieces and a decode step hold for a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.patterns.blocks import BLOCK, BlockSize, keys_of_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.patterns import Pattern
    from vitruvius.patterns.stores import StorePlan
    from vitruvius.spec.tracing.attending import Scores
    from vitruvius.spec.tracing.tape import Tape, Value

PREFILL = 512
"""Tokens of a prompt that go through a model at a time, so that what a piece takes does not grow with the prompt."""
KEPT_PARTS = 8
"""Plans of pieces of a prompt that are kept for the next layers."""
KEYS_AT_ONCE = 4096
"""Keys of a cache that are copied in fp32 at a time where a product in their own format would be slow."""
_PAIRS_AT_ONCE = 1 << 20


def mask_rows(keys: int) -> int:
    """Queries whose mask over so many keys is worked out at a time."""
    return max(1, _PAIRS_AT_ONCE // max(keys, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What stands in a cache before a step; a tape that has it records a step of decoding."""

    held: int
    """Tokens of each sequence."""
    plan: StorePlan | None = None
    """Where the layer under way keeps its keys; None where it keeps none."""
    source: int = 0
    """Tokens of the source that a decoder reads."""

    def used(self, tokens: int) -> int:
        """Slots in use after so many tokens."""
        assert self.plan is not None
        return self.plan.slots if self.plan.archives else min(tokens, self.plan.ring)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Heads and widths of one call."""

    batch: int
    heads: int
    groups: int
    queries: int
    key: int
    value: int
    item: int
    wide: int
    held: int
    """Tokens in the cache before."""

    @property
    def slot(self) -> int:
        """Bytes of a key and a value of all groups and rows."""
        return self.batch * self.groups * (self.key + self.value) * self.item


def attend_stored(
    tape: Tape, q: Value, *, groups: int, value: int, pattern: Pattern, scores: Scores, copied: bool = True
) -> Value:
    """[B, H, T, V] from queries [B, H, T, K] of the step's tokens, and the keys of those before them.

    copied: whether what is read beside the new keys is copied together here, or was before.
    """
    stored = tape.stored
    assert stored is not None
    batch, heads, queries, key = q.shape
    sizes = Sizes(
        batch=batch,
        heads=heads,
        groups=groups,
        queries=queries,
        key=key,
        value=value,
        item=q.item,
        wide=max(4, q.item),
        held=stored.held,
    )
    out = tape.fresh((batch, queries, heads, value), item=q.item)
    if stored.held == 0:
        inside = _of_itself(sizes, pattern, scores)
    elif queries == 1:
        inside = _one(sizes, stored, pattern, scores)
    else:
        inside = _several(sizes, stored, pattern, scores, copied=copied)
    tape.op("attention to the cache", reads=[q], makes=[out], forward=inside, gives=[])
    return out.transpose(1, 2)


def _is_plain(sizes: Sizes, scores: Scores) -> bool:
    """Whether torch's own attention computes it."""
    has_terms = scores.softcap or scores.bias or scores.table_rows or scores.decay is not None or scores.sink
    return not has_terms and sizes.key == sizes.value


def _of_itself(sizes: Sizes, pattern: Pattern, scores: Scores) -> int:
    """The first tokens of a sequence, among themselves."""
    from vitruvius.patterns import causal, everything, fold

    slots = sizes.queries * sizes.slot
    packed = slots if sizes.item < sizes.wide else 0
    if _is_plain(sizes, scores) and pattern in (causal, everything):
        sums = 2 * sizes.batch * sizes.heads * sizes.queries * sizes.wide
        return packed + sums + (_buffer(sizes.queries, sizes.queries) if packed else 0)
    step, within = fold(pattern)
    if not 1 < step < sizes.queries:
        return _in_blocks(sizes, pattern, 0, sizes.queries, scores)
    folded = slots + sizes.batch * sizes.heads * sizes.queries * (sizes.key + sizes.value) * sizes.item
    length = -(-sizes.queries // step)
    narrow = Sizes(
        batch=sizes.batch * step,
        heads=sizes.heads,
        groups=sizes.groups,
        queries=length,
        key=sizes.key,
        value=sizes.value,
        item=sizes.item,
        wide=sizes.wide,
        held=0,
    )
    return folded + _in_blocks(narrow, within, 0, length, scores)


def _buffer(queries: int, keys: int) -> int:
    """What torch's attention on a CPU computes in, in bf16: scores of a block in fp32, and once more in bf16."""
    return min(queries, 256) * min(keys, 512) * 6


def _one(sizes: Sizes, stored: Stored, pattern: Pattern, scores: Scores) -> int:
    """One token of each row, over the slots where they are, or over copies of the few that it sees."""
    assert stored.plan is not None
    used = stored.used(stored.held + 1)
    seen = min(used, pattern.reads(stored.held, stored.held + 1))
    copied = seen * sizes.slot if 2 * seen <= used else 0
    keys = seen if copied else used
    is_all = not stored.plan.archives and stored.held < stored.plan.ring and seen == used
    positions = (8 if is_all else 24) * used
    rows = sizes.batch * sizes.heads
    terms = 0
    if scores.bias or scores.table_rows or scores.decay is not None:
        terms = rows * keys * (2 * sizes.wide + sizes.item)
    if sizes.key == sizes.value and not scores.softcap:
        packed = keys * sizes.slot if sizes.item < sizes.wide and _PACKS_ONE else 0
        return copied + max(positions, terms + packed)
    run = min(keys, KEYS_AT_ONCE) * sizes.batch * sizes.groups * max(sizes.key, sizes.value)
    wide = run * sizes.wide if sizes.item < sizes.wide else 0
    return copied + max(positions, terms + rows * keys * sizes.wide * 3 + wide)


_PACKS_ONE = False
"""Whether torch's kernel for one query copies the keys."""


def _several(sizes: Sizes, stored: Stored, pattern: Pattern, scores: Scores, *, copied: bool) -> int:
    assert stored.plan is not None
    stop = stored.held + sizes.queries
    if not stored.plan.archives and stop <= stored.plan.ring:
        return _in_blocks(sizes, pattern, stored.held, stop, scores)
    keys = stored.used(stored.held) + sizes.queries
    beside = keys * sizes.slot if copied else 0
    rows, mask = min(sizes.queries, mask_rows(keys)), sizes.queries * keys
    # Distances in eight bytes, what they are a multiple of in eight more, and a byte for each comparison.
    distances = 11 + 7 * any(c.distance_multiple > 1 for c in pattern.clauses) + len(pattern.clauses) - 1
    out = sizes.batch * sizes.heads * sizes.queries * sizes.value * sizes.item  # not there yet
    making = rows * keys * distances + (mask if rows < sizes.queries else 0) - out
    if _is_plain(sizes, scores):
        packed = keys * sizes.slot if sizes.item < sizes.wide else 0
        return beside + max(making, mask * (2 + sizes.item) + packed)
    blocks = tuple(_size(min(BLOCK, sizes.queries - start), keys, 1) for start in range(0, sizes.queries, BLOCK))
    return beside + max(making, mask + _blockwise(sizes, blocks, scores, ordered=True))


# ----------------------------------------------------------------------------------------------------------------------
# Blocks of queries


def _in_blocks(sizes: Sizes, pattern: Pattern, start: int, stop: int, scores: Scores) -> int:
    """Blocks over just the keys that each may see, of which all stand in their places."""
    blocks = tuple(_block(pattern, first, min(first + BLOCK, stop), stop) for first in range(start, stop, BLOCK))
    if not _is_plain(sizes, scores):
        return _blockwise(sizes, blocks, scores, ordered=start > 0)
    return max(_fused_high(sizes, block) for block in blocks)


def _block(pattern: Pattern, start: int, stop: int, length: int) -> BlockSize:
    keys = keys_of_block(pattern, start, stop, length)
    runs: list[tuple[int, int, int]] = []
    for run in keys.runs:
        if runs and runs[-1][2] == run.step == 1 and runs[-1][1] == run.start:
            runs[-1] = (runs[-1][0], run.stop, 1)
        else:
            runs.append((run.start, run.stop, run.step))
    return _size(stop - start, keys.count, len(runs))


def _size(queries: int, keys: int, runs: int) -> BlockSize:
    return BlockSize(queries=queries, keys=keys, runs=runs, masked=0, shape=None)


def _fused_high(sizes: Sizes, block: BlockSize) -> int:
    """One block by torch's attention: keys copied together, the mask, what the kernel copies, the block's output."""
    slots = block.keys * sizes.slot
    copied = slots if block.runs > 1 else 0
    packed = slots + _buffer(block.queries, block.keys) if sizes.item < sizes.wide else 0
    mask = block.pairs * (2 + sizes.item)
    out = sizes.batch * sizes.heads * block.queries * (sizes.value * sizes.item + 2 * sizes.wide)
    return copied + mask + packed + out


def _blockwise(sizes: Sizes, blocks: tuple[BlockSize, ...], scores: Scores, *, ordered: bool) -> int:
    """Blocks by our own attention, which lays the heads of a group side by side.

    ordered: whether keys and values of a head lie in order already, as in a cache.
    """
    from vitruvius.spec.tracing.attending import blocks_high

    high = blocks_high(
        rows=sizes.batch,
        groups=sizes.groups,
        repeats=sizes.heads // sizes.groups,
        widths=(sizes.key, sizes.value),
        item=sizes.item,
        blocks=blocks,
        scores=scores,
    )
    slots = 0 if ordered or sizes.batch * sizes.groups == 1 else sizes.queries * sizes.slot
    return high + slots + sizes.batch * sizes.heads * sizes.queries * (sizes.key + sizes.value) * sizes.item


def beside(tape: Tape, names: Sequence[tuple[int, int]], item: int) -> int:
    """Bytes of what several tokens read as a copy; (rows of a slot, width) of each tensor."""
    stored = tape.stored
    assert stored is not None
    tokens = tape.work.tokens
    if stored.plan is None or stored.held == 0 or tokens == 1:
        return 0
    if not stored.plan.archives and stored.held + tokens <= stored.plan.ring:
        return 0
    slots = stored.used(stored.held) + tokens
    return tape.work.batch * slots * sum(rows * width for rows, width in names) * item
