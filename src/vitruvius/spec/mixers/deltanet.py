"""Gated DeltaNet, and DeltaNet without the gate: a state that is corrected where it answers wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.costs import Start
from vitruvius.spec.mixers.recurrent import (
    NormedHeads,
    conv_findings,
    conv_state,
    conv_tensor,
    matrix_state,
    sharing_findings,
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

Eigenvalues = Literal["positive", "both"]
"""Range of what the state is multiplied by along a key: 0 to 1, or -1 to 1."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet(NormedHeads):
    """A linear recurrence that replaces what it knew under a key, and forgets (Yang et al., 2025)."""

    kind: Literal["gated-deltanet"] = "gated-deltanet"
    heads: PositiveInt
    """Value heads: as many states."""
    key_heads: PositiveInt | None = None
    """Query and key heads, a divisor of heads; as many as heads when not given."""
    head_width: PositiveInt | None = None
    """Channels of a query and key; width / heads when not given."""
    value_width: PositiveInt | None = None
    """Channels of a value; as many as of a key when not given."""
    conv: PositiveInt = 4
    """Taps of the causal convolution over queries, keys and values."""
    decay: Literal["head", "none"] = "head"
    """`head` forgets by one number per token and head; `none` is DeltaNet, which only replaces (Yang et al., 2024)."""
    eigenvalues: Eigenvalues = "positive"
    """`both` lets beta reach 2, so that a token can flip the sign of what is stored: needed to count modulo two."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in the gated norm of each head."""

    @property
    def groups(self) -> int:
        """Query and key heads."""
        return self.key_heads or self.heads

    def key_width(self, scope: Scope) -> int:
        """Channels of a query and key."""
        return self.head_width or scope.width // self.heads

    def width_of_value(self, scope: Scope) -> int:
        """Channels of a value."""
        return self.value_width or self.key_width(scope)

    def mixed(self, scope: Scope) -> int:
        """Channels that go through the convolution: queries, keys and values."""
        return 2 * self.groups * self.key_width(scope) + self.heads * self.width_of_value(scope)

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The maps of the token, the convolution, what the decay is made of, the norm, the map back."""
        keys, values = self.groups * self.key_width(scope), self.heads * self.width_of_value(scope)
        rows = {"q": keys, "k": keys, "v": values, "gate": values, "beta": self.heads}
        if self.decay == "head":
            rows["dt"] = self.heads
        tensors = {f"{name}.weight": TensorSpec(shape=(count, scope.width)) for name, count in rows.items()}
        tensors["conv.weight"] = conv_tensor(self.mixed(scope), self.conv)
        if self.decay == "head":
            tensors["dt_bias"] = step_bias(self.heads)
            drawn = Start(kind="log-of-uniform", low=0.01, high=16.0)
            tensors["A_log"] = TensorSpec(shape=(self.heads,), role="gain", start=drawn)
        tensors["norm.weight"] = TensorSpec(shape=(self.width_of_value(scope),), role="gain")
        tensors["out.weight"] = TensorSpec(shape=(scope.width, values), role="output")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """What the state answers to the key, an outer product into it, and a read out of it."""
        return 6 * self.heads * self.key_width(scope) * self.width_of_value(scope)

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """Queries, keys and values through a convolution, the delta rule, a gated norm per head, the map back."""
        key, value = self.key_width(scope), self.width_of_value(scope)
        widths = [self.groups * key] * 2 + [self.heads * value]
        with tape.call():
            maps = [*widths, widths[2], *[self.heads] * (2 if self.decay == "head" else 1)]
            q, k, v, z, beta, *dt = tape.linear(x, maps)
            tape.hold(z, beta, *dt)
            mixed = short_conv(joined([q, k, v]), self.conv)
            tape.hold(mixed)
            q, k, v = split(mixed, widths)
            q, k = (unit(part.unflatten(2, (-1, key))) for part in (q, k))
            v, z = (part.unflatten(2, (-1, value)) for part in (v, z))
            beta = tape.scaled(unary("sigmoid", widened(beta), "output"))
            tape.hold(k, beta)
            if dt:
                decay = log_decay(dt[0], self.heads)[1]
            else:
                decay = tape.fresh(v.shape[:3], item=v.item, gradient=False)
                tape.op("zeros", makes=[decay], gives=[])
            q = tape.scaled(q)
            tape.hold(q, decay)
            out = gated_delta(q, k, v, log_decay=decay, beta=beta)
            tape.hold(out)
            return tape.linear(gated_norm(out, z).flatten(2), [scope.width])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state, and what the convolution still reaches."""
        del capacity
        return {
            "state": matrix_state(self.heads, self.key_width(scope), self.width_of_value(scope)),
            "conv": conv_state(self.mixed(scope), self.conv),
        }

    def heads_and_groups(self) -> tuple[int, int]:
        """Value heads and key heads."""
        return self.heads, self.groups

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget."""
        del scope
        if length == 1:
            yield from ("dt.weight", "dt_bias", "A_log")

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Two key heads with as many value heads to each, narrow."""
        groups, ratio = min(self.groups, 2), min(self.heads // self.groups, twin.most)
        return {
            "heads": groups * ratio,
            "key_heads": None if self.key_heads is None else groups,
            "head_width": small(self.key_width(twin.old)),
            "value_width": small(self.width_of_value(twin.old)),
        }

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads and their widths, and what sets this recurrence apart."""
        yield f"{self.heads:,} heads, state {self.key_width(scope):,} × {self.width_of_value(scope):,}"
        if self.groups != self.heads:
            yield f"{self.groups:,} for queries and keys"
        yield f"convolution of {self.conv}"
        if self.decay == "none":
            yield "no decay"
        if self.eigenvalues == "both":
            yield "eigenvalues of both signs"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Heads that do not divide, long convolutions."""
        yield from sharing_findings("key_heads", self.groups, self.heads, "heads")
        yield from width_findings(self.heads, self.head_width, scope)
        yield from conv_findings(self.conv)
