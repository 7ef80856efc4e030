"""Attention over keys that every later token has mapped, on a tape, as `vitruvius.nn.positions.path` computes it.

The letters are those of `vitruvius.nn.positions.path_scores`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.patterns.blocks import BLOCK
from vitruvius.patterns.segments import segments
from vitruvius.spec.tracing.attending_cope import grouped_scores, masked, weighted_sum
from vitruvius.spec.tracing.linear_parts import difference
from vitruvius.spec.tracing.tape import REPACKED, Tape
from vitruvius.spec.tracing.tape_ops import cut, joined, made_like, matmul, split, times, total, unary, wants, widened

if TYPE_CHECKING:
    from vitruvius.patterns import Pattern
    from vitruvius.spec.tracing.attending_stored import Stored
    from vitruvius.spec.tracing.replay import Replay
    from vitruvius.spec.tracing.tape import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """What the map of each token is made of."""

    w: Value
    """Unit vectors [B, G, T, K], in at least fp32."""
    beta: Value
    """How much of it keys lose, [B, G, T]."""
    decay: Value | None
    """Sums of log forget gates [B, H, T]."""


def attend_path(q: Value, k: Value, v: Value, maps: Maps, *, pattern: Pattern) -> Value:
    """[B, H, T, V]; of several chunks all but inputs, and what chunks are made of, is computed again going back."""
    tape = q.tape
    with tape.call():
        q, k = widened(q), widened(k)
        tape.hold(q, k, v, maps.w, maps.beta, *([] if maps.decay is None else [maps.decay]))
        if tape.stored is not None and tape.stored.held:
            return _stored(q, k, v, maps, tape.stored)
        if q.shape[2] > BLOCK:
            return _chunked(q, k, v, maps, pattern)
        inner = _prepared(k, maps.w, maps.beta)
        tape.hold(*inner)
        own = [cut(_alone(part), 2, 1).squeeze(2) for part in inner]
        out = _attended(q, own, [], [v], maps.decay)
        return joined([out], axis=2)


def _alone(x: Value) -> Value:
    """A view whose gradient is joined with those of the others of its kind."""
    view = x.tape.same(x)
    x.tape.op("unbind", reads=[x], makes=[view], gives=[(x, x.size)])
    return view


def _padded(x: Value, length: int) -> Value:
    """Filled up to a length: a copy even where it is that long already."""
    tape = x.tape
    if x.shape[2] == length:
        made = made_like(x, gradient=wants(x))
    else:
        made = tape.fresh((*x.shape[:2], length, *x.shape[3:]), item=x.item, gradient=wants(x))
    tape.op("pad", reads=[x], makes=[made], gives=[(x, x.size)] if wants(x) else [])
    return made


def _prepared(k: Value, w: Value, beta: Value) -> list[Value]:
    """W, Z, U and keys: [B, G, chunks, ...]."""
    tape, length, width = k.tape, k.shape[2], k.shape[-1]
    size = min(BLOCK, length)
    whole = -(-length // size) * size
    with tape.call():
        k, w = (_padded(x, whole).unflatten(2, (-1, size)) for x in (k, w))
        tape.hold(k, w)
        scaled = times(_padded(beta, whole).unflatten(2, (-1, size)).unsqueeze(-1), w)
        tape.hold(scaled)
        lower = matmul(scaled, w.transpose(-1, -2))
        tape.hold(lower)
        right = joined([scaled, unary("tril", matmul(scaled, k.transpose(-1, -2)))])
        tape.hold(right)
        solved = tape.fresh(right.shape, item=right.item)
        tape.op("solve", reads=[lower, right], makes=[solved], saves=[lower, solved], backward=solved.size + lower.size)
        tape.hold(solved)
        z, u = split(solved, [width, size])
        return [w, z, u, k]


def _moved(w: Value, z: Value, u: Value, k: Value) -> list[Value]:
    """P, and keys at the end of their chunk."""
    product = matmul(w.transpose(-1, -2), z)
    p = made_like(product)
    w.tape.op("difference", reads=[product], makes=[p])
    return [p, difference(k, matmul(u.transpose(-1, -2), w))]


def _attended(
    q: Value,
    own: list[Value],
    earlier: list[tuple[Value, Value]],
    values: list[Value],
    decay: Value | None,
    before: Value | None = None,
) -> Value:
    """One chunk's queries. earlier: keys at the end and map of each chunk before; `before`: keys from a cache."""
    tape = q.tape
    w, z, u, k = own
    with tape.call():
        tape.hold(q)
        back = unary("tril", grouped_scores(q, w))
        tape.hold(back)
        scores = [difference(grouped_scores(q, k), weighted_sum(back, u))]
        tape.hold(*scores)
        if earlier:
            q = difference(q, weighted_sum(back, z))
            tape.hold(q)
        for step in earlier:
            scores.append(grouped_scores(q, step[0]))
            q = weighted_sum(q, step[1])
            tape.hold(scores[-1])
        if before is not None:
            scores.append(grouped_scores(q, before))
            tape.hold(scores[-1])
        logits = [_masked(part, decay) for part in scores]
        tape.hold(*logits)
        together = joined([values[0]] * 1 if len(values) == 1 else values, axis=2)
        return weighted_sum(unary("softmax", joined(logits), "output"), together)


def _masked(products: Value, decay: Value | None) -> Value:
    """Scaled products, with the decay between query and key."""
    tape = products.tape
    scores = tape.scaled(products)
    if decay is not None:
        between = tape.fresh(scores.shape, item=decay.item, gradient=wants(decay))
        gives = [(decay, decay.size)]
        tape.op("decay", reads=[decay], makes=[between], gives=gives, backward=decay.size)
        scores = total(scores, between)
    mask = tape.fresh(scores.shape[-2:], item=1, gradient=False)
    tape.op("visible", makes=[mask], forward=12 * mask.size, gives=[])
    made = masked(scores, scores.shape[-1])
    tape.op("seen", reads=[mask], gives=[])
    return made


