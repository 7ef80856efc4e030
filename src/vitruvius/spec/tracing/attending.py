"""Attention over a pattern on a tape: in blocks of queries as `vitruvius.nn` computes it, or with every score held."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from vitruvius.patterns import fold
from vitruvius.patterns.blocks import block_sizes
from vitruvius.spec.tracing.attending_open import attend_open
from vitruvius.spec.tracing.attending_stored import attend_stored
from vitruvius.spec.tracing.strides import contiguous
from vitruvius.spec.tracing.tape import AT_MOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.patterns import Pattern
    from vitruvius.patterns.blocks import BlockSize
    from vitruvius.spec.tracing.tape import Tape, Value

TILE_SCORES = 1 << 22
"""Scores computed at a time; `vitruvius.nn.ops.query_blocks` says why."""
KEPT_PER_INPUT = 4
"""Probabilities kept for each number of q, k and v, at most; `vitruvius.nn.ops.attention` says why."""
KEPT_MASKS = 1 << 24
"""Pairs in the masks of one plan; `vitruvius.nn.backends.plans` says why."""
KEPT_BATCHES = 4
"""Packed batches whose plans are kept; `vitruvius.nn.backends.packed` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is asked of the scores besides a pattern; `vitruvius.nn.backends.request` says what each does."""

    softcap: bool = False
    bias: bool = False
    table_rows: int = 0
    """Rows of a learned table of biases; 0 without one."""
    decay: Value | None = None
    """Cumulative log-decays [B, H, T], in at least fp32."""
    sink: int = 0
    """Numbers of a learned sink; -1 of one that is zero, 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    """One call of the attention in blocks."""

    rows: int
    """Rows of the batch, residues of a folded pattern included."""
    groups: int
    repeats: int
    """Query heads to a key head."""
    widths: tuple[int, int]
    """Of keys and of values."""
    item: int
    wide: int
    blocks: tuple[BlockSize, ...]
    scores: Scores
    is_kept: bool


def attend(tape: Tape, q: Value, k: Value, v: Value, *, pattern: Pattern, scores: Scores) -> Value:
    """Attention of a sequence to itself, [B, H, T, V], from queries [B, H, T, K], keys [B, G, T, K] and values."""
    if tape.work.attention == "full":
        return attend_open(tape, q, k, v, scores=scores)
    if tape.stored is not None:
        return attend_stored(tape, q, groups=k.shape[1], value=v.shape[-1], pattern=pattern, scores=scores)
    length = q.shape[2]
    step, within = fold(pattern)
    if not 1 < step < length:
        return _in_blocks(tape, q, k, v, pattern, scores)
    if length % step and not pattern.is_causal:
        tape.unsure += q.size + k.size + v.size  # padding of another document: a plan for packed rows
    with tape.call():
        folded = [_folded(tape, x, step) for x in (q, k, v)]
        tape.hold(*folded)
        out = _in_blocks(tape, folded[0], folded[1], folded[2], within, scores)
        return _unfolded(tape, out, step, length)


