"""What runs along a sequence inside attention does to memory: forget gates, and convolutions of a few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.spec.tracing.linear_parts import wide_linear
from vitruvius.spec.tracing.tape_ops import cut, made_like, times, unary, wants, wide_weight, widened

if TYPE_CHECKING:
    from vitruvius.spec.tracing.tape import Value


def log_sigmoid(x: Value) -> Value:
    """Keeps its input, and on CPUs a buffer of that size."""
    made, buffer = made_like(x), made_like(x, gradient=False)
    x.tape.op("log sigmoid", reads=[x], makes=[made, buffer], saves=[x, buffer], gives=[(x, x.size)])
    return made


def cumulative_decay(x: Value, heads: int) -> Value:
    """Sums of log forget gates [B, H, T] in at least fp32, from the layer's input."""
    with x.tape.call():
        gates = log_sigmoid(wide_linear(x, heads, biases=heads))
        x.tape.hold(gates)
        return unary("cumsum", gates, backward=gates.size).transpose(1, 2)


def convolved(u: Value, taps: int) -> Value:
    """`short_convolution`: [B, T, C] in at least fp32; of narrower inputs each tap keeps a copy."""
    tape, (batch, length, channels) = u.tape, u.shape
    with tape.call():
        copy = wide_weight(tape, channels, taps)
        seen = tape.fresh((batch, length + taps - 1, channels), item=u.item)
        tape.op("cat", reads=[u], makes=[seen], gives=[(u, "same")])
        tape.hold(seen)
        shifted = [cut(tape.same(seen), 1, length) for _ in range(taps)]
        if tape.work.documents == "separate":
            shifted = [*(_within(part) for part in shifted[:-1]), shifted[-1]]
            tape.hold(*shifted)
        total = None
        for shift in shifted:
            part = widened(shift)
            made = tape.fresh((batch, length, channels), item=part.item)
            tape.op(
                "tap",
                reads=[part] if total is None else [part, total],
                makes=[made],
                saves=[part, *([] if copy is None else [copy])],
                gives=[(part, part.size), *([] if total is None else [(total, "same")])],
                weights=channels * tape.work.value_bytes,
                backward=part.size,
            )
            tape.hold(part)
            total = made
        assert total is not None
        return total


def _within(part: Value) -> Value:
    """[B, T, C] with zeros where another document is: a copy; what is kept is a byte for each token."""
    tape = part.tape
    made = tape.fresh(part.shape, item=part.item)
    mask = tape.fresh(part.shape[:2], item=1, gradient=False)
    tape.op("within", reads=[part], makes=[made, mask], saves=[mask], gives=[(part, part.size)])
    return made


def divided_by_norm(u: Value) -> Value:
    """Each vector by its length: keeps the vectors, the lengths, and the lengths with a little added."""
    tape = u.tape
    norms = tape.fresh((*u.shape[:-1], 1), item=u.item)
    tape.op("norm", reads=[u], makes=[norms], saves=[u, norms], gives=[(u, u.size)])
    added = unary("add", norms)
    made = made_like(u)
    tape.op(
        "divide",
        reads=[u, added],
        makes=[made],
        saves=[u, added],
        gives=[(u, u.size), (added, added.size)],
        backward=u.size,
    )
    return made


def rotated(x: Value, cos: Value, sin: Value) -> Value:
    """Channels i and i + P turned by an angle that has a gradient: keeps the vectors in at least fp32, cos and sin."""
    tape = x.tape
    with tape.call():
        wide = widened(x)
        half = wide.size // 2
        turned = tape.fresh(x.shape, item=wide.item)
        tape.op(
            "turn",
            reads=[wide, cos, sin],
            makes=[turned],
            saves=[wide, cos, sin],
            forward=3 * half,
            gives=[(wide, wide.size), (cos, cos.size), (sin, sin.size)],
            backward=2 * wide.size,
        )
        if turned.item == x.item:
            return turned
        made = tape.fresh(x.shape, item=x.item, gradient=wants(x, cos))
        tape.op("to", reads=[turned], makes=[made], gives=[(turned, turned.size)])
        return made


__all__ = ["convolved", "cumulative_decay", "divided_by_norm", "log_sigmoid", "rotated", "times"]
