"""Retention: linear attention that forgets at a fixed rate per head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.mixers.recurrent import NormedHeads, matrix_state, small, width_findings
from vitruvius.spec.node import PositiveFloat, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.spec.tracing.linear_parts import gated, rms
from vitruvius.spec.tracing.recurrences import gated_delta
from vitruvius.spec.tracing.tape_ops import converted, expand, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.tracing.tape import Tape, Value

SLOWEST = 40
"""Halvings of the rate at which a head forgets, beyond which fp32 holds no difference from never."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RetNet(NormedHeads):
    """Multi-scale retention: head h keeps 1 - 2^(-5 - h) of its state at each token (Sun et al., 2023)."""

    kind: Literal["retnet"] = "retnet"
    heads: PositiveInt
    """Heads: as many states, each with a rate of its own."""
    head_width: PositiveInt | None = None
    """Channels of a query and key; width / heads when not given."""
    value_width: PositiveInt | None = None
    """Channels of a value; twice those of a key when not given."""
    theta: PositiveFloat | None = 1e4
    """Base of the rotary angles that queries and keys are turned by; None leaves them as they are."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in the norm of each head, which has no gain."""

    def key_width(self, scope: Scope) -> int:
        """Channels of a query and key."""
        return self.head_width or scope.width // self.heads

    def width_of_value(self, scope: Scope) -> int:
        """Channels of a value."""
        return self.value_width or 2 * self.key_width(scope)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """`q`, `k`, `v`, the output gate and the map back; rates are constants."""
        keys, values = self.heads * self.key_width(scope), self.heads * self.width_of_value(scope)
        rows = {"q": keys, "k": keys, "v": values, "gate": values}
        tensors = {f"{name}.weight": TensorSpec(shape=(count, scope.width)) for name, count in rows.items()}
        tensors["out.weight"] = TensorSpec(shape=(scope.width, values), role="output")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """An outer product into the state and a read out of it."""
        return 4 * self.heads * self.key_width(scope) * self.width_of_value(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Queries, keys and values, a rotation, the recurrence, a norm per head, a gate, the map back."""
        widths = (self.key_width(scope), self.width_of_value(scope))
        keys, values = (self.heads * width for width in widths)
        with tape.call():
            q, k, v, z = tape.linear(x, [keys, keys, values, values])
            tape.hold(q, k, v, z)
            q, k = (part.unflatten(2, (-1, widths[0])) for part in (q, k))
            v = v.unflatten(2, (-1, widths[1]))
            if self.theta is not None:
                rope = RotaryPosition(theta=self.theta)
                q, k = (part.transpose(1, 2) for part in (q, k))
                q, k = (part.transpose(1, 2) for part in rope.trace_turned(tape, q, k, x, scope))
            k = tape.scaled(k)
            tape.hold(q, k)
            decay = tape.fresh((self.heads,), item=tape.work.wide_bytes, gradient=False)
            tape.op("rates", makes=[decay], gives=[])
            decay = expand(expand(decay.unsqueeze(0).unsqueeze(0), 0, x.shape[0]), 1, x.shape[1])
            tape.hold(decay)
            out = gated_delta(q, k, v, log_decay=decay)
            tape.hold(out)
            y = rms(out).flatten(2)
            tape.hold(y)
            return tape.linear(converted(gated(widened(z), y), x.item), [scope.width])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state."""
        del capacity
        return {"state": matrix_state(self.heads, self.key_width(scope), self.width_of_value(scope))}

    def heads_and_groups(self) -> tuple[int, int]:
        """Every head has keys of its own."""
        return self.heads, self.heads

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Two narrow heads."""
        return {
            "heads": min(self.heads, 2),
            "head_width": small(self.key_width(twin.old)) // 2 * 2,
            "value_width": small(self.width_of_value(twin.old)),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads and their widths, rotation."""
        yield f"{self.heads:,} heads, state {self.key_width(scope):,} × {self.width_of_value(scope):,}"
        yield "a fixed decay per head"
        if self.theta is not None:
            yield f"rope, theta {self.theta:,g}"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Heads that do not divide or cannot be turned, rates that cannot be told from one."""
        yield from width_findings(self.heads, self.head_width, scope)
        if self.theta is not None and self.key_width(scope) % 2:
            what = f"rotary positions turn channels in pairs, and a head has {self.key_width(scope)}"
            yield Finding(path="theta", what=what, fix="use an even head_width, or theta: null")
        if self.heads > SLOWEST:
            what = f"head {SLOWEST} of {self.heads} already forgets by 2^-{SLOWEST + 5} a token, which is never"
            yield Finding(path="heads", what=what, fix=f"use at most {SLOWEST}, and wider ones")
