"""The map to the vocabulary and its cross-entropy on a tape: in chunks as `vitruvius.nn` does, or of all logits."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.tracing.tape import repacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.costs import TensorSpec, Work
    from vitruvius.spec.scope import Scope
    from vitruvius.spec.tracing.tape import Tape, Value

CHUNK_LOGITS = 1 << 24
"""Logits held at a time; `vitruvius.nn.ops.cross_entropy` says why."""
WIDE = 1 << 17
"""Probabilities at a time that are computed in fp32 with a z-loss, where the model's format is narrower."""
FOLD = {"bf16": 4096, "fp16": 512}
"""Rows whose part of the weight's gradient is summed before it is added to an fp32 sum, by narrow format."""

Loss = Literal["chunked", "whole"]


class Losing:
    """Base of heads: how their loss stands on a tape."""

    __slots__ = ()

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """Parameter tensors by name."""
        raise NotImplementedError

    def outputs(self, scope: Scope) -> int:
        """Numbers in each row of what the head returns."""
        raise NotImplementedError

    def trace_loss(self, tape: Tape, h: Value, scope: Scope, *, loss: Loss) -> Value:
        """Write on a tape what its loss does to the last residual stream [N, D], and give the scalar.

        By default the cross-entropy of one map, and unsure of as much as that map reads.
        """
        tape.unsure += h.size
        weights = sum(tensor.count for tensor in self.tensors(scope).values()) * h.item
        return cross_entropy(tape, h, self.outputs(scope), loss=loss, softcap=False, weights=weights)


def cross_entropy(
    tape: Tape, h: Value, vocabulary: int, *, loss: Loss, softcap: bool, weights: int, table: Value | None = None
) -> Value:
    """A mean loss from vectors [N, D].

    weights: bytes of the gradient of the map, where that is a parameter. table: the map, where it was made for this.
    """
    if loss == "whole":
        return _whole(tape, h, vocabulary, softcap=softcap, weights=weights)
    return _chunked(tape, h, vocabulary, softcap=softcap, weights=weights, table=table)


def _chunked(tape: Tape, h: Value, vocabulary: int, *, softcap: bool, weights: int, table: Value | None) -> Value:
    """`linear_cross_entropy`: makes the gradients of vectors and map in the forward pass, and keeps them."""
    rows, width = prod(h.shape[:-1]), h.shape[-1]
    wide = max(4, h.item)
    sweep = _sweep(rows, vocabulary, width, h.item, tape.work, is_capped=softcap)
    sweep += rows * wide if tape.work.z_loss == "added" else 0  # the log-sum-exp of each token
    of_map = vocabulary * width * h.item
    d_h, d_map = tape.fresh(h.shape, gradient=False), tape.fresh((of_map,), item=1, gradient=False)
    made = [d_h] if tape.work.weights == "frozen" else [d_h, d_map]
    total = tape.fresh((), item=wide)
    count = tape.fresh((), item=8, gradient=False)
    tape.op(
        "cross-entropy",
        reads=[h] if table is None else [h, table],
        makes=[total, *made],
        saves=made,
        forward=sweep + 2 * rows * wide,
        weights=weights,
    )
    mean = tape.fresh((), item=wide)
    tape.op("mean", reads=[total, count], makes=[mean, count], saves=[count], gives=[(total, wide)])
    return mean


def _sweep(rows: int, vocabulary: int, width: int, item: int, work: Work, *, is_capped: bool) -> int:
    """The most that a sweep over chunks holds besides the gradients it returns."""
    wide, fold = max(4, item), FOLD[work.half]
    chunk = max(1, CHUNK_LOGITS // vocabulary)
    of_map, folded = vocabulary * width * item, vocabulary * width * wide
    cast = folded if item < wide else 0
    packed = repacked(of_map, work) if item < wide else 0
    if work.z_loss == "added" and item < wide:
        # Of a few rows the softmax once more: the logits in fp32, and the probabilities.
        packed = max(packed, 2 * wide * vocabulary * min(rows, chunk, max(1, WIDE // vocabulary)))
    buffer = min(chunk, rows) * vocabulary * item
    high, before, summed, sums = 0, 0, 0, 0
    # After three sums nothing new happens.
    for start in range(0, min(rows, chunk * (3 * -(-fold // chunk) + 2)), chunk):
        size = min(chunk, rows - start)
        chances = size * vocabulary * item
        capped = chances if is_capped else 0
        # The buffer of logits, the probabilities, and those of the chunk before while a name holds them.
        high = max(high, sums + buffer + capped + before + chances)
        if summed >= fold:
            high = max(high, buffer + capped + chances + folded + (cast if sums else 0))
            sums, summed = folded, 0
        high = max(high, sums + buffer + capped + chances + packed)
        summed, before = summed + size, chances
    return max(high, sums + max(cast, of_map if cast else 0) if sums else 0)


def _whole(tape: Tape, h: Value, vocabulary: int, *, softcap: bool, weights: int) -> Value:
    """All logits at once, in fp32 before the softmax, as most trainers do: keeps the vectors and log-probabilities."""
    wide = max(4, h.item)
    with tape.call():
        logits = tape.fresh((*h.shape[:-1], vocabulary))
        tape.hold(logits)
        tape.op("logits", reads=[h], makes=[logits], saves=[h], weights=weights)
        if softcap:
            tanh = tape.like(logits)
            tape.op("tanh", reads=[tape.scaled(logits)], makes=[tanh], saves=[tanh])
            logits = tape.scaled(tanh)
            tape.hold(logits)
        if logits.item < wide:
            cast = tape.like(logits, item=wide)
            tape.op("cast", reads=[logits], makes=[cast])
            logits = cast
            tape.hold(logits)
        ids = tape.constant("targets", 8 * prod(h.shape[:-1]))
        logs = tape.like(logits)
        tape.op("log-softmax", reads=[logits], makes=[logs], saves=[logs])
        mean = tape.fresh((), item=wide)
        tape.op("loss", reads=[logs, ids], makes=[mean], saves=[logs, ids], gives=[(logs, logs.size)])
        return mean
