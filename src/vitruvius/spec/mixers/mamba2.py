"""Mamba-2: a state matrix per head that decays by one number per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.costs import Start
from vitruvius.spec.mixers.recurrent import (
    Recurrent,
    conv_findings,
    conv_state,
    conv_tensor,
    matrix_state,
    sharing_findings,
    small,
    step_bias,
)
from vitruvius.spec.node import PositiveFloat, PositiveInt, Scope, StateSpec, TensorSpec, Twin, register
from vitruvius.spec.tracing.linear_parts import gated_norm, log_decay, short_conv
from vitruvius.spec.tracing.recurrences import gated_delta
from vitruvius.spec.tracing.tape_ops import by_weight, split, times, total, wide_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2(Recurrent):
    """State-space duality: a linear recurrence whose decay depends on the token (Dao and Gu, 2024)."""

    kind: Literal["mamba2"] = "mamba2"
    heads: PositiveInt
    """Heads of the state; usually 2 x width / head_width."""
    head_width: PositiveInt = 64
    """Channels per head."""
    groups: PositiveInt = 1
    """Neighbouring heads share the in and out maps of the state (B and C): as many of these as there are groups."""
    state: PositiveInt = 128
    """Width of the state: numbers kept for each channel."""
    conv: PositiveInt = 4
    """Taps of the causal convolution before the recurrence."""
    bias: Literal["none", "conv", "all"] = "conv"
    """Which maps add a learned vector."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in the gated norm after the recurrence."""

    @property
    def inner(self) -> int:
        """Channels of all heads."""
        return self.heads * self.head_width

    @property
    def mixed(self) -> int:
        """Channels that go through the convolution: values, and what B and C are."""
        return self.inner + 2 * self.groups * self.state

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The joint map to gate, convolved channels and step sizes; the recurrence; the norm; the map back."""
        inward = self.inner + self.mixed + self.heads
        tensors = {"in_proj.weight": TensorSpec(shape=(inward, scope.width))}
        if self.bias == "all":
            tensors["in_proj.bias"] = TensorSpec(shape=(inward,), role="bias")
        tensors["conv.weight"] = conv_tensor(self.mixed, self.conv)
        if self.bias != "none":
            tensors["conv.bias"] = TensorSpec(shape=(self.mixed,), role="bias")
        tensors["dt_bias"] = step_bias(self.heads)
        tensors["A_log"] = TensorSpec(shape=(self.heads,), role="gain", start=Start(kind="log-of-count"))
        tensors["D"] = TensorSpec(shape=(self.heads,), role="gain")
        tensors["norm.weight"] = TensorSpec(shape=(self.inner,), role="gain")
        tensors["out_proj.weight"] = TensorSpec(shape=(scope.width, self.inner), role="output")
        if self.bias == "all":
            tensors["out_proj.bias"] = TensorSpec(shape=(scope.width,), role="bias")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """An outer product into the state and a read out of it."""
        del scope
        return 4 * self.inner * self.state

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """One map in, a convolution, the recurrence with a skip, a gated norm, one map out."""
        biases = [self.inner + self.mixed + self.heads, scope.width] if self.bias == "all" else [0, 0]
        shared = self.groups * self.state
        with tape.call():
            (whole,) = tape.linear(x, [self.inner + self.mixed + self.heads], biases=biases[0])
            z, mixed, dt = split(whole, [self.inner, self.mixed, self.heads])
            mixed = short_conv(mixed, self.conv, bias=self.bias != "none")
            tape.hold(whole, mixed)
            values, k, q = split(mixed, [self.inner, shared, shared])
            steps, decay = log_decay(dt, self.heads)
            values, k, q = (
                part.unflatten(2, (n, -1)) for part, n in ((values, self.heads), (k, self.groups), (q, self.groups))
            )
            v = times(values, steps.unsqueeze(-1))
            tape.hold(steps, decay, v)
            y = gated_delta(q, k, v, log_decay=decay)
            y = total(y, by_weight(values, self.heads, copy=wide_weight(tape, self.heads)))
            tape.hold(y)
            normed = gated_norm(y.flatten(2), z, order="gate-first", groups=self.groups)
            return tape.linear(normed, [scope.width], biases=biases[1])[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """The state, and what the convolution still reaches."""
        del scope, capacity
        return {
            "state": matrix_state(self.heads, self.state, self.head_width),
            "conv": conv_state(self.mixed, self.conv),
        }

    def heads_and_groups(self) -> tuple[int, int]:
        """Heads, and those that read and write the state in a way of their own."""
        return self.heads, self.groups

    def silent(self, scope: Scope, length: int) -> Iterator[str]:
        """One token has nothing to forget."""
        del scope
        if length == 1:
            yield "A_log"

    def shrunk(self, twin: Twin) -> Mapping[str, object]:
        """Heads in proportion to the width, with the same number to a group."""
        groups = min(self.groups, 2)
        head_width = small(self.head_width)
        wanted = self.inner * twin.width / twin.old.width / head_width
        per_group = min(max(1, round(wanted / groups)), twin.most)
        return {"groups": groups, "heads": per_group * groups, "head_width": head_width, "state": small(self.state)}

    def details(self, scope: Scope) -> Iterator[str]:
        """Heads, state and convolution."""
        del scope
        yield f"{self.heads:,} heads of {self.head_width:,}, state {self.state:,}"
        if self.groups > 1:
            yield f"{self.groups:,} groups"
        yield f"convolution of {self.conv}"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Groups that do not divide the heads, long convolutions."""
        del scope
        yield from sharing_findings("groups", self.groups, self.heads, "heads")
        yield from conv_findings(self.conv)
