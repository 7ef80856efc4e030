"""What positions and norms do to memory, with the answers that fit most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.patterns import Pattern
    from vitruvius.spec.costs import TensorSpec
    from vitruvius.spec.scope import Heads, Scope
    from vitruvius.spec.tracing.attending import Scores
    from vitruvius.spec.tracing.tape import Tape, Value


class Placing:
    """Base of positions: how their hooks stand on a tape, see docs/adr/0014-activation-memory.md.

    The defaults are of positions that say nothing of it: they do what most do, and are unsure.
    """

    __slots__ = ()

    acts_on: ClassVar[Literal["embedding", "rotation", "scores"]]

    def trace_embedded(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """What a position on the embedding does to the stream [B, T, D]: by default it adds rows of its own."""
        del scope
        tape.unsure += x.size
        return added_rows(tape, x)

    def trace_turned(self, tape: Tape, q: Value, k: Value, x: Value, scope: Scope) -> tuple[Value, Value]:
        """What its hooks `rotate` and `turn` do to queries [B, H, T, K] and keys; `x` is the layer's input."""
        del x, scope
        if self.acts_on == "rotation":
            tape.unsure += q.size + k.size
        return q, k

    def trace_scores(self, tape: Tape, heads: Heads, x: Value, scope: Scope) -> Scores:
        """What its hooks `bias`, `table_bias` and `decay` ask of the scores."""
        del scope
        from vitruvius.spec.tracing.attending import Scores

        if self.acts_on != "scores":
            return Scores()
        tape.unsure += heads.queries * x.shape[0] * x.shape[1] * 2 * max(4, x.item)
        return Scores(bias=True)

    def trace_attended(
        self, tape: Tape, q: Value, k: Value, v: Value, x: Value, pattern: Pattern, scope: Scope
    ) -> Value:
        """What its hook `attend` does, [B, H, T, V]: by default as attention without positions, and unsure of it."""
        del x, scope
        from vitruvius.spec.tracing.attending import Scores, attend

        tape.unsure += q.size + k.size + v.size
        return attend(tape, q, k, v, pattern=pattern, scores=Scores())


def added_rows(tape: Tape, x: Value) -> Value:
    """The stream [B, T, D] with a row for each position, which is a constant."""
    rows = x.shape[-2] * x.shape[-1] * x.item
    y = tape.like(x)
    tape.op("positions", reads=[x], makes=[y], forward=rows, gives=[(x, "same")])
    return y


class Norming:
    """Base of norms: how they stand on a tape."""

    __slots__ = ()

    def tensors_of_width(self, width: int) -> Mapping[str, TensorSpec]:
        """Parameter tensors of a norm over vectors of `width`."""
        raise NotImplementedError

    def trace_normed(self, tape: Tape, x: Value) -> Value:
        """What it does to vectors [..., D]: by default it keeps them, and is unsure of as much again."""
        tape.unsure += x.size
        weights = sum(tensor.count for tensor in self.tensors_of_width(x.shape[-1]).values()) * x.item
        return tape.pointwise("norm", x, saves=[x], weights=weights)

    def trace_forked(self, tape: Tape, x: Value) -> tuple[Value, Value]:
        """What it does at the start of a residual branch: the stream goes on, and gets two gradients."""
        return x, self.trace_normed(tape, x)
