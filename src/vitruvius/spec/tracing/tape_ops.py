"""Operations that traces of several kinds share, in terms of those that a `Tape` knows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from vitruvius.spec.tracing.strides import dense
from vitruvius.spec.tracing.tape import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.spec.tracing.tape import Give, Tape


def made_like(x: Value, shape: Sequence[int] | None = None, *, item: int | None = None, gradient: bool = True) -> Value:
    """A new tensor of the shape of `x`, its axes in the memory order of `x` and without gaps, as torch makes it.

    Of another shape: in order.
    """
    wide = x.item if item is None else item
    made = x.tape.fresh(x.shape if shape is None else shape, item=wide, gradient=gradient)
    if shape is not None and tuple(shape) != x.shape:
        return made
    order = sorted(range(len(x.shape)), key=lambda axis: (-x.strides[axis], axis))
    steps = dense([x.shape[axis] for axis in order])
    strides = [0] * len(order)
    for axis, step in zip(order, steps, strict=True):
        strides[axis] = step
    return Value(x.tape, made.shape, tuple(strides), made.item, made.storage, made.slot)


def wants(*values: Value) -> bool:
    """Whether a gradient of any of them is wanted."""
    return any(value.slot >= 0 for value in values)


def cut(x: Value, axis: int, size: int) -> Value:
    """Some of an axis, as a view with the gradient of the whole."""
    axis %= len(x.shape)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return Value(x.tape, shape, x.strides, x.item, x.storage, x.slot)


def split(x: Value, sizes: Sequence[int], axis: int = -1) -> list[Value]:
    """Views of all of an axis: their gradients are copied together."""
    parts = [cut(x.tape.same(x) if wants(x) else x, axis, size) for size in sizes]
    if wants(x):
        x.tape.op("split", reads=[x], makes=parts, gives=[(x, x.size)])
    return parts


def first(x: Value, size: int, axis: int = 1) -> Value:
    """The beginning of an axis: itself where that is all, else a view whose gradient is filled up with zeros."""
    if x.shape[axis] == size:
        return x
    part = cut(x.tape.same(x) if wants(x) else x, axis, size)
    if wants(x):
        x.tape.op("slice", reads=[x], makes=[part], gives=[(x, x.size)])
    return part


def expand(x: Value, axis: int, size: int) -> Value:
    """An axis of size 1 repeated without a copy; gradients are summed."""
    axis %= len(x.shape)
    if x.shape[axis] == size:
        return x
    seen = x.tape.same(x) if wants(x) else x
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    strides = (*x.strides[:axis], 0, *x.strides[axis + 1 :])
    if wants(x):
        x.tape.op("expand", reads=[x], makes=[seen], gives=[(x, x.size)])
    return Value(x.tape, shape, strides, x.item, x.storage, seen.slot)


def widened(x: Value) -> Value:
    """In at least fp32: itself where it is."""
    wide = x.tape.work.wide_bytes
    return x if x.item >= wide else converted(x, wide)


def converted(x: Value, item: int) -> Value:
    """In numbers of so many bytes: itself where they have as many."""
    if x.item == item:
        return x
    made = made_like(x, item=item, gradient=wants(x))
    x.tape.op("to", reads=[x], makes=[made], gives=[(x, x.size)] if wants(x) else [])
    return made


def wide_weight(tape: Tape, *shape: int) -> Value | None:
    """A copy of a parameter in at least fp32, which is kept where it multiplies something; None where it is wide."""
    if tape.work.value_bytes >= tape.work.wide_bytes:
        return None
    made = tape.fresh(shape, item=tape.work.wide_bytes, gradient=False)
    tape.op("to", makes=[made], gives=[])
    return made


def unary(name: str, x: Value, keeps: str = "", *, backward: int = 0, item: int | None = None) -> Value:
    """A function of each number. `keeps`: its `input`, its `output`, `both`, or nothing for the backward pass."""
    made = made_like(x, item=item, gradient=wants(x))
    kept = {"input": [x], "output": [made], "both": [x, made], "": []}[keeps] if wants(x) else []
    gives = [(x, x.size)] if wants(x) else []
    x.tape.op(name, reads=[x], makes=[made], saves=kept, gives=gives, backward=backward)
    return made


def times(one: Value, other: Value) -> Value:
    """A product, where one of them may be broadcast: what is repeated has its gradient summed."""
    larger = one if prod(one.shape) >= prod(other.shape) else other
    made = made_like(larger, item=max(one.item, other.item), gradient=wants(one, other))
    saves = [kept for kept, wanting in ((other, one), (one, other)) if wants(wanting)]
    gives = [(x, x.size) for x in (one, other) if wants(x)]
    summed = max((made.size for x in (one, other) if wants(x) and x.size < made.size), default=0)
    # Numbers of two formats: the narrower ones are first copied in the other.
    copied = sum(prod(x.shape) * made.item for x in (one, other) if x.item < made.item)
    one.tape.op("product", reads=[one, other], makes=[made], saves=saves, forward=copied, gives=gives, backward=summed)
    return made


def by_weight(x: Value, count: int, *, copy: Value | None = None, item: int | None = None) -> Value:
    """A product with a parameter of `count` numbers, whose copy in another format is kept where there is one."""
    made = made_like(x, item=item, gradient=True)
    saves = [x, *([] if copy is None else [copy])]
    weights = count * x.tape.work.value_bytes
    gives = [(x, x.size)] if wants(x) else []
    x.tape.op(
        "product",
        reads=[x],
        makes=[made],
        saves=saves if wants(x) else [x],
        gives=gives,
        weights=weights,
        backward=made.size,
    )
    return made


def total(one: Value, other: Value) -> Value:
    """A sum; where one is broadcast its gradient is summed."""
    larger = one if prod(one.shape) >= prod(other.shape) else other
    made = made_like(larger, item=max(one.item, other.item), gradient=wants(one, other))
    gives: list[tuple[Value, Give]] = [(x, "same" if x.size == made.size else x.size) for x in (one, other) if wants(x)]
    one.tape.op("add", reads=[one, other], makes=[made], gives=gives)
    return made


def joined(parts: Sequence[Value], axis: int = -1) -> Value:
    """Tensors copied together; their gradients are views of one."""
    axis %= len(parts[0].shape)
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    tape = parts[0].tape
    made = tape.fresh(shape, item=parts[0].item, gradient=wants(*parts))
    tape.op("cat", reads=parts, makes=[made], gives=[(part, "same") for part in parts if wants(part)])
    return made


def matmul(one: Value, other: Value) -> Value:
    """A product of matrices [..., I, J] and [..., J, K] with the same axes before: keeps both, in order."""
    rows, inner, columns = one.shape[-2], one.shape[-1], other.shape[-1]
    left, right = one.reshape(-1, rows, inner), other.reshape(-1, inner, columns)
    made = one.tape.fresh((*one.shape[:-1], columns), item=one.item, gradient=wants(one, other))
    saves = [kept for kept, wanting in ((right, left), (left, right)) if wants(wanting)]
    gives = [(x, x.size) for x in (left, right) if wants(x)]
    one.tape.op("matmul", reads=[left, right], makes=[made], saves=saves, gives=gives)
    return made


def fused(tape: Tape, q: Value, k: Value, v: Value) -> Value:
    """Torch's attention of queries [B, H, T, K] to all keys [B, G, S, K]: keeps them all, the output and its sums."""
    batch, heads, length, width = q.shape
    wide = max(4, q.item)
    out = tape.fresh((batch, length, heads, width), item=q.item)
    sums = tape.fresh((batch, length, heads), item=wide, gradient=False)
    packed = k.size + v.size if q.item < wide and length > 1 else 0  # bf16 wants keys in another order on CPUs
    tape.op(
        "attention",
        reads=[q, k, v],
        makes=[out, sums],
        saves=[q, k, v, out, sums],
        forward=packed + 2 * sums.size,
        gives=[(q, q.size), (k, k.size), (v, v.size)],
        backward=out.size // 2 + packed,
    )
    return out.transpose(1, 2)
