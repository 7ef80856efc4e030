"""What choosing experts, and sending tokens to them, does to memory, as `vitruvius.nn.routers` and `.ffn.moe` do it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, erfc, sqrt
from typing import TYPE_CHECKING

from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.tracing.tape_ops import converted, times, total, unary, wants

if TYPE_CHECKING:
    from vitruvius.spec.ffn.moe import Moe
    from vitruvius.spec.scope import Scope
    from vitruvius.spec.tracing.tape import Tape, Value

ROWS = 32
"""On CPUs, bf16 products are compiled for each number of rows; rounding runs up to this lets them be reused."""
ALIGNMENT = 16
"""Bytes that torch's grouped product wants rows to be a multiple of."""

NOISE_COPIES = 3
"""Of all bits at the highest moment of drawing noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What a router gives: which experts work on which token, and what their results weigh."""

    chosen: Value
    """Ids [N, K], int64."""
    weights: Value
    """[N, K], in at least fp32."""
    kept: Value | None = None
    """Which of these pairs are computed, a byte each; None is all of them."""


def noise(tape: Tape, scores: Value) -> None:
    """Draws added in place: bits and the numbers made of them, a few copies of int64 [N, E]."""
    tape.op("noise", reads=[scores], makes=[], forward=NOISE_COPIES * 8 * scores.size // scores.item, gives=[])


def largest(tape: Tape, values: Value, top_k: int) -> Value:
    """Ids [N, K] of the largest in each row."""
    chosen = tape.fresh((values.shape[0], top_k), item=8, gradient=False)
    found = chosen.size // 8 * values.item
    tape.op("top-k", reads=[values], makes=[chosen], forward=found, gives=[])
    return chosen


def gathered(values: Value, chosen: Value) -> Value:
    """The values [N, K] of the chosen: keeps both."""
    made = values.tape.fresh(chosen.shape, item=values.item)
    values.tape.op(
        "gather", reads=[values, chosen], makes=[made], saves=[values, chosen], gives=[(values, values.size)]
    )
    return made


def row_sums(values: Value, *, least: bool = False) -> Value:
    """The sum of each row [N, 1]; `least` for one to which a constant is added."""
    made = values.tape.fresh((values.shape[0], 1), item=values.item)
    values.tape.op("sum", reads=[values], makes=[made])
    return unary("add", made) if least else made


def divided(values: Value, sums: Value) -> Value:
    """Each row by its sum: keeps both."""
    made = values.tape.fresh(values.shape, item=values.item)
    values.tape.op("divide", reads=[values, sums], makes=[made], saves=[values, sums], backward=2 * made.size)
    return made


def balance_loss(tape: Tape, probabilities: Value) -> None:
    """The Switch loss: keeps the share of the load of each expert, fp32."""
    share = tape.fresh((probabilities.shape[1],), item=probabilities.item, gradient=False)
    loss = tape.fresh((), item=probabilities.item)
    gives = [(probabilities, probabilities.size)]
    tape.op("balance loss", reads=[probabilities], makes=[loss, share], saves=[share], gives=gives)


def z_loss(tape: Tape, scores_: Value) -> None:
    """The squared log-sum-exp: keeps the scores and the log-sum-exp."""
    sums = tape.fresh((scores_.shape[0],), item=scores_.item)
    tape.op("log-sum-exp", reads=[scores_], makes=[sums], saves=[scores_, sums], gives=[(scores_, scores_.size)])
    tape.op("square", reads=[sums], makes=[tape.fresh((), item=scores_.item)], saves=[sums])


# ----------------------------------------------------------------------------------------------------------------------
# A mixture


def trace_mixture(tape: Tape, moe: Moe, x: Value, scope: Scope) -> Value:
    """Each token through its experts, weighted, and through the shared expert when there is one.

    How loads fall is not known beforehand. It changes nothing where runs are not rounded up and no token is dropped;
    elsewhere the middle of what can be is taken, and the rest is uncertain.
    """
    with tape.call():
        flat = x.reshape(-1, x.shape[-1])
        routed = moe.router.trace_routed(tape, flat, experts=moe.experts, top_k=moe.top_k)
        if moe.capacity is not None and tape.stored is None:
            routed = _within_capacity(tape, routed)
        tape.hold(routed.chosen, routed.weights)
        out = (_mix if routed.kept is None else _mix_kept)(tape, moe, flat, routed, scope)
        out = out.unflatten(0, x.shape[:2])
        if moe.shared_expert is None:
            return out
        tape.hold(out)
        shared = moe.shared_expert.trace(tape, x, scope)
        if moe.shared_gate == "sigmoid":
            tape.hold(shared)
            shared = times(unary("sigmoid", tape.linear(x, [1])[0], "output"), shared)
        return total(out, shared)


def _within_capacity(tape: Tape, routed: Routed) -> Routed:
    kept = tape.fresh(routed.chosen.shape, item=1, gradient=False)
    tape.op("capacity", reads=[routed.chosen], makes=[kept], forward=5 * routed.chosen.size, gives=[])
    return Routed(chosen=routed.chosen, weights=routed.weights, kept=kept)


def _mix(tape: Tape, moe: Moe, x: Value, routed: Routed, scope: Scope) -> Value:
    tokens, top_k = routed.chosen.shape
    rows, spread = _rows(tape, tokens * top_k, tokens * top_k, moe.experts)
    width = x.shape[-1]
    with tape.call():
        pair, token, row = _runs(tape, rows, tokens * top_k)
        tape.hold(pair, token, row)
        before = len(tape.ops)
        sent = tape.fresh((rows, width), item=x.item)
        tape.op("dispatch", reads=[x, token, row], makes=[sent], saves=[row], gives=[(x, x.size)], backward=x.size)
        y = _experts(tape, moe, sent, scope)
        tape.hold(y)
        out = tape.fresh((tokens, width), item=x.item)
        weights, more = routed.weights, out.size if top_k > 1 else 0
        tape.op(
            "combine",
            reads=[y, weights, token, row],
            makes=[out],
            saves=[y, weights, token, row],
            forward=max(out.size, more),
            gives=[(y, y.size), (weights, weights.size)],
            # Products are summed in at least fp32, in a copy where they are narrower.
            backward=y.size + (y.size // y.item * weights.item if y.item < weights.item else rows * weights.item),
        )
        _uncertain(tape, before, rows, spread)
        return out


def _mix_kept(tape: Tape, moe: Moe, x: Value, routed: Routed, scope: Scope) -> Value:
    """Where some pairs are left out, tokens have different numbers of rows."""
    width, work = x.shape[-1], tape.work
    tokens = x.shape[0]
    if moe.router.chooses == "tokens":
        share = min(work.tokens, ceil(work.tokens * moe.top_k / moe.experts)) * work.batch
        pairs = least = share * moe.experts
        rows = -(-share // _multiple(tape)) * _multiple(tape) * moe.experts
        spread = 0
    else:
        most = ceil((moe.capacity or 1) * tokens * moe.top_k / moe.experts)
        pairs = min(tokens * moe.top_k, most * moe.experts)
        least = min(pairs, moe.top_k * most)
        rows, spread = _rows(tape, least, pairs, moe.experts)
        pairs = min(pairs, rows)
    with tape.call():
        found = tape.fresh((pairs, 2), item=8, gradient=False)
        tape.op("found", reads=[routed.chosen], makes=[found], gives=[])
        pair, token, row = _runs(tape, rows, pairs)
        tape.hold(found, pair, row)
        before = len(tape.ops)
        sent = tape.fresh((rows, width), item=x.item)
        tape.op("dispatch", reads=[x, token], makes=[sent], saves=[token], gives=[(x, x.size)])
        tape.hold(sent)
        y = _experts(tape, moe, sent, scope)
        picked = tape.fresh((pairs, width), item=x.item)
        tape.op("pick", reads=[y, row], makes=[picked], saves=[row], gives=[(y, y.size)])
        tape.hold(picked)
        weights = tape.fresh((pairs, 1), item=routed.weights.item, gradient=wants(routed.weights))
        tape.op(
            "weigh",
            reads=[routed.weights, found],
            makes=[weights],
            saves=[found] if wants(routed.weights) else [],
            gives=[(routed.weights, routed.weights.size)] if wants(routed.weights) else [],
        )
        weights = converted(weights, x.item)
        tape.hold(weights)
        weighed = times(picked, weights)
        zeros, out = (tape.fresh((tokens, width), item=x.item) for _ in range(2))
        tape.op(
            "sum",
            reads=[weighed, found],
            makes=[out],
            saves=[found, weighed],
            forward=zeros.size,
            gives=[(weighed, weighed.size)],
        )
        _uncertain(tape, before, rows, spread)
        return out


def _multiple(tape: Tape) -> int:
    """What runs are rounded up to: on CPUs in bf16."""
    return ROWS if tape.work.value_bytes == 2 else 1


def _rows(tape: Tape, least: int, most: int, experts: int) -> tuple[int, int]:
    """Rows of all runs of `least` to `most` pairs, and how far they may be off."""
    multiple = _multiple(tape)
    if multiple == 1:
        return most, most - least
    low, high = -(-least // multiple) * multiple, most + min(experts, most) * (multiple - 1)
    likely = round(experts * _likely_run(most / experts, multiple) / multiple) * multiple
    rows = min(max(likely, -(-most // multiple) * multiple), high)
    return rows, max(high - rows, rows - low)


def _likely_run(mean: float, multiple: int) -> float:
    """Rows of a run that is rounded up, when the loads of experts scatter by a third as those of a young router do."""
    scatter = max(sqrt(mean), mean / 3)
    if scatter > 2 * multiple:
        return mean + (multiple - 1) / 2
    steps = range(0, int(mean + 6 * scatter) + 1, multiple)
    return multiple * sum(erfc((step + 0.5 - mean) / (scatter * sqrt(2))) / 2 for step in steps)


def _runs(tape: Tape, rows: int, pairs: int) -> tuple[Value, Value, Value]:
    """The pair and the token of each row, and the row of each pair, int64."""
    pair, token = (tape.fresh((rows,), item=8, gradient=False) for _ in range(2))
    row = tape.fresh((pairs,), item=8, gradient=False)
    tape.op("runs", makes=[pair, row], forward=4 * row.size, gives=[])
    tape.op("tokens", reads=[pair], makes=[token], gives=[])
    return pair, token, row


def _uncertain(tape: Tape, before: int, rows: int, spread: int) -> None:
    """Add what the operations since `before` would keep of rows that may be there or not."""
    kept = {storage: None for op in tape.ops[before:] for storage in op.saves if storage.key is None}
    tape.unsure += sum(storage.size for storage in kept if storage.size % rows == 0) * spread // max(rows, 1)


def _experts(tape: Tape, moe: Moe, x: Value, scope: Scope) -> Value:
    """Rows sorted by expert through their experts, [R, D] to [R, D]."""
    expert = moe.expert
    assert isinstance(expert, Mlp | Gated)
    biased = any(name.endswith("bias") for name in expert.tensors(scope))
    widths = {scope.width, *(tensor.shape[-1] for tensor in expert.tensors(scope).values())}
    fused = tape.work.value_bytes < 8 and all(n * tape.work.value_bytes % ALIGNMENT == 0 for n in widths)
    linear = _fused if fused else _grouped
    with tape.call():
        tape.hold(x)
        names = ["gate", "up"] if isinstance(expert, Gated) else ["up"]
        made = linear(tape, x, [expert.hidden] * len(names), moe.experts, biased=biased)
        if isinstance(expert, Gated):
            tape.hold(*made)
            activated, h = tape.fresh(made[0].shape, gradient=False), tape.like(made[0])
            tape.op("gated", reads=made, makes=[activated, h], saves=[*made, activated])
        elif expert.activation in {"relu", "relu2"}:
            h = unary("relu", made[0], "output")
            h = h if expert.activation == "relu" else unary("square", h, "input", backward=2 * h.size)
        else:
            h = unary(expert.activation, made[0], "input")
        tape.hold(h)
        return linear(tape, h, [scope.width], moe.experts, biased=biased)[0]


def _fused(tape: Tape, x: Value, outs: list[int], experts: int, *, biased: bool) -> list[Value]:
    """Torch's grouped product of each map: keeps the rows, where runs end, and with biases which expert each is of."""
    made: list[Value] = []
    with tape.call():
        ends = tape.fresh((experts,), item=4, gradient=False)
        tape.op("ends", makes=[ends], gives=[])
        for out in outs:
            y = tape.fresh((*x.shape[:-1], out))
            weights = experts * out * x.shape[-1] * tape.work.value_bytes
            tape.op("grouped", reads=[x, ends], makes=[y], saves=[x, ends], gives=[(x, x.size)], weights=weights)
            if biased:
                y = _with_biases(tape, y, experts)
            made.append(y)
    return made


def _with_biases(tape: Tape, y: Value, experts: int) -> Value:
    index, repeated = tape.fresh((y.shape[0],), item=8, gradient=False), tape.fresh(y.shape)
    weights = experts * y.shape[-1] * y.item
    tape.op("repeat", makes=[index, repeated], saves=[index], gives=[], weights=weights)
    return tape.add(y, repeated)


def _grouped(tape: Tape, x: Value, outs: list[int], experts: int, *, biased: bool) -> list[Value]:
    """Our own product: keeps the rows once, whatever the number of maps."""
    made = [tape.fresh((*x.shape[:-1], out)) for out in outs]
    count = sum(experts * out * (x.shape[-1] + bool(biased)) for out in outs)
    tape.op("grouped", reads=[x], makes=made, saves=[x], weights=count * tape.work.value_bytes)
    return made


__all__ = [
    "ALIGNMENT",
    "ROWS",
    "Routed",
    "balance_loss",
    "divided",
    "gathered",
    "largest",
    "row_sums",
    "trace_mixture",
    "z_loss",
]