def _folded(tape: Tape, x: Value, step: int) -> Value:
    """`fold_time`: residues of time as rows of the batch, [B * step, H, ceil(T / step), K]."""
    batch, heads, length, width = x.shape
    idle = -length % step
    padded = tape.fresh((batch, heads, length + idle, width), item=x.item) if idle else tape.like(x)
    tape.op("pad", reads=[x], makes=[padded])
    return padded.unflatten(2, (-1, step)).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _unfolded(tape: Tape, x: Value, step: int, length: int) -> Value:
    """`unfold_time`: back to [B, H, T, V]."""
    whole = x.unflatten(0, (-1, step)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    if whole.shape[2] == length:
        return whole
    return tape.cut(whole, 2, length)


def _in_blocks(tape: Tape, q: Value, k: Value, v: Value, pattern: Pattern, scores: Scores) -> Value:
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    blocks = block_sizes(pattern, length)
    pairs = sum(block.pairs * block.count for block in blocks) * batch * heads
    inputs = prod(q.shape) + prod(k.shape) + prod(v.shape)
    kernel = _Kernel(
        rows=batch,
        groups=groups,
        repeats=heads // groups,
        widths=(width, v.shape[-1]),
        item=q.item,
        wide=max(4, q.item),
        blocks=blocks,
        scores=scores,
        is_kept=not scores.softcap and pairs <= KEPT_PER_INPUT * inputs,
    )
    _masks(tape, pattern, blocks, batch, q.item, length)
    out, lse = _kernel(tape, kernel, q, k, v)
    return out if lse is None else _with_sink(tape, out, lse, scores.sink)


def _masks(tape: Tape, pattern: Pattern, blocks: tuple[BlockSize, ...], rows: int, item: int, length: int) -> None:
    """Masks that the plan of a pattern keeps from step to step: a byte per pair, and what is added to scores.

    Packed rows have masks of their own, and so have the last few batches.
    """
    if tape.work.documents == "separate":
        every = rows * sum(block.pairs * block.count for block in blocks)
        pairs = min(every, KEPT_MASKS + rows * max(block.pairs for block in blocks))
        tape.constant(f"{AT_MOST} masks of packed documents, {pattern}", KEPT_BATCHES * pairs * (1 + item))
        return
    seen: set[object] = set()
    total = 0
    for block in blocks:
        if block.masked and total < KEPT_MASKS and (block.shape is None or (block.shape, block.keys) not in seen):
            seen.add((block.shape, block.keys))
            total += block.masked * (1 if block.shape is not None else block.count)
    if total:
        tape.constant(f"mask of {pattern} over {length:,}", total * (1 + item))


def _kernel(tape: Tape, kernel: _Kernel, q: Value, k: Value, v: Value) -> tuple[Value, Value | None]:
    """`_Blockwise`: saves folded q, k and v, and the probabilities where they are small beside those."""
    b, g, r = kernel.rows, kernel.groups, kernel.repeats
    length = q.shape[2]
    decay = kernel.scores.decay
    with tape.call():
        q_rows = fold_queries(q.detached(), g)
        k_rows, v_rows = (x.detached().reshape(-1, *x.shape[2:]) for x in (k, v))
        inner = [q_rows, k_rows, v_rows]
        if decay is not None:
            inner.append(fold_queries(decay.detached().unsqueeze(-1), g))
            inner.append(decay.detached().unflatten(1, (g, r)).transpose(2, 3).reshape(b * g, length, r))
        tape.hold(*inner)
        found = tape.fresh((b * g, length * r, kernel.widths[1]), item=kernel.item, gradient=False)
        every = sum(block.pairs * block.count for block in kernel.blocks) * b * g * r * kernel.item
        kept_size = every if kernel.is_kept else 0
        kept = tape.fresh((kept_size,), item=1, gradient=False)
        made = [found, *([kept] if kept_size else [])]
        lse = None
        if kernel.scores.sink:
            lse = tape.fresh((b * g, length * r, 1), item=kernel.wide, gradient=False)
            made.append(lse)
        tape.hold(found)
        tape.op("attention tiles", reads=inner, makes=made, forward=_forward_high(kernel, kept_size), gives=[])
        out = tape.same(_unfold(found, b, g, r))
        outs = [out]
        if lse is not None:
            lse = tape.same(_unfold(lse, b, g, r).squeeze(-1))
            outs.append(lse)
        saves = [*inner, *([kept] if kept_size else [])]
        high, weights = _backward_high(kernel, q)
        reads = [q, k, v, *inner, found, *([] if decay is None else [decay])]
        gives = [(x, x.size) for x in (q, k, v, *([] if decay is None else [decay]))]
        tape.op("attention", reads=reads, makes=outs, saves=saves, gives=gives, weights=weights, inside=high)
    return out.transpose(1, 2), None if lse is None else lse.transpose(1, 2)


def fold_queries(x: Value, groups: int) -> Value:
    """[B, H, T, K] to [B * G, T * R, K]: the query heads of one key head side by side."""
    batch, heads, length, width = x.shape
    repeats = heads // groups
    folded = x.reshape(batch, groups, repeats, length, width).transpose(2, 3)
    return folded.reshape(batch * groups, length * repeats, width)


def _unfold(x: Value, batch: int, groups: int, repeats: int) -> Value:
    """Back to [B, T, H, K], in that memory order."""
    x = x.unflatten(1, (-1, repeats)).unflatten(0, (batch, groups)).transpose(1, 2)
    return x.reshape(batch, x.shape[1], groups * repeats, x.shape[-1])


def _tiles(kernel: _Kernel) -> Iterator[tuple[BlockSize, int, int]]:
    """(block, (batch row, key head) pairs of a tile, how many tiles of it), in order; equal ones in two entries."""
    pairs = kernel.rows * kernel.groups
    for block in kernel.blocks:
        step = min(pairs, max(1, TILE_SCORES // max(block.pairs * kernel.repeats, 1)))
        full, rest = divmod(pairs, step)
        for size, times in ((step, 1), (step, full - 1), (rest, 1)):
            if size and times:
                yield block, size, times * block.count


def _terms(kernel: _Kernel, block: BlockSize, pairs: int) -> tuple[int, int]:
    """Bytes of what is added to the scores of a tile while it is computed, and while it is made."""
    scores, heads = kernel.scores, kernel.groups * kernel.repeats
    if not (scores.bias or scores.table_rows):
        return 0, 0
    of_block = heads * block.pairs * kernel.item
    tile = pairs * kernel.repeats * block.pairs * kernel.item
    rows = 8 * block.pairs if scores.table_rows else 0
    making = heads * block.pairs * 4 + 12 * block.pairs if scores.bias else 8 * block.pairs
    return of_block + tile + rows, making


def _forward_high(kernel: _Kernel, kept: int) -> int:
    """The most that a forward pass holds besides inputs, output and `kept`, which is all of the probabilities kept."""
    item, (k_width, v_width) = kernel.item, kernel.widths
    before, high, kept_so_far = 0, 0, 0
    for block, pairs, times in _tiles(kernel):
        scores = pairs * kernel.repeats * block.pairs * item
        copied = pairs * block.keys * item if block.runs > 1 else 0
        terms, making = _terms(kernel, block, pairs)
        capped = scores if kernel.scores.softcap else 0
        between = kernel.wide + (item if item < kernel.wide else 0)  # the difference, and in the scores' own format
        decayed = pairs * kernel.repeats * block.pairs * between if kernel.scores.decay is not None else 0
        # Names keep the scores and probabilities of the tile before until new ones take their place.
        probabilities_before = 0 if kernel.is_kept else before
        found = pairs * block.queries * kernel.repeats * v_width * item
        moments = (
            making + terms + before + probabilities_before,
            before * (2 if kernel.scores.softcap else 1)
            + probabilities_before
            + scores
            + capped
            + terms
            + max(copied * k_width, decayed),
            probabilities_before + 2 * scores + capped + terms,
            2 * scores + capped + terms + copied * v_width + found,
        )
        high = max(high, kept_so_far + max(moments))
        kept_so_far += scores * times if kernel.is_kept else 0
        before = scores
    return max(0, high - kept)


def blocks_high(
    *,
    rows: int,
    groups: int,
    repeats: int,
    widths: tuple[int, int],
    item: int,
    blocks: tuple[BlockSize, ...],
    scores: Scores,
) -> int:
    """The most that a forward pass over some blocks holds besides its inputs and output, where nothing is kept."""
    kernel = _Kernel(
        rows=rows,
        groups=groups,
        repeats=repeats,
        widths=widths,
        item=item,
        wide=max(4, item),
        blocks=blocks,
        scores=scores,
        is_kept=False,
    )
    return _forward_high(kernel, 0)


def _backward_high(kernel: _Kernel, q: Value) -> tuple[int, int]:
    """The most that a backward pass holds besides the gradient it takes and what was kept; bytes of table gradients."""
    item, wide, (k_width, v_width) = kernel.item, kernel.wide, kernel.widths
    n, length, r = kernel.rows * kernel.groups, q.shape[2], kernel.repeats
    queries, keys = n * length * r * k_width, n * length * k_width
    values, out = n * length * v_width, n * length * r * v_width
    is_copied = not _folds_freely(kernel.rows, kernel.groups, r, length)
    fixed = queries * item + (keys + values) * wide + (out * item if is_copied else 0)
    if kernel.scores.sink:
        fixed += n * length * r * wide
    table = kernel.scores.table_rows * kernel.groups * r
    fixed += table * wide
    if kernel.scores.decay is not None:
        fixed += n * length * r * wide
    high = 0
    for block, pairs, _ in _tiles(kernel):
        scores = pairs * r * block.pairs * item
        terms, making = _terms(kernel, block, pairs)
        again = 0 if kernel.is_kept else scores * (3 if kernel.scores.softcap else 2)
        copied = pairs * block.keys * (k_width + v_width) * item if block.runs > 1 else 0
        # The gradient of a tile's values or keys, and that once more in the format of the sum.
        part = pairs * block.keys * max(k_width, v_width)
        sums = part * item + (part * wide if item != wide else 0)
        decayed = scores // item * wide * 2 if kernel.scores.decay is not None else 0
        moments = (
            making + terms,
            terms + copied + again + decayed,
            terms + copied + again + 2 * scores + max(sums, pairs * block.queries * r * k_width * item),
        )
        high = max(high, *moments)
    ends = (queries * item if is_copied else 0) + ((keys + values) * item if item != wide else 0)
    return fixed + max(high, ends), table * item


def _folds_freely(batch: int, groups: int, repeats: int, length: int) -> bool:
    """Whether folding [B, T, H, K] memory is a view: numbers of a key head lie together."""
    from vitruvius.spec.tracing.strides import dense, viewed

    b, t, h, k = batch, length, groups * repeats, 2
    steps = dense((b, t, h, k))
    shape, strides = (b, groups, t, repeats, k), (steps[0], repeats * steps[2], steps[1], steps[2], 1)
    return contiguous(shape, strides) or viewed(shape, strides, (b * groups, t * repeats, k)) is not None


def _with_sink(tape: Tape, out: Value, lse: Value, numbers: int) -> Value:
    """The output times the share that the keys keep beside a sink, sigmoid(lse - sink)."""
    weights = max(0, numbers) * tape.work.value_bytes
    less = tape.like(lse)
    tape.op("sink", reads=[lse], makes=[less], weights=weights, backward=lse.size)
    share = tape.like(less)
    tape.op("sigmoid", reads=[less], makes=[share], saves=[share])
    if share.item != out.item:
        cast = tape.like(share, item=out.item)
        tape.op("cast", reads=[share], makes=[cast])
        share = cast
    made = tape.like(out)
    # The share's gradient is a product of the size of the output before it is summed.
    tape.op("product", reads=[out, share], makes=[made], saves=[out, share], backward=out.size)
    return made
