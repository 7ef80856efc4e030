"""What one training step does to memory, operation by operation, without computing anything.

A component writes on a `Tape` what its module does: the same operations in the same order, on tensors that have a
shape, strides and a storage and no numbers. `Tape.replay` then says what is kept for the backward pass and how high
memory rises in either pass. docs/adr/0014-activation-memory.md has the rules.

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:        # down(gelu(up(x)))
        with tape.call():
            (h,) = tape.linear(x, [self.hidden])
            h = tape.pointwise("gelu", h, saves=[h])
            (y,) = tape.linear(h, [scope.width])
            return y
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.tracing.replay import Replay, replay
from vitruvius.spec.tracing.strides import contiguous, dense, viewed

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vitruvius.spec.costs import Activations, Work
    from vitruvius.spec.tracing.attending_stored import Stored

AT_MOST = "at most"
"""How the names of constants begin of which only a bound is known."""
REPACKED = 2 << 20
"""Bytes that products of matrices in bf16 repack at most, by measurement of oneDNN on AMX and AVX-512."""
_REPACKED_FP16 = 640 << 10
"""What those in fp16 take besides twice as much, by the same measurement."""
_FP32 = 4
_FEW = 16
_BLOCK = 1 << 17
"""Numbers that a thread works on at a time."""

Give = int | Literal["same"]
"""The gradient that an operation makes of an input: so many new bytes, or the very tensor that reached its output."""


def repacked(size: int, work: Work) -> int:
    """Bytes that a product with a matrix of `size` bytes takes besides, in a format of two bytes on a CPU."""
    return min(2 * size + _REPACKED_FP16 if work.half == "fp16" else size, REPACKED)


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that one or several values look at."""

    size: int
    """Bytes."""
    key: str | None = None
    """Name of memory that was there before the tape, or is shared beyond it; None of what an operation made."""
    name: str = ""
    """The operation that made it."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor without numbers. Views share the storage and the gradient of what they look at."""

    tape: Tape
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item: int
    """Bytes of a number."""
    storage: Storage
    slot: int
    """Which gradient is its own; -1 where none is wanted."""

    @property
    def size(self) -> int:
        """Bytes of its numbers; the storage of a view may be larger."""
        return prod(self.shape) * self.item

    def _view(self, shape: Sequence[int], strides: Sequence[int]) -> Value:
        return Value(self.tape, tuple(shape), tuple(strides), self.item, self.storage, self.slot)

    def transpose(self, one: int, other: int) -> Value:
        """Two axes exchanged."""
        order = list(range(len(self.shape)))
        order[one], order[other] = order[other], order[one]
        return self.permute(*order)

    def permute(self, *order: int) -> Value:
        """Axes in another order."""
        return self._view([self.shape[i] for i in order], [self.strides[i] for i in order])

    def unflatten(self, axis: int, sizes: Sequence[int]) -> Value:
        """One axis as several; one of the sizes may be -1."""
        axis %= len(self.shape)
        known = prod(size for size in sizes if size != -1)
        full = [self.shape[axis] // known if size == -1 else size for size in sizes]
        steps = [prod(full[i + 1 :]) * self.strides[axis] for i in range(len(full))]
        return self._view(
            (*self.shape[:axis], *full, *self.shape[axis + 1 :]),
            (*self.strides[:axis], *steps, *self.strides[axis + 1 :]),
        )

    def unsqueeze(self, axis: int) -> Value:
        """With one more axis of size 1."""
        axis %= len(self.shape) + 1
        step = self.shape[axis] * self.strides[axis] if axis < len(self.shape) else 1
        return self._view(
            (*self.shape[:axis], 1, *self.shape[axis:]), (*self.strides[:axis], step, *self.strides[axis:])
        )

    def squeeze(self, axis: int) -> Value:
        """Without an axis of size 1."""
        axis %= len(self.shape)
        return self._view(
            (*self.shape[:axis], *self.shape[axis + 1 :]), (*self.strides[:axis], *self.strides[axis + 1 :])
        )

    def reshape(self, *shape: int) -> Value:
        """The numbers in another shape: a view where strides allow it, else a copy, as torch decides."""
        known = prod(size for size in shape if size != -1)
        full = tuple(prod(self.shape) // known if size == -1 else size for size in shape)
        strides = viewed(self.shape, self.strides, full)
        if strides is not None:
            return self._view(full, strides)
        return self.tape.copy(self).reshape(*full)

    def flatten(self, start: int = 0, end: int = -1) -> Value:
        """Several axes as one, as `reshape`."""
        start, end = start % len(self.shape), end % len(self.shape)
        return self.reshape(*self.shape[:start], prod(self.shape[start : end + 1]), *self.shape[end + 1 :])

    def contiguous(self) -> Value:
        """Itself where its numbers lie in order, else a copy."""
        return self if contiguous(self.shape, self.strides) else self.tape.copy(self)

    def one_head(self) -> Value:
        """The first head of [B, H, T, K], [B, 1, T, K]; without a gradient."""
        shape = (self.shape[0], 1, *self.shape[2:])
        return Value(self.tape, shape, self.strides, self.item, self.storage, -1)

    def detached(self) -> Value:
        """The same memory, of which no gradient is wanted."""
        return Value(self.tape, self.shape, self.strides, self.item, self.storage, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation."""

    name: str
    reads: tuple[Storage, ...]
    makes: tuple[Storage, ...]
    saves: tuple[Storage, ...]
    forward: int
    """The most bytes besides what it reads and makes."""
    takes: tuple[int, ...]
    """Slots of what it made: their gradients are what it needs, and are gone afterwards."""
    gives: tuple[tuple[int, Give], ...]
    """Slots of what it read, and the gradients it makes of them."""
    weights: int
    """Bytes of the gradients of its own parameters."""
    backward: int
    """The most bytes besides what it takes, keeps and makes in the backward pass."""
    inside: int | None
    """The most bytes besides what it takes and keeps, where that is less than all it makes together with `backward`."""


class Tape:
    """Operations in the order in which a forward pass does them."""

    def __init__(
        self,
        work: Work,
        *,
        lends: frozenset[str] = frozenset(),
        loans: Mapping[str, tuple[int, ...]] | None = None,
        place: str = "",
    ) -> None:
        self.work = work
        self.loans = loans or {}
        """Strides of what earlier layers lend, by name."""
        self.place = place
        """Name of the text whose positions count: those of a source are others than those of the target."""
        self.lends = lends
        """Kinds of loans that later layers take."""
        self.lent: dict[str, Value] = {}
        self.ops: list[Op] = []
        self.until: dict[Storage, int] = {}
        """Storages that a name holds on to, and the number of operations recorded when that name is gone."""
        self.unsure = 0
        self.stored: Stored | None = None
        """What stands in a cache, where this is a pass without gradients; None of a training step."""
        self._slots = 0
        self._frames: list[set[Storage]] = []
        self._known: dict[str, Value] = {}

    # Values

    def _slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def given(self, key: str, shape: Sequence[int], *, item: int | None = None, gradient: bool = True) -> Value:
        """A tensor that is there before the tape begins; of one key there is one."""
        if key not in self._known:
            item = self.work.value_bytes if item is None else item
            storage = Storage(prod(shape) * item, key, key)
            slot = self._slot() if gradient else -1
            self._known[key] = Value(self, tuple(shape), dense(shape), item, storage, slot)
        return self._known[key]

    def borrowed(self, key: str, shape: Sequence[int]) -> Value:
        """What an earlier layer lends, [B, G, T, K]; by default its heads lie side by side in each token."""
        batch, groups, length, width = shape
        x = self.given(key, (batch, length, groups, width)).transpose(1, 2)
        return Value(self, x.shape, self.loans.get(key, x.strides), x.item, x.storage, x.slot)

    def constant(self, key: str, size: int) -> Value:
        """Bytes that all layers share and that need no gradient: tables, masks, ids. Counted once for the model."""
        return self.given(f"constant:{key}", (size,), item=1, gradient=False)

    def fresh(self, shape: Sequence[int], *, item: int | None = None, gradient: bool = True) -> Value:
        """A tensor in memory of its own, in order, in the model's format; an `op` has to make it."""
        item = self.work.value_bytes if item is None else item
        slot = self._slot() if gradient else -1
        return Value(self, tuple(shape), dense(shape), item, Storage(prod(shape) * item), slot)

    def like(self, x: Value, *, item: int | None = None) -> Value:
        """A tensor of the shape and memory order of another one."""
        item = x.item if item is None else item
        return Value(self, x.shape, x.strides, item, Storage(prod(x.shape) * item), self._slot())

    def same(self, x: Value) -> Value:
        """A view with a gradient of its own; an `op` has to make it."""
        return Value(self, x.shape, x.strides, x.item, x.storage, self._slot())

    def lend(self, what: str, *values: Value) -> None:
        """What a later layer may read besides the output: kept to the end of the forward pass where one does."""
        if what in self.lends:
            self.lent |= {f"{what}.{i}": value for i, value in enumerate(values)}

    # Names

    @contextlib.contextmanager
    def call(self) -> Generator[None]:
        """A function: what `hold` is told inside lives until it returns, as Python's local names do."""
        self._frames.append(set())
        try:
            yield
        finally:
            for storage in self._frames.pop():
                self.until[storage] = max(self.until.get(storage, 0), len(self.ops))

    def hold(self, *values: Value) -> None:
        """Names of the function that is being recorded."""
        self._frames[-1].update(value.storage for value in values)

    # Operations

    def op(
        self,
        name: str,
        *,
        reads: Sequence[Value] = (),
        makes: Sequence[Value] = (),
        saves: Sequence[Value] = (),
        forward: int = 0,
        gives: Sequence[tuple[Value, Give]] | None = None,
        weights: int = 0,
        backward: int = 0,
        inside: int | None = None,
    ) -> None:
        """Record an operation; see `Op`. Without `gives`, each input gets a new gradient of its own size."""
        given = [(x, x.size) for x in reads] if gives is None else gives
        for value in makes:
            if not value.storage.name:
                value.storage.name = name
        self.ops.append(
            Op(
                name=name,
                reads=tuple(x.storage for x in reads),
                makes=tuple(x.storage for x in makes if x.storage.key is None),
                saves=tuple({x.storage: None for x in saves}),
                forward=forward,
                takes=tuple(x.slot for x in makes if x.slot >= 0),
                gives=tuple((x.slot, give) for x, give in given if x.slot >= 0),
                weights=weights if self.work.weights == "trained" else 0,
                backward=backward,
                inside=inside,
            )
        )

    def linear(self, x: Value, outs: Sequence[int], *, biases: int = 0, backward: int = 0) -> list[Value]:
        """Linear maps of one input to so many channels each, `biases` numbers of biases in all; keeps the input.

        backward: bytes of gradients that do not lie in order and are copied.
        """
        rows = prod(x.shape[:-1])
        made = [self.fresh((*x.shape[:-1], out)) for out in outs]
        weights = (sum(outs) * x.shape[-1] + biases) * self.work.value_bytes
        kept = x if viewed(x.shape, x.strides, (rows, x.shape[-1])) is not None else self.copy(x)
        packed = repacked(max(outs) * x.shape[-1] * x.item, self.work) if x.item < _FP32 else 0
        if self.stored is not None:
            packed = packed * min(rows, _FEW) // _FEW  # a product of few rows is computed in another way
        back = backward + packed
        self.op("linear", reads=[kept], makes=made, saves=[kept], forward=packed, weights=weights, backward=back)
        return made

    def pointwise(
        self,
        name: str,
        *inputs: Value,
        saves: Sequence[Value] = (),
        item: int | None = None,
        weights: int = 0,
        backward: int = 0,
    ) -> Value:
        """A new tensor in the memory order of the first input; each input gets a new gradient."""
        made = self.like(inputs[0], item=item)
        self.op(name, reads=inputs, makes=[made], saves=saves, weights=weights, backward=backward)
        return made

    def add(self, one: Value, other: Value) -> Value:
        """A sum of two tensors of one shape: keeps nothing, and passes one gradient to both."""
        made = self.like(one)
        self.op("add", reads=[one, other], makes=[made], gives=[(one, "same"), (other, "same")])
        return made

    def scaled(self, x: Value) -> Value:
        """Times a plain number."""
        return self.pointwise("scale", x)

    def product(self, one: Value, other: Value) -> Value:
        """Elementwise, of one shape: keeps both."""
        return self.pointwise("product", one, other, saves=[one, other])

    def copy(self, x: Value) -> Value:
        """The numbers in order, in memory of their own."""
        made = self.fresh(x.shape, item=x.item, gradient=x.slot >= 0)
        self.op("copy", reads=[x], makes=[made], gives=[(x, "same")])
        return made

    def cut(self, x: Value, axis: int, length: int) -> Value:
        """Some of the places of an axis, a view; its gradient is a new tensor of the whole size, zero elsewhere."""
        axis %= len(x.shape)
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        made = Value(self, shape, x.strides, x.item, x.storage, self._slot() if x.slot >= 0 else -1)
        self.op("slice", reads=[x], makes=[made], gives=[(x, x.size)])
        return made

    def block_rows(self, rows: int, width: int) -> int:
        """Numbers in the rows that kernels of ours work on at a time (`vitruvius.nn.ops.norm.row_blocks`)."""
        return min(rows, max(1, _BLOCK * self.work.threads // max(width, 1))) * width

    def account(self, x: Value, account: Activations, *, weights: int) -> Value:
        """A whole sublayer of which only numbers are known, [..., D] to [..., D]; `saved` includes its input."""
        made = self.fresh(x.shape)
        rest = Value(self, (), (), 1, Storage(max(0, account.saved - x.size)), -1)
        keeps = [rest, x] if account.saved else []
        self.op(
            "sublayer",
            reads=[x],
            makes=[made, *([rest] if account.saved else [])],
            saves=keeps,
            forward=max(0, account.forward - made.size),
            weights=weights,
            backward=max(0, account.backward - made.size - x.size),
        )
        self.unsure += account.unsure
        return made

    def replay(self, output: Value) -> Replay:
        """Every level of both passes, when gradients of the output, and of what was lent, come in."""
        return replay(self.ops, self.until, {"output": output, **self.lent}, self._known)
