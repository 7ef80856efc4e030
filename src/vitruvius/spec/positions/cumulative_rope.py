"""Rotary positions whose clock runs as fast as the content lets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.node import Heads, Position, PositiveFloat, Scope, StateSpec, TensorSpec, register
from vitruvius.spec.schedulable import Schedulable, marks
from vitruvius.spec.tracing.linear_parts import wide_linear
from vitruvius.spec.tracing.running import rotated
from vitruvius.spec.tracing.tape_ops import converted, unary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class CumulativeRotaryPosition(Position):
    """Queries and keys rotated by the sum of what every token so far turned them by (CARoPE; Selective RoPE).

    Veisi et al., "Context-aware Rotary Position Embedding", 2025, bound each token's rate and keep it positive;
    Movahedi et al., "Selective Rotary Position Embedding", 2025, let it be any linear function of the token. With all
    rates at one, where both start here, this is RoPE.
    """

    acts_on = "rotation"
    schedulable = marks(theta=Schedulable(why="a larger base for longer samples, as of rope"))

    kind: Literal["cumulative-rope"] = "cumulative-rope"
    theta: PositiveFloat = 10_000.0
    """Base of the wavelengths: at a rate of one, pair i turns by theta^(-2i/width) radians per token."""
    rate: Literal["bounded", "linear"] = "bounded"
    """`bounded`: 2 sigmoid(W x + b), between 0 and 2. `linear`: W x + b, which may also turn back."""
    per: Literal["pair", "head"] = "pair"
    """Who has a rate of its own: every pair of channels of every key head, or every key head for all of its pairs."""

    def rates(self, heads: Heads) -> int:
        """Rates per token."""
        return heads.groups * (heads.width // 2 if self.per == "pair" else 1)

    def frequencies(self, width: int) -> tuple[float, ...]:
        """Radians that each pair turns per token at a rate of one."""
        return tuple(self.theta ** (-2 * pair / width) for pair in range(width // 2))

    def tensors_for_heads(self, heads: Heads, scope: Scope) -> Mapping[str, TensorSpec]:
        """The map from a token to its rates, and their bias."""
        rates = self.rates(heads)
        start = 0.0 if self.rate == "bounded" else 1.0
        return {
            "gate.weight": TensorSpec(shape=(rates, scope.width)),
            "gate.bias": TensorSpec(shape=(rates,), role="bias", start=start),
        }

    def trace_turned(self, tape: Tape, q: Value, k: Value, x: Value, scope: Scope) -> tuple[Value, Value]:
        """Rates, their sums in fp64, cosines and sines, and all channels turned; gradients reach everything."""
        del scope
        groups, pairs, wide = k.shape[1], k.shape[-1] // 2, tape.work.wide_bytes
        with tape.call():
            angles = self._angles(tape, x, groups, pairs)
            tape.hold(angles)
            angles = (angles if angles.item == wide else converted(angles, wide)).transpose(1, 2)
            tape.hold(angles)
            cos, sin = unary("cos", angles, "input"), unary("sin", angles, "input")
            tape.hold(cos, sin)
            per_query = (part.unsqueeze(2) for part in (cos, sin))
            turned = rotated(q.unflatten(1, (groups, -1)), *per_query).flatten(1, 2)
            tape.hold(turned)
            return turned, rotated(k, cos, sin)

    def _angles(self, tape: Tape, x: Value, groups: int, pairs: int) -> Value:
        with tape.call():
            count = groups * (pairs if self.per == "pair" else 1)
            rates = wide_linear(x, count, biases=count)
            if self.rate == "bounded":
                rates = tape.scaled(unary("sigmoid", rates, "output"))
            tape.hold(rates)
            rates = converted(rates.unflatten(2, (groups, -1)), 8)
            frequencies = tape.fresh((pairs,), item=8, gradient=False)
            turns = tape.fresh((*rates.shape[:3], pairs), item=8)
            tape.op("frequencies", makes=[frequencies], gives=[])
            gives = [(rates, rates.size)]
            tape.op("turns", reads=[rates], makes=[turns], saves=[frequencies], gives=gives, backward=turns.size)
            tape.hold(turns)
            return unary("cumsum", turns, backward=turns.size)

    def running_state(self, heads: Heads, scope: Scope) -> Mapping[str, StateSpec]:
        """The angle of each pair of each key head so far."""
        del scope
        return {"angle": StateSpec(shape=(heads.groups, heads.width // 2), dtype="fp32", role="state")}

    def findings_for_heads(self, head_width: int, farthest: int, scope: Scope) -> Iterator[Finding]:
        """Channels that cannot be paired."""
        del farthest, scope
        if head_width % 2:
            what = f"a rotation turns pairs of channels, and heads of {head_width} have an odd one"
            yield Finding(what=what, fix="give the mixer an even head_width")