def _chunked(q: Value, k: Value, v: Value, maps: Maps, pattern: Pattern) -> Value:
    """A chunk of queries after another: what chunks are made of stays, the rest is computed again."""
    tape, (batch, heads, length, width) = q.tape, q.shape
    groups, chunks = k.shape[1], -(-length // BLOCK)
    rows = [(batch, groups, chunks, BLOCK, width), (batch, groups, chunks, BLOCK, width + BLOCK)]
    first = Tape(tape.work)
    given = [first.given(name, x.shape, item=x.item) for name, x in (("k", k), ("w", maps.w), ("beta", maps.beta))]
    prepared = _prepared(*given)
    done = first.fresh((1,))
    first.op("done", reads=[*prepared, *_moved(*prepared)], makes=[done])
    before = first.replay(done)
    kept = [tape.fresh(shape, item=q.item) for shape in (rows[0], rows[1], rows[0], rows[0])]
    kept.append(tape.fresh((batch, groups, chunks, width, width), item=q.item))
    made = sum(x.size for x in kept)
    inputs = [k, maps.w, maps.beta]
    tape.op(
        "chunks",
        reads=inputs,
        makes=kept,
        saves=inputs,
        forward=max(0, before.alone - made),
        gives=[(x, x.size) for x in inputs],
        backward=max(before.forward, before.backward) - made,
    )
    tape.hold(*kept)
    sizes = [(min(BLOCK, length - i * BLOCK), _needed(pattern, i, length)) for i in range(chunks)]
    queries, needed = max(sizes, key=lambda size: size[0] * (size[0] + size[1] * BLOCK))
    part = _part(tape, q, k, v, queries, needed, decayed=maps.decay is not None)
    out = tape.fresh((batch, heads, length, v.shape[-1]), item=v.item)
    reads = [q, v, *kept, *([] if maps.decay is None else [maps.decay])]
    tape.op(
        "chunks of queries",
        reads=reads,
        makes=[out],
        saves=reads,
        forward=max(part.alone, out.size),
        gives=[(x, x.size) for x in reads],
        backward=max(part.forward, part.backward),
    )
    return out


def _stored(q: Value, k: Value, v: Value, maps: Maps, stored: Stored) -> Value:
    """One token maps the keys of the cache where they lie; several are read in chunks beside a copy of those keys."""
    tape, (batch, heads, length, width) = q.tape, q.shape
    assert stored.plan is not None
    groups, slots, decayed = k.shape[1], stored.used(stored.held), maps.decay is not None
    out = tape.fresh((batch, length, heads, v.shape[-1]), item=v.item)
    if length == 1:
        keys = stored.used(stored.held + 1)
        along = batch * groups * keys * q.item
        copied = batch * groups * keys * v.shape[-1] * v.item if v.item < q.item else 0  # bf16 wants values in order
        copied += min(copied, REPACKED)
        high = max(2 * along, batch * heads * keys * ((4 if decayed else 3) * q.item + v.item) + copied)
        tape.op("one step", reads=[q], makes=[out], forward=high, gives=[])
        return out.transpose(1, 2)
    chunks = -(-length // BLOCK)
    rows = batch * groups * chunks * min(BLOCK, length)
    kept = (rows * (4 * width + min(BLOCK, length)) + batch * groups * chunks * width**2) * q.item
    copied = batch * groups * slots * width * q.item
    beside = 0
    if stored.plan.archives or stored.held + length > stored.plan.ring:
        beside = batch * groups * (slots + length) * (width * q.item + v.shape[-1] * v.item)
    part = _part(tape, q, k, v, min(BLOCK, length), chunks - 1, decayed=decayed, before=slots)
    tape.op("chunks of queries", reads=[q], makes=[out], forward=kept + copied + beside + part.alone, gives=[])
    return out.transpose(1, 2)


def _needed(pattern: Pattern, chunk: int, length: int) -> int:
    """Earlier chunks between a chunk of queries and the farthest key that one of them sees."""
    start = chunk * BLOCK
    runs = segments(pattern, start, min(start + BLOCK, length), length)
    return chunk - min(chunk, *(run.start // BLOCK for run in runs))


def _part(
    tape: Tape, q: Value, k: Value, v: Value, queries: int, needed: int, *, decayed: bool, before: int = 0
) -> Replay:
    """The replay of one chunk of queries over its own keys, those of `needed` chunks, and `before` in a cache."""
    inner = Tape(tape.work)
    batch, heads, groups, width = q.shape[0], q.shape[1], k.shape[1], q.shape[-1]

    def given(name: str, *shape: int, item: int = q.item) -> Value:
        return inner.given(name, shape, item=item)

    own = [given(name, batch, groups, queries, width) for name in ("w", "z")]
    own += [given("u", batch, groups, queries, queries), given("own k", batch, groups, queries, width)]
    earlier: list[tuple[Value, Value]] = [
        (given(f"k {i}", batch, groups, BLOCK, width), given(f"p {i}", batch, groups, width, width))
        for i in range(needed)
    ]
    lengths = [*[BLOCK] * needed, queries, *([before] if before else [])]
    values = [given(f"v {i}", batch, groups, n, v.shape[-1], item=v.item) for i, n in enumerate(lengths)]
    decay = given("decay", batch, heads, queries) if decayed else None
    stored = given("before", batch, groups, before, width) if before else None
    return inner.replay(_attended(given("q", batch, heads, queries, width), own, earlier, values, decay, stored))
