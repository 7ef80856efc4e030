"""Attention with contextual positions on a tape, as `vitruvius.nn.positions.cope` computes it: block after block."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from vitruvius.patterns.blocks import BLOCK
from vitruvius.patterns.segments import segments
from vitruvius.spec.tracing.tape import Tape
from vitruvius.spec.tracing.tape_ops import converted, made_like, matmul, times, total, unary, widened

if TYPE_CHECKING:
    from vitruvius.patterns import Pattern
    from vitruvius.spec.tracing.attending_stored import Stored
    from vitruvius.spec.tracing.tape import Value


def attend_cope(q: Value, k: Value, v: Value, *, pattern: Pattern, positions: int, per_head: bool) -> Value:
    """[B, H, T, V]; where there are several blocks, all but their inputs is computed again in the backward pass."""
    tape, (batch, heads, length, _) = q.tape, q.shape
    if tape.stored is not None and tape.stored.held:
        return _stored(q, k, v, tape.stored, positions=positions, per_head=per_head)
    if length <= BLOCK:
        return _block(q, k, v, positions=positions, per_head=per_head)
    queries, keys = max((_sizes(pattern, start, length) for start in range(0, length, BLOCK)), key=prod)
    inner = Tape(tape.work)
    part = [
        inner.given(name, (batch, n, x.shape[1], x.shape[-1]), item=x.item).transpose(1, 2)
        for name, x, n in (("q", q, queries), ("k", k, keys), ("v", v, keys))
    ]
    replay = inner.replay(_block(*part, positions=positions, per_head=per_head))
    with tape.call():
        tape.hold(q, k, v)
        out = tape.fresh((batch, heads, length, v.shape[-1]), item=v.item)
        count = positions * q.shape[-1] * (heads if per_head else 1)
        tape.op(
            "blocks of queries",
            reads=[q, k, v],
            makes=[out],
            saves=[q, k, v],
            # The parts are there until they are joined.
            forward=max(replay.alone, out.size),
            gives=[(x, x.size) for x in (q, k, v)],
            weights=count * tape.work.value_bytes,
            backward=max(replay.forward, replay.backward),
        )
        return out


def _stored(q: Value, k: Value, v: Value, stored: Stored, *, positions: int, per_head: bool) -> Value:
    """Queries of a step over all keys of the cache, which are brought into their order for the sums."""
    tape, (batch, heads, length, width) = q.tape, q.shape
    assert stored.plan is not None
    in_place = not stored.plan.archives and stored.held + length <= stored.plan.ring
    keys = stored.used(stored.held + length) if in_place or length == 1 else stored.used(stored.held) + length
    beside = 0 if in_place or length == 1 else keys * k.shape[1] * (width + v.shape[-1]) * batch * k.item
    inner = Tape(tape.work)
    inner.stored = stored
    queries = min(length, BLOCK)
    part = [inner.given("q", (batch, queries, heads, width)).transpose(1, 2)]
    part += [inner.given(name, (batch, x.shape[1], keys, x.shape[-1])) for name, x in (("k", k), ("v", v))]
    # Names hold weights and gates of one block until the next has its own.
    copied = batch * v.shape[1] * keys * v.shape[-1] * v.item if v.item < tape.work.wide_bytes else 0
    before = 2 * batch * heads * queries * keys * max(4, q.item) if length > queries else 0
    alone = inner.replay(_block(*part, positions=positions, per_head=per_head)).alone
    made = tape.fresh((batch, heads, length, v.shape[-1]), item=v.item)
    order = 4 * 8 * keys
    tape.op("blocks of queries", reads=[q], makes=[made], forward=beside + order + before + alone + copied, gives=[])
    return made


def _sizes(pattern: Pattern, start: int, length: int) -> tuple[int, int]:
    """Queries of a block, and the keys that it reads: the runs that its pattern needs."""
    stop = min(start + BLOCK, length)
    return stop - start, sum(run.size for run in segments(pattern, start, stop, length))


def grouped_scores(q: Value, k: Value) -> Value:
    """Products of every query with every key of its group, [B, H, T, S]."""
    groups, (heads, length) = k.shape[1], q.shape[1:3]
    folded = q.unflatten(1, (groups, -1)).flatten(2, 3)
    made = matmul(folded, k.transpose(-1, -2))
    return made.unflatten(2, (heads // groups, length)).flatten(1, 2)


def weighted_sum(weights: Value, v: Value) -> Value:
    """Values of each head's group under its weights, [B, H, T, V]."""
    groups, (heads, length) = v.shape[1], weights.shape[1:3]
    folded = converted(weights.unflatten(1, (groups, -1)).flatten(2, 3), v.item)
    made = matmul(folded, v)
    return made.unflatten(2, (heads // groups, length)).flatten(1, 2)


def masked(x: Value, keys: int) -> Value:
    """What is not visible replaced: keeps the opposite of the mask, made for this."""
    tape, rows = x.tape, x.shape[-2]
    hidden = tape.fresh((rows, keys), item=1, gradient=False)
    made = made_like(x)
    tape.op("mask", reads=[x], makes=[made, hidden], saves=[hidden], gives=[(x, x.size)])
    return made


def _block(q: Value, k: Value, v: Value, *, positions: int, per_head: bool) -> Value:
    tape = q.tape
    with tape.call():
        mask = tape.fresh((q.shape[2], k.shape[2]), item=1, gradient=False)
        tape.op("visible", makes=[mask], forward=12 * mask.size, gives=[])
        tape.hold(mask)
        weights, gates = _weights(q, k, positions=positions, per_head=per_head)
        tape.hold(weights, gates)
        out = weighted_sum(weights, v)
        tape.hold(out)
        if tape.stored is None:
            wide = gates.size // gates.item * 8
            tape.op("statistics in fp64", reads=[gates], forward=2 * wide, gives=[])
        return out


def _weights(q: Value, k: Value, *, positions: int, per_head: bool) -> tuple[Value, Value]:
    tape, keys = q.tape, k.shape[2]
    with tape.call():
        scores = widened(tape.scaled(grouped_scores(q, k)))
        tape.hold(scores)
        gates = masked(unary("sigmoid", scores, "output"), keys)
        tape.hold(gates)
        sums = unary("flip", unary("cumsum", unary("flip", gates)))
        counts = unary("clamp", sums, "input")
        tape.hold(counts)
        scores = total(scores, _interpolated(q, counts, positions=positions, per_head=per_head))
        tape.hold(scores)
        scores = masked(scores, keys)
        tape.hold(scores)
        return unary("softmax", scores, "output"), gates


def _interpolated(q: Value, counts: Value, *, positions: int, per_head: bool) -> Value:
    tape = q.tape
    with tape.call():
        products = widened(_products(q, positions, per_head=per_head))
        tape.hold(products)
        below = made_like(counts, gradient=False)
        tape.op("floor", reads=[counts], makes=[below], gives=[])
        share = made_like(counts)
        tape.op("difference", reads=[counts, below], makes=[share], gives=[(counts, "same")])
        tape.hold(below, share)
        low, high = (_gathered(products, counts) for _ in range(2))
        tape.hold(low, high)
        between = made_like(high)
        tape.op("difference", reads=[high, low], makes=[between], gives=[(high, "same"), (low, low.size)])
        return total(low, times(between, share))


def _products(q: Value, positions: int, *, per_head: bool) -> Value:
    """Each query times the vector of each position; a table for each head is repeated for each row."""
    tape, (batch, heads, length, width) = q.tape, q.shape
    rows = q.reshape(-1, length, width) if per_head else q.reshape(-1, width)
    made = tape.fresh((batch, heads, length, positions), item=q.item)
    table = tape.fresh((batch, heads, width, positions), item=q.item, gradient=False)
    copies = per_head and batch > 1
    weights = positions * width * (heads if per_head else 1) * q.item
    if copies:
        tape.op("repeat", makes=[table], gives=[])
    tape.op("products", reads=[rows], makes=[made], saves=[rows, *([table] if copies else [])], weights=weights)
    return made


def _gathered(products: Value, counts: Value) -> Value:
    """The products at whole numbers near the counts: keeps them, and the numbers as int64."""
    tape = products.tape
    index = tape.fresh(counts.shape, item=8, gradient=False)
    tape.op("round", reads=[counts], makes=[index], forward=counts.size, gives=[])
    made = made_like(counts)
    tape.op("gather", reads=[products, index], makes=[made], saves=[products, index], gives=[(products, products.size)])
    return made
