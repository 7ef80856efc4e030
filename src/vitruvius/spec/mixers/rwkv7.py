"""RWKV-7: a state that each token decays, edits and adds to, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding
from vitruvius.spec.costs import Start
from vitruvius.spec.mixers.recurrent import NormedHeads, conv_state, matrix_state
from vitruvius.spec.node import Heads, PositiveFloat, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.reporting import printable, quoted
from vitruvius.spec.tracing.linear_parts import biased, difference, head_sum, layer_normed, low_rank, short_conv, unit
from vitruvius.spec.tracing.recurrences import rank_one
from vitruvius.spec.tracing.tape_ops import by_weight, converted, times, total, unary, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.mixing import Mixing
    from vitruvius.spec.tracing.tape import Tape, Value

SHIFTED = ("r", "w", "k", "v", "a", "g")
"""What is made of a mixture of the token and the one before: receptance, decay, key, value, rate, gate."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RWKV7(NormedHeads):
    """The time mixing of RWKV-7 "Goose": a generalised delta rule (Peng et al., 2025)."""

    kind: Literal["rwkv7"] = "rwkv7"
    head_width: PositiveInt = 64
    """Channels of a head, a divisor of the width; the state of a head is a square of as many."""
    decay_rank: PositiveInt = 64
    """Inner width of the map to the decays."""
    rate_rank: PositiveInt = 64
    """Inner width of the map to the rates at which what is stored under a key is replaced."""
    gate_rank: PositiveInt = 128
    """Inner width of the map to the output gate."""
    value_rank: PositiveInt = 32
    """Inner width of the map to the shares of borrowed values; used with `value_from` only."""
    value_from: str | None = None
    """Block whose nearest earlier layer's values are mixed into its own; the first layer's, in the paper."""
    norm_eps: PositiveFloat = 64e-5
    """Added to the variance in the norm of each head."""

    def heads(self, scope: Scope) -> int:
        """Heads: as many states."""
        return scope.width // self.head_width

    @property
    def values_of(self) -> str | None:
        """Block whose values are mixed in."""
        return self.value_from

    def lends(self, scope: Scope, what: Literal["keys", "values"]) -> Heads | None:
        """Its values."""
        heads = self.heads(scope)
        return Heads(queries=heads, groups=heads, width=self.head_width) if what == "values" else None

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """Shares of the token before, the maps, the low-rank maps with their biases, gains by channel, the norm."""
        width = scope.width
        half = TensorSpec(shape=(width,), role="gain", start=0.5)
        tensors = {f"mix_{name}": half for name in SHIFTED}
        tensors |= {f"{name}.weight": TensorSpec(shape=(width, width)) for name in ("r", "k", "v")}
        slow = Start(kind="ramp", low=-6.5, high=-1.5)
        low_rank: dict[str, tuple[int, float | Start]] = {
            "decay": (self.decay_rank, slow),
            "rate": (self.rate_rank, 0.0),
        }
        if self.value_from is not None:
            low_rank["value"] = (self.value_rank, 1.0)
        for name, (rank, start) in low_rank.items():
            tensors[f"{name}_down.weight"] = TensorSpec(shape=(rank, width))
            tensors[f"{name}_up.weight"] = TensorSpec(shape=(width, rank))
            tensors[f"{name}_bias"] = TensorSpec(shape=(width,), role="bias", start=start)
        tensors["gate_down.weight"] = TensorSpec(shape=(self.gate_rank, width))
        tensors["gate_up.weight"] = TensorSpec(shape=(width, self.gate_rank))
        for name, first in (("removal", 0.85), ("replacement", 1.0), ("bonus", 0.0)):
            tensors[name] = TensorSpec(shape=(width,), role="gain", start=first)
        tensors["norm.weight"] = TensorSpec(shape=(width,), role="gain")
        tensors["norm.bias"] = TensorSpec(shape=(width,), role="bias")
        tensors["out.weight"] = TensorSpec(shape=(width, width), role="output")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """What the state answers, an outer product for that and one for the value, and a read out of it."""
        return 8 * scope.width * self.head_width

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Shifted inputs, the recurrence, a norm per head, a bonus for the token itself, a gate, the map back."""
        width = scope.width
        with tape.call():
            step = difference(converted(short_conv(x, 2, activation="none", learned=False), x.item), x)
            r_in, w_in, k_in, v_in, a_in, g_in = (total(x, by_weight(step, width)) for _ in SHIFTED)
            tape.hold(step, r_in, w_in, k_in, v_in, a_in, g_in)
            r, k, v = (tape.linear(part, [width])[0] for part in (r_in, k_in, v_in))
            v = v if self.value_from is None else self._mixed(v, v_in)
            tape.lend("values", v)
            decay = tape.scaled(unary("sigmoid", low_rank(w_in, self.decay_rank, inside="tanh"), "output"))
            rate = unary("sigmoid", low_rank(a_in, self.rate_rank), "output")
            k = widened(k)
            tape.hold(r, v, decay, rate)
            kappa = unit(self._split(by_weight(k, width)))
            k = times(k, unary("add", by_weight(unary("add", rate), width)))
            tape.hold(kappa, k)
            r, k, v, w, rate = (self._split(part) for part in (r, k, v, decay, rate))
            a, b = unary("negative", kappa), times(kappa, rate)
            y = layer_normed(rank_one(r, k, v, a, b, w)).flatten(2)
            y = biased(by_weight(y, width), width)
            tape.hold(y)
            own = head_sum(by_weight(times(r, k), width))
            y = total(y, times(own, v).flatten(2))
            tape.hold(own, y)
            inside = unary("sigmoid", tape.linear(g_in, [self.gate_rank])[0], "output")
            gate = tape.linear(inside, [width])[0]
            tape.hold(gate)
            return tape.linear(converted(times(y, gate), gate.item), [width])[0]

    def _split(self, x: Value) -> Value:
        return x.unflatten(-1, (-1, self.head_width))

    def _mixed(self, v: Value, v_in: Value) -> Value:
        """With a share of the values of an earlier layer."""
        tape = v.tape
        batch, length, width = v.shape
        heads = (batch, length, width // self.head_width, self.head_width)
        other = tape.given("values.0", heads).flatten(2)
        share = converted(unary("sigmoid", low_rank(v_in, self.value_rank), "output"), v.item)
        return total(v, times(difference(other, v), share))

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state, and the last token, which the next one is mixed with."""
        del capacity
        return {
            "state": matrix_state(self.heads(scope), self.head_width, self.head_width),
            "token": conv_state(scope.width, 2),
        }

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget and nothing to edit."""
        del scope
        if length == 1:
            yield from ("mix_w", "decay_down.weight", "decay_up.weight", "decay_bias", "removal")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """The widest head of at most eight channels that divides the twin's width, and ranks to match."""
        head_width = next(n for n in (8, 4, 2, 1) if twin.width % n == 0)
        ranks = {f"{name}_rank": min(getattr(self, f"{name}_rank"), 8) for name in ("decay", "rate", "gate", "value")}
        return {"head_width": head_width, **ranks}

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads and their widths."""
        yield f"{self.heads(scope):,} heads, state {self.head_width:,} × {self.head_width:,}"
        yield "a decay per channel"
        if self.value_from is not None:
            yield f"values mixed with those of {printable(self.value_from)}"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Heads that do not divide the width."""
        if scope.width % self.head_width:
            what = f"{self.head_width} does not divide width={scope.width}"
            yield Finding(path="head_width", what=what, fix="choose head_width among the divisors of width")

    def findings_of_loan(self, what: Literal["keys", "values"], lender: Mixing, scope: Scope) -> Iterator[Finding]:
        """A lender without values, or with values of another width."""
        lent, name = lender.lends(scope, what), quoted(str(self.value_from))
        if lent is None:
            text = f"layers of block {name} have no {what} of their own that another layer could read"
            yield Finding(path="value_from", what=text, fix="name a block with values of its own")
        elif lent.groups * lent.width != scope.width:
            text = f"the values of {name} have {lent.groups * lent.width} channels, and these {scope.width}"
            yield Finding(path="value_from", what=text, fix="name a block whose values are as wide as the stream")
