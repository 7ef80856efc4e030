"""Attention with every score held, on a tape: what eager code without a fused kernel takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitruvius.spec.tracing.attending import Scores
    from vitruvius.spec.tracing.tape import Tape, Value


def attend_open(tape: Tape, q: Value, k: Value, v: Value, *, scores: Scores) -> Value:
    """`vitruvius.nn.backends.reference`: two matrix products, keys repeated for their queries, softmax in fp32."""
    batch, heads, length, _ = q.shape
    wide = max(4, q.item)
    shape = (batch, heads, length, length)
    with tape.call():
        repeated = [_repeated(tape, x, heads) for x in (k, v)]
        tape.hold(*repeated)
        product = _matmul(tape, q, repeated[0].transpose(-1, -2))
        held = tape.scaled(product)
        if held.item != wide:
            held = _cast(tape, held, wide)
        if scores.softcap:
            tanh = tape.like(held)
            tape.op("tanh", reads=[tape.scaled(held)], makes=[tanh], saves=[tanh])
            held = tape.scaled(tanh)
        if scores.bias or scores.table_rows or scores.decay is not None:
            held = _with_terms(tape, held, scores)
        mask = tape.fresh((length, length), item=1, gradient=False)
        masked = tape.like(held)
        tape.op("mask", reads=[held], makes=[mask, masked], saves=[mask])
        weights = tape.like(masked)
        tape.op("softmax", reads=[masked], makes=[weights], saves=[weights])
        tape.hold(masked, weights)
        if scores.sink:
            weights = _with_sink(tape, weights, masked, scores.sink)
            tape.hold(weights)
        assert weights.shape == shape
        if weights.item != q.item:
            weights = _cast(tape, weights, q.item)
        return _matmul(tape, weights, repeated[1])


def _repeated(tape: Tape, x: Value, heads: int) -> Value:
    made = tape.fresh((x.shape[0], heads, *x.shape[2:]), item=x.item)
    tape.op("repeat", reads=[x], makes=[made])
    return made


def _matmul(tape: Tape, a: Value, b: Value) -> Value:
    """Batched; operands that are no views of [N, rows, columns] are copied, and kept as such."""
    a, b = (x if _is_batch(x) else x.contiguous() for x in (a, b))
    made = tape.fresh((*a.shape[:-1], b.shape[-1]), item=a.item)
    tape.op("matmul", reads=[a, b], makes=[made], saves=[a, b])
    return made


def _is_batch(x: Value) -> bool:
    return x.shape[0] == 1 or x.shape[1] == 1 or x.strides[0] == x.shape[1] * x.strides[1]


def _cast(tape: Tape, x: Value, item: int) -> Value:
    made = tape.like(x, item=item)
    tape.op("cast", reads=[x], makes=[made])
    return made


def _with_terms(tape: Tape, held: Value, scores: Scores) -> Value:
    _, heads, length, _ = held.shape
    made = tape.like(held)
    term = heads * length * length * held.item
    weights = scores.table_rows * heads * tape.work.value_bytes
    rows = [tape.fresh((length, length), item=8, gradient=False)] if scores.table_rows else []
    tape.op(
        "position", reads=[held], makes=[made, *rows], saves=rows, forward=term, gives=[(held, "same")], weights=weights
    )
    return made


def _with_sink(tape: Tape, weights: Value, scores: Value, numbers: int) -> Value:
    lse = tape.fresh(scores.shape[:-1], item=scores.item)
    tape.op("logsumexp", reads=[scores], makes=[lse], saves=[scores, lse], forward=scores.size)
    less = tape.like(lse)
    tape.op("sink", reads=[lse], makes=[less], weights=max(0, numbers) * tape.work.value_bytes)
    share = tape.like(less)
    tape.op("sigmoid", reads=[less], makes=[share], saves=[share])
    made = tape.like(weights)
    tape.op("product", reads=[weights, share], makes=[made], saves=[weights, share], backward=weights.size)
    return made
