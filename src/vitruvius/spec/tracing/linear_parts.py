"""What the parts of linear-time mixers do to memory: convolutions, unit vectors, gated norms, step sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vitruvius.spec.tracing.tape_ops import by_weight, converted, made_like, times, unary, wants, wide_weight, widened

if TYPE_CHECKING:
    from vitruvius.spec.tracing.tape import Give, Tape, Value


def short_conv(
    x: Value, taps: int, *, bias: bool = False, activation: Literal["none", "silu"] = "silu", learned: bool = True
) -> Value:
    """Outputs [B, T, D] in at least fp32 of a causal convolution of each channel."""
    tape, (batch, length, channels) = x.tape, x.shape
    with tape.call():
        known = tape.fresh((batch, length + taps - 1, channels), item=x.item)
        tape.op("cat", reads=[x], makes=[known], gives=[(x, "same")])
        tape.hold(known)
        wide = widened(known)
        tape.hold(wide)
        weight = wide_weight(tape, channels, taps) if learned else _constant_taps(tape, channels, taps)
        reach = _reach(tape, (taps, batch, length), wide.item)
        y = tape.fresh(x.shape, item=wide.item)
        # Of packed rows a tap's inputs, and going back its gradients, are masked in a copy.
        masked = y.size if reach else 0
        tape.op(
            "convolution",
            reads=[wide, *reach],
            makes=[y],
            saves=[wide, *([] if weight is None else [weight]), *reach],
            forward=masked,
            gives=[(wide, wide.size)],
            weights=channels * taps * tape.work.value_bytes if learned else 0,
            backward=masked + y.size + (channels * taps * wide.item if weight is not None else 0),
        )
        tape.hold(y)
        if bias:
            y = biased(y, channels)
            tape.hold(y)
        return y if activation == "none" else unary("silu", y, "input")


def _reach(tape: Tape, shape: tuple[int, int, int], item: int) -> list[Value]:
    """Which taps stay inside a document, where documents are packed: [K, B, T]."""
    if tape.work.documents != "separate":
        return []
    made = tape.fresh(shape, item=item, gradient=False)
    tape.op("reach", makes=[made], forward=made.size // item * 2 + 16 * shape[1] * shape[2], gives=[])
    return [made]


def _constant_taps(tape: Tape, channels: int, taps: int) -> Value:
    """Taps that say `the token before`: one row seen by every channel, which another format copies for each."""
    narrow = tape.work.value_bytes < tape.work.wide_bytes
    size = (channels if narrow else 1) * taps
    made = tape.fresh((size,), item=tape.work.wide_bytes, gradient=False)
    tape.op("taps", makes=[made], gives=[])
    return made


def biased(x: Value, count: int) -> Value:
    """With a learned vector added."""
    made = made_like(x)
    x.tape.op("bias", reads=[x], makes=[made], gives=[(x, "same")], weights=count * x.tape.work.value_bytes)
    return made


def unit(x: Value) -> Value:
    """The last axis at length 1, in at least fp32."""
    tape = x.tape
    x = widened(x)
    squares = unary("square", x, "input", backward=2 * x.size)
    sums = tape.fresh((*x.shape[:-1], 1), item=x.item)
    tape.op("sum", reads=[squares], makes=[sums])
    added = unary("add", sums)
    return times(x, unary("rsqrt", added, "output"))


def rms(x: Value, *, groups: int = 1, weight: int = 0) -> Value:
    """RMS norm of the last axis without its layout: keeps the input and a reciprocal for each vector.

    weight: numbers of the gain, of which a wide copy is kept where the model's format is narrower; 0 without one.
    """
    tape = x.tape
    copy = wide_weight(tape, weight) if weight else None
    made = made_like(x)
    rows = x.size // (x.item * x.shape[-1]) * groups
    reciprocals = tape.fresh((rows,), item=max(4, x.item), gradient=False)
    block = tape.block_rows(rows, x.shape[-1] // groups) * max(4, x.item)
    tape.op(
        "rmsnorm",
        reads=[x],
        makes=[made, reciprocals],
        saves=[x, reciprocals, *([] if copy is None else [copy])],
        forward=block,
        weights=weight * tape.work.value_bytes,
        backward=3 * block,
    )
    return made


def gated(gate: Value, up: Value) -> Value:
    """silu(gate) * up, of one format: keeps both, and the activated gate."""
    tape = gate.tape
    activated = made_like(gate, gradient=False)
    made = made_like(gate)
    tape.op(
        "gated activation",
        reads=[gate, up],
        makes=[activated, made],
        saves=[gate, up, activated],
        gives=[(gate, gate.size), (up, up.size)],
    )
    return made


def gated_norm(
    x: Value,
    z: Value,
    *,
    order: Literal["norm-first", "gate-first"] = "norm-first",
    activation: Literal["silu", "sigmoid"] = "silu",
    groups: int = 1,
) -> Value:
    """As `vitruvius.nn.mixers.linear.GatedNorm`: [..., width] twice to one of them, in the format of `z`."""
    tape, item, width = x.tape, z.item, x.shape[-1]
    with tape.call():
        z = converted(z, x.item)
        tape.hold(z, x)
        if order == "gate-first":
            x = gated(z, x)
        if groups > 1:
            copy = wide_weight(tape, width)
            x = by_weight(rms(x, groups=groups), width, copy=copy)
        else:
            x = rms(x, weight=width)
        tape.hold(x)
        if order == "norm-first":
            x = gated(z, x) if activation == "silu" else times(x, unary("sigmoid", z, "output"))
        return converted(x, item)


def log_decay(dt: Value, heads: int, *, per: int = 1) -> tuple[Value, Value]:
    """Step sizes softplus(dt + bias) and -exp(A) of each head times them, in at least fp32.

    per: channels of a head that have a step size each.
    """
    tape = dt.tape
    wide = widened(dt)
    biased = made_like(wide)
    weights = heads * per * tape.work.value_bytes
    tape.op("bias", reads=[wide], makes=[biased], gives=[(wide, "same")], weights=weights)
    steps = unary("softplus", biased, "input")
    rates = exp_of_weight(tape, heads)
    product = made_like(steps)
    tape.op(
        "product",
        reads=[steps],
        makes=[product],
        saves=[rates, steps],
        gives=[(steps, steps.size)],
        weights=heads * tape.work.value_bytes,
        backward=product.size,
    )
    return steps, product


def exp_of_weight(tape: Tape, count: int) -> Value:
    """-exp of a parameter of `count` numbers: its exponential is kept, and itself by what it multiplies."""
    exponential = tape.fresh((count,), item=tape.work.wide_bytes)
    made = tape.fresh((count,), item=tape.work.wide_bytes)
    tape.op("exp", makes=[exponential], saves=[exponential], gives=[])
    tape.op("negative", reads=[exponential], makes=[made])
    return made


def head_sum(x: Value) -> Value:
    """The sum over the last axis, of size 1."""
    made = x.tape.fresh((*x.shape[:-1], 1), item=x.item, gradient=wants(x))
    x.tape.op("sum", reads=[x], makes=[made])
    return made


def difference(one: Value, other: Value) -> Value:
    """One less the other: keeps nothing; the other gets a negated gradient."""
    larger = one if one.size >= other.size else other
    made = made_like(larger, gradient=wants(one, other))
    gives: list[tuple[Value, Give]] = [(one, "same" if one.size == made.size else one.size)] if wants(one) else []
    gives += [(other, other.size)] if wants(other) else []
    one.tape.op("difference", reads=[one, other], makes=[made], gives=gives)
    return made


def layer_normed(x: Value) -> Value:
    """LayerNorm of the last axis without gain and shift: keeps the input, a mean and a reciprocal for each vector."""
    tape = x.tape
    made = tape.fresh(x.shape, item=x.item)
    rows = x.size // (x.item * x.shape[-1])
    statistics = [tape.fresh((rows,), item=x.item, gradient=False) for _ in range(2)]
    tape.op("layer norm", reads=[x], makes=[made, *statistics], saves=[x, *statistics], gives=[(x, x.size)])
    return made


def wide_linear(x: Value, out: int, *, biases: int = 0) -> Value:
    """A linear map, with so many biases, in at least fp32 whatever the format of its weights."""
    tape = x.tape
    x = widened(x)
    copy = wide_weight(tape, out, x.shape[-1])
    made = tape.fresh((*x.shape[:-1], out), item=x.item)
    count = out * x.shape[-1] + biases
    tape.op(
        "wide linear",
        reads=[x],
        makes=[made],
        saves=[x, *([] if copy is None else [copy])],
        weights=count * tape.work.value_bytes,
        backward=count * x.item if copy is not None else 0,
    )
    return made


def low_rank(x: Value, rank: int, *, inside: Literal["", "tanh"] = "") -> Value:
    """Bias + up(inside(down(x))) as wide as `x`, in at least fp32."""
    tape, width = x.tape, x.shape[-1]
    with tape.call():
        h = tape.linear(x, [rank])[0]
        tape.hold(h)
        up = tape.linear(unary(inside, h, "output") if inside else h, [width])[0]
        return biased(widened(up), width)
