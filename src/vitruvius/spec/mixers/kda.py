"""Kimi delta attention: the delta rule with a decay for every channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.costs import Start
from vitruvius.spec.mixers.deltanet import Eigenvalues  # noqa: TC001 (pydantic reads the fields' types at run time)
from vitruvius.spec.mixers.recurrent import (
    NormedHeads,
    conv_findings,
    conv_state,
    conv_tensor,
    matrix_state,
    small,
    step_bias,
    width_findings,
)
from vitruvius.spec.node import PositiveFloat, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.tracing.linear_parts import gated_norm, log_decay, short_conv, unit
from vitruvius.spec.tracing.recurrences import gated_delta
from vitruvius.spec.tracing.tape_ops import joined, split, unary, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDelta(NormedHeads):
    """Gated DeltaNet that forgets channel by channel (Kimi team, 2025)."""

    kind: Literal["kda"] = "kda"
    heads: PositiveInt
    """Heads: as many states."""
    head_width: PositiveInt | None = None
    """Channels of a query and key; width / heads when not given."""
    value_width: PositiveInt | None = None
    """Channels of a value; as many as of a key when not given."""
    rank: PositiveInt | None = None
    """Inner width of the maps to the decays and to the output gate; that of a head when not given."""
    conv: PositiveInt = 4
    """Taps of the causal convolution over queries, keys and values."""
    eigenvalues: Eigenvalues = "positive"
    """`both` lets beta reach 2, so that a token can flip the sign of what is stored."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in the gated norm of each head."""

    def key_width(self, scope: Scope) -> int:
        """Channels of a query and key."""
        return self.head_width or scope.width // self.heads

    def width_of_value(self, scope: Scope) -> int:
        """Channels of a value."""
        return self.value_width or self.key_width(scope)

    def inner_rank(self, scope: Scope) -> int:
        """Inner width of the low-rank maps."""
        return self.rank or self.key_width(scope)

    def mixed(self, scope: Scope) -> int:
        """Channels that go through the convolution: queries, keys and values."""
        return self.heads * (2 * self.key_width(scope) + self.width_of_value(scope))

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The maps of the token, the convolution, the decays, the norm, the map back."""
        keys, values = self.heads * self.key_width(scope), self.heads * self.width_of_value(scope)
        rank = self.inner_rank(scope)
        rows = {"q": keys, "k": keys, "v": values, "beta": self.heads, "decay_down": rank, "gate_down": rank}
        tensors = {f"{name}.weight": TensorSpec(shape=(count, scope.width)) for name, count in rows.items()}
        tensors["conv.weight"] = conv_tensor(self.mixed(scope), self.conv)
        tensors["decay_up.weight"] = TensorSpec(shape=(keys, rank))
        tensors["dt_bias"] = step_bias(keys)
        drawn = Start(kind="log-of-uniform", low=1.0, high=16.0)
        tensors["A_log"] = TensorSpec(shape=(self.heads,), role="gain", start=drawn)
        tensors["gate_up.weight"] = TensorSpec(shape=(values, rank))
        tensors["norm.weight"] = TensorSpec(shape=(self.width_of_value(scope),), role="gain")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, values), role="output")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """What the state answers to the key, an outer product into it, and a read out of it."""
        return 6 * self.heads * self.key_width(scope) * self.width_of_value(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """As Gated DeltaNet, with low-rank maps to a decay per channel and to a sigmoid gate."""
        key, value, rank = self.key_width(scope), self.width_of_value(scope), self.inner_rank(scope)
        widths = [self.heads * key] * 2 + [self.heads * value]
        with tape.call():
            q, k, v, beta, down, gate = tape.linear(x, [*widths, self.heads, rank, rank])
            tape.hold(down, gate)
            mixed = short_conv(joined([q, k, v]), self.conv)
            tape.hold(mixed)
            q, k, v = split(mixed, widths)
            q, k = (unit(part.unflatten(2, (-1, key))) for part in (q, k))
            z = tape.linear(gate, [widths[2]])[0]
            v, z = (part.unflatten(2, (-1, value)) for part in (v, z))
            beta = tape.scaled(unary("sigmoid", widened(beta), "output"))
            tape.hold(k, z, beta)
            steps, decay = log_decay(tape.linear(down, [widths[0]])[0], self.heads, per=key)
            tape.hold(steps, decay)
            q = tape.scaled(q)
            tape.hold(q)
            out = gated_delta(q, k, v, log_decay=decay.unflatten(2, (-1, key)), beta=beta)
            tape.hold(out)
            return tape.linear(gated_norm(out, z, activation="sigmoid").flatten(2), [scope.width])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state, and what the convolution still reaches."""
        del capacity
        return {
            "state": matrix_state(self.heads, self.key_width(scope), self.width_of_value(scope)),
            "conv": conv_state(self.mixed(scope), self.conv),
        }

    def heads_and_groups(self) -> tuple[int, int]:
        """Every head has keys of its own."""
        return self.heads, self.heads

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget."""
        del scope
        if length == 1:
            yield from ("decay_down.weight", "decay_up.weight", "dt_bias", "A_log")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Two narrow heads."""
        width = small(self.key_width(twin.old))
        return {
            "heads": min(self.heads, 2),
            "head_width": width,
            "value_width": small(self.width_of_value(twin.old)),
            "rank": None if self.rank is None else min(self.rank, width),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads and their widths, and what sets this recurrence apart."""
        yield f"{self.heads:,} heads, state {self.key_width(scope):,} × {self.width_of_value(scope):,}"
        yield "a decay per channel"
        yield f"convolution of {self.conv}"
        if self.eigenvalues == "both":
            yield "eigenvalues of both signs"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Heads that do not divide, long convolutions."""
        yield from width_findings(self.heads, self.head_width, scope)
        yield from conv_findings(self.conv)
