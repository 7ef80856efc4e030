"""What chunked recurrences do to memory, as `vitruvius.nn.ops.recurrence` computes them, and how they cut their work.

Letters of shapes are those of `vitruvius.nn.ops.recurrence.chunks`: L chunks, B rows, G key heads, R value heads to a
key head, C tokens of a chunk, N state width, P value width; Z is B and G together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.spec.tracing.linear_parts import exp_of_weight
from vitruvius.spec.tracing.tape_ops import (
    by_weight,
    first,
    made_like,
    matmul,
    split,
    times,
    total,
    unary,
    wants,
    wide_weight,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.spec.tracing.tape import Value

CHUNK = 64
"""Tokens of a chunk: a power of two."""
PIECE = 1 << 19
"""Numbers that a piece of a selective scan is expanded to, at most: 2 MB in fp32, which a core's cache holds."""
LONGEST_PIECE = 64
"""Tokens of such a piece, at most."""


def chunk_length(length: int, chunk: int = CHUNK) -> int:
    """`chunk`, or for a short sequence a power of two that cuts it in two: no form of a call goes without a border."""
    return min(chunk, 1 << max(0, (length - 1).bit_length() - 1))


def piece_length(length: int, numbers: int) -> int:
    """Tokens of a piece of a selective scan whose state has so many numbers for all rows."""
    return max(1, min(LONGEST_PIECE, PIECE // numbers, length))


# ----------------------------------------------------------------------------------------------------------------------
# Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunks:
    length: int
    size: int
    groups: int

    def cut(self, x: Value) -> Value:
        """[B, T, ...] to [L, B, C, ...], padded to whole chunks."""
        x = widened(x)
        missing = -self.length % self.size
        if missing:
            shape = (x.shape[0], self.length + missing, *x.shape[2:])
            padded = x.tape.fresh(shape, item=x.item, gradient=wants(x))
            gives = [(x, x.size)] if wants(x) else []
            x.tape.op("pad", reads=[x], makes=[padded], gives=gives)
            x = padded
        return x.unflatten(1, (-1, self.size)).transpose(0, 1)

    def heads(self, x: Value) -> Value:
        """[B, T, H, N] to [L, B, H, C, N]."""
        return self.cut(x).transpose(2, 3).contiguous()

    def values(self, x: Value) -> Value:
        """[B, T, H, P] to [L, B, G, C, R, P]."""
        return self.cut(x).unflatten(3, (self.groups, -1)).transpose(2, 3).contiguous()

    def scalars(self, x: Value) -> Value:
        """[B, T, H] to [L, B, G, R, C]."""
        return self.cut(x).unflatten(3, (self.groups, -1)).permute(0, 1, 3, 4, 2).contiguous()

    def joined(self, x: Value) -> Value:
        """Back to [B, T, H, P]."""
        whole = x.permute(1, 0, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return first(whole, self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Borders:
    """Masks of packed rows, as `vitruvius.nn.ops.recurrence.chunks.Borders`."""

    pairs: Value
    enters: Value
    leaves: Value
    passes: Value

    @classmethod
    def of(cls, x: Value, chunks: _Chunks) -> _Borders | None:
        """Those of rows [B, T, ...] in at least fp32; None where no documents are packed."""
        tape, item = x.tape, max(x.item, x.tape.work.wide_bytes)
        if tape.work.documents != "separate":
            return None
        length, size = -(-chunks.length // chunks.size), chunks.size
        row = (length, x.shape[0], 1)
        shapes = ((*row, size, size), (*row, size), (*row, size), row)
        pairs, enters, leaves, passes = (tape.fresh(shape, item=item, gradient=False) for shape in shapes)
        # Numbers of documents, 8 bytes each, and what is compared before it becomes a mask.
        tape.op(
            "borders", makes=[pairs, enters, leaves, passes], forward=pairs.size // item * (1 + 16 // size), gives=[]
        )
        tape.hold(pairs, enters, leaves, passes)
        return cls(pairs=pairs, enters=enters, leaves=leaves, passes=passes)

    def inside(self, scores: Sequence[Value]) -> list[Value]:
        """Scores [L, B, H, C, C] of tokens of one document; the others are let go of when all are there."""
        with self.pairs.tape.call():
            self.pairs.tape.hold(*scores)
            return [times(score, self.pairs) for score in scores]


def _exp(log_decay: Value) -> Value:
    return unary("exp", unary("clamp", log_decay, "input"), "output")


def _difference(one: Value, other: Value) -> Value:
    made = made_like(one if one.size >= other.size else other, gradient=wants(one, other))
    gives = [(x, x.size) for x in (one, other) if wants(x)]
    one.tape.op("difference", reads=[one, other], makes=[made], gives=gives)
    return made


def _seen(x: Value) -> Value:
    """A view that collects its gradient by itself, as each view of torch does."""
    view = x.tape.same(x)
    x.tape.op("view", reads=[x], makes=[view], gives=[(x, "same")])
    return view


def _end(x: Value, axis: int) -> Value:
    """The last of an axis, of size 1."""
    axis %= len(x.shape)
    return split(x, (1,), axis)[0] if x.shape[axis] > 1 else x


# ----------------------------------------------------------------------------------------------------------------------
# Recurrences with a matrix for a state


def gated_delta(q: Value, k: Value, v: Value, *, log_decay: Value, beta: Value | None = None) -> Value:
    """Outputs [B, T, H, P] of `gated_delta` from q, k [B, T, G, N] and v [B, T, H, P].

    log_decay: [B, T, H], or [B, T, H, N] for a decay of each channel; without a gradient where it is constant.
    """
    tape, by_channel = v.tape, len(log_decay.shape) == 4
    if _is_one_step(v):
        return _step(v, k.shape[-1])
    chunks = _Chunks(length=v.shape[1], size=chunk_length(v.shape[1]), groups=k.shape[2])
    with tape.call():
        edges = _Borders.of(v, chunks)
        v = widened(v)
        tape.hold(v)
        q, k, v = chunks.heads(q), chunks.heads(k), chunks.values(v)
        beta = None if beta is None else chunks.scalars(beta)
        g = unary("cumsum", chunks.heads(log_decay) if by_channel else chunks.scalars(log_decay))
        start = tape.fresh((*q.shape[1:3], q.shape[4], *v.shape[4:]), item=q.item, gradient=False)
        tape.op("zeros", makes=[start], gives=[])
        tape.hold(q, k, v, g, start, *([] if beta is None else [beta]))
        out = (_by_channel if by_channel else _by_token)(q, k, v, g, beta, edges)
        tape.hold(out)
        return chunks.joined(out)


def _is_one_step(v: Value) -> bool:
    """Whether the state in a cache goes on by one token."""
    return v.tape.stored is not None and v.tape.stored.held > 0 and v.shape[1] == 1


def _step(v: Value, state: int) -> Value:
    """One token: the state decayed, what is added to it, and their sum exist beside the cache's own."""
    tape, (batch, _, heads, width) = v.tape, v.shape
    out = tape.fresh(v.shape, item=tape.work.wide_bytes)
    size = batch * heads * width * state * tape.work.wide_bytes
    tape.op("step", reads=[v], makes=[out], forward=3 * size, gives=[])
    return out


def _by_token(q: Value, k: Value, v: Value, g: Value, beta: Value | None, edges: _Borders | None) -> Value:
    tape = q.tape
    pairs = None if edges is None else edges.pairs
    with tape.call():
        end = _end(g, -1)
        enter, leave, passing = _exp(g), _exp(_difference(end, g)), _exp(end.squeeze(-1))
        if edges is not None:
            enter, leave = times(enter, edges.enters.unsqueeze(3)), times(leave, edges.leaves.unsqueeze(3))
            passing = times(passing, edges.passes.unsqueeze(3))
        tape.hold(enter, leave, passing)
        big = g.size * g.shape[-1]
        q_, k_ = q.flatten(1, 2), k.flatten(1, 2)
        if beta is None:
            attention = _scores_by_token([q], k, g, [None], big, pairs)[0]
            left = times(v, leave.transpose(3, 4).unsqueeze(-1)).flatten(1, 2)
            carried, last = _carry(q_, k_, left, passing)
            inside = matmul(attention, v.transpose(3, 4))
            tape.hold(attention, left, carried, last, inside)
        else:
            attention, system = _scores_by_token([q, k], k, g, [None, beta], big, pairs)
            tape.hold(attention, system)
            value = times(v, beta.transpose(3, 4).unsqueeze(-1)).flatten(1, 2)
            asked = times(enter, beta).transpose(3, 4).flatten(1, 2)
            carried, last, u = _correct(q_, k_, k_, value, system, passing, scales=[asked, leave])
            inside = matmul(attention, u)
            tape.hold(carried, last, u, inside)
        carried = carried.unflatten(1, v.shape[1:3])
        return total(times(carried, enter.transpose(3, 4).unsqueeze(-1)), inside.transpose(3, 4))


def _by_channel(q: Value, k: Value, v: Value, g: Value, beta: Value | None, edges: _Borders | None) -> Value:
    tape = q.tape
    with tape.call():
        end = _end(g, -2)
        enter, leave, passing = _exp(g), _exp(_difference(end, g)), _exp(end.squeeze(-2))
        if edges is not None:
            enter, leave = times(enter, edges.enters.unsqueeze(-1)), times(leave, edges.leaves.unsqueeze(-1))
            passing = times(passing, edges.passes.unsqueeze(-1))
        v_ = _seen(v).squeeze(4)
        left = times(k, leave).flatten(1, 2)
        tape.hold(enter, leave, passing, left)
        asked = times(q, enter).flatten(1, 2)
        tape.hold(asked)
        if beta is None:
            attention = _scores_by_channel([q], [None], [k], g)[0]
            (carried, last), values = _carry(asked, left, v.flatten(1, 2), passing), v_
        else:
            beta_ = beta.squeeze(3).unsqueeze(-1)
            scaled = times(k, beta_)
            tape.hold(scaled)
            attention, system = _scores_by_channel([q, scaled], [None, None], [k], g)
            system = system if edges is None else times(system, edges.pairs)
            tape.hold(system)
            read, value = times(scaled, enter).flatten(1, 2), times(v_, beta_).flatten(1, 2)
            carried, last, values = _correct(asked, read, left, value, system, passing)
        attention = attention if edges is None else times(attention, edges.pairs)
        tape.hold(carried, last, attention)
        carried = carried.unflatten(1, v.shape[1:3]).squeeze(4)
        return total(carried, matmul(attention, values)).unsqueeze(4)


def rank_one(q: Value, k: Value, v: Value, a: Value, b: Value, log_decay: Value) -> Value:
    """Outputs [B, T, H, P] of `diagonal_rank_one`, all inputs [B, T, H, N]."""
    tape = q.tape
    if _is_one_step(v):
        return _step(v, k.shape[-1])
    chunks = _Chunks(length=v.shape[1], size=chunk_length(v.shape[1]), groups=k.shape[2])
    with tape.call():
        edges = _Borders.of(v, chunks)
        v = widened(v)
        tape.hold(q, k, v, a, b, log_decay)
        q, k, a, b, w = (chunks.heads(x) for x in (q, k, a, b, log_decay))
        v = chunks.values(v)
        v_, g = _seen(v).squeeze(4), unary("cumsum", w)
        before = _difference(g, w)
        tape.hold(q, k, a, b, w, v, g, before)
        end = _end(g, -2)
        enter, leave, passing = _exp(g), _exp(_difference(end, g)), _exp(end.squeeze(-2))
        enter_a = _exp(before)
        if edges is not None:
            enters, leaves = edges.enters.unsqueeze(-1), edges.leaves.unsqueeze(-1)
            enter, enter_a, leave = times(enter, enters), times(enter_a, enters), times(leave, leaves)
            passing = times(passing, edges.passes.unsqueeze(-1))
        tape.hold(enter, leave, passing, enter_a)
        scores = _scores_by_channel([q, a], [None, before], [b, k], g)
        q_b, q_k, a_b, a_k = scores if edges is None else edges.inside(scores)
        tape.hold(q_b, q_k, a_b, a_k)
        asked = unary("negative", times(a, enter_a)).flatten(1, 2)
        query, key, value = times(q, enter).flatten(1, 2), times(b, leave).flatten(1, 2), matmul(a_k, v_).flatten(1, 2)
        system, more = unary("negative", a_b), times(k, leave).flatten(1, 2)
        carried, last, u = _correct(query, asked, key, value, system, passing, more=[more, v_])
        tape.hold(carried, last, u)
        carried = carried.unflatten(1, v.shape[1:3]).squeeze(4)
        out = total(total(carried, matmul(q_k, v_)), matmul(q_b, u))
        return chunks.joined(out.unsqueeze(4))


# ----------------------------------------------------------------------------------------------------------------------
# Kernels with a backward pass of their own


def _scores_by_token(
    rows: Sequence[Value], y: Value, g: Value, scales: Sequence[Value | None], big: int, pairs: Value | None
) -> list[Value]:
    """Scores [L, B, G, R, C, C]. One matrix of decays, and the products of one row, exist besides."""
    tape, size = y.tape, g.shape[-1]
    dots = big // g.shape[3]
    made = [tape.fresh((*g.shape, size), item=g.item) for _ in rows]
    inputs = [*rows, *(scale for scale in scales if scale is not None)]
    read = list(dict.fromkeys([y, g, *inputs]))
    gives = [(x, x.size) for x in (y, g, *inputs) if wants(x)]
    # Backward: the decays, and of each row what goes through them and what reaches the scores.
    extra = (3 if len(rows) == 1 else 4) * big + 2 * dots
    saves = [y, g, *inputs, *([] if pairs is None else [pairs])]
    tape.op("scores", reads=read, makes=made, saves=saves, forward=big + dots, gives=gives, backward=extra)
    return made


def _scores_by_channel(
    rows: Sequence[Value], tos: Sequence[Value | None], columns: Sequence[Value], g: Value
) -> list[Value]:
    """Scores [L, B, H, C, C], by halving: of the last half and of the next, factors and what they multiply exist."""
    tape, own = g.tape, [to for to in tos if to is not None]
    made = [tape.fresh((*g.shape[:-1], g.shape[-2]), item=g.item) for _ in rows for _ in columns]
    inputs = [g, *rows, *own, *columns]
    r, c, half = len(rows), len(columns), g.size // 2
    tape.op(
        "scores",
        reads=inputs,
        makes=made,
        saves=inputs,
        forward=(2 * r + c + 5) * half if g.shape[-2] > 1 else 0,
        gives=[(x, x.size) for x in inputs],
        backward=(2 * (r - len(own)) + 2 + r + c + 2) * half,
    )
    return made


def _state(key: Value, value: Value) -> int:
    """Bytes of one state."""
    return key.shape[1] * key.shape[-1] * value.shape[-2] * value.shape[-1] * key.item


def _carry(query: Value, key: Value, value: Value, decay: Value) -> tuple[Value, Value]:
    """What queries read, [L, Z, C, R, P], and the last state; a state is kept for each chunk, and one more."""
    tape, state = query.tape, _state(key, value)
    read = tape.fresh(value.shape, item=value.item)
    states = tape.fresh((value.shape[0] + 1, state), item=1, gradient=False)
    last = tape.fresh((state,), item=1, gradient=False)
    inputs = [query, key, value, decay]
    tape.op(
        "carry",
        reads=inputs,
        makes=[read, states, last],
        saves=[*inputs, states],
        gives=[(x, x.size) for x in inputs if wants(x)],
        backward=3 * state,
    )
    return read, last


def _correct(
    query: Value,
    asked: Value,
    key: Value,
    value: Value,
    system: Value,
    decay: Value,
    *,
    scales: Sequence[Value] = (),
    more: Sequence[Value] = (),
) -> tuple[Value, Value, Value]:
    """What queries read [L, Z, C, R, P], the last state, and the corrected values [L, Z, R, C, P]."""
    tape = query.tape
    value = value if len(value.shape) == 5 else value.unsqueeze(3)
    length, _, size, heads, width = value.shape
    state = _state(key, value)
    read = tape.fresh(value.shape, item=value.item)
    answer = tape.fresh(value.shape, item=value.item, gradient=False)
    u = tape.fresh((length, value.shape[1], heads, size, width), item=value.item)
    inverse = tape.fresh(system.shape, item=system.item, gradient=False)
    states = tape.fresh((length + 1, state), item=1, gradient=False)
    last = tape.fresh((state,), item=1, gradient=False)
    inputs = [query, asked, key, value, system, decay, *scales, *more]
    kept = [query, asked, key, decay, *scales, *more, inverse, states, answer, u]
    tape.op(
        "correct",
        reads=inputs,
        makes=[read, u, answer, inverse, states, last],
        saves=kept,
        forward=(1 + (length > 1) + bool(scales) + (heads > 1)) * value.size // length,
        gives=[(x, x.size) for x in dict.fromkeys(inputs) if wants(x)],
        backward=read.size + 2 * state + max(4 * value.size // length, value.size if scales else 0),
    )
    return read, last, u


# ----------------------------------------------------------------------------------------------------------------------
# The selective scan


def selective_scan(x: Value, dt: Value, inward: Value, outward: Value) -> Value:
    """Outputs [B, T, D] of `selective_scan` with a skip, from x, dt [B, T, D], and the paper's B and C [B, T, N]."""
    tape, (batch, length, inner) = x.tape, x.shape
    numbers = inner * inward.shape[-1]
    with tape.call():
        rates = exp_of_weight(tape, numbers)
        if _is_one_step(x):
            return _step(x.unsqueeze(2), inward.shape[-1]).squeeze(2)
        x, dt, inward, outward = (widened(part) for part in (x, dt, inward, outward))
        tape.hold(rates, x, dt, inward, outward)
        v = times(x, dt)
        start = tape.fresh((batch * numbers,), item=x.item, gradient=False)
        tape.op("zeros", makes=[start], gives=[])
        tape.hold(start)
        product = v
        v, dt, inward, outward = (part.transpose(0, 1).contiguous() for part in (v, dt, inward, outward))
        size = piece_length(length, batch * numbers)
        pieces = -(-length // size)
        ends = length - (pieces - 1) * size
        y = made_like(v)
        starts = tape.fresh((pieces, batch * numbers), item=x.item, gradient=False)
        state = batch * numbers * x.item
        kept = [v, dt, rates, inward, outward, starts]
        tape.op(
            "scan",
            reads=[v, dt, inward, outward, product],
            makes=[y, starts],
            saves=kept,
            # Names hold decays and states of one piece, going back gradients too, until the next has its own.
            forward=max(3 * size, (2 * size + 3 * (size if pieces > 2 else ends)) * (pieces > 1)) * state,
            gives=[(part, part.size) for part in (v, dt, inward, outward)],
            weights=numbers * tape.work.value_bytes,
            backward=max(4 * size * state + y.size, 3 * ((size if pieces > 2 else ends) + size) * state * (pieces > 1))
            + (y.size if batch > 1 else 0)
            + 2 * state,
        )
        y = y.transpose(0, 1)
        return total(y, by_weight(x, inner, copy=wide_weight(tape, inner)))
