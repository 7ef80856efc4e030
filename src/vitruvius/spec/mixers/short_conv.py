"""A short convolution between two gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.mixers.recurrent import Recurrent, conv_findings, conv_state, conv_tensor
from vitruvius.spec.node import PositiveInt, Scope, StateSpec, TensorSpec, register
from vitruvius.spec.tracing.linear_parts import short_conv
from vitruvius.spec.tracing.tape_ops import converted, split, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.errors import Finding
    from vitruvius.spec.tracing.tape import Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvolution(Recurrent):
    """Each channel's last few tokens, gated before and after: the cheap layers of LFM2 (Liquid AI, 2025)."""

    kind: Literal["short-conv"] = "short-conv"
    conv: PositiveInt = 3
    """Taps of the causal convolution: how many tokens each one sees, itself included."""
    bias: Literal["none", "all"] = "none"
    """Which maps add a learned vector."""

    def tensors(self, scope: Scope) -> Mapping[str, TensorSpec]:
        """The joint map to both gates and the value, the convolution, the map back."""
        width = scope.width
        biased = self.bias == "all"
        tensors = {"in_proj.weight": TensorSpec(shape=(3 * width, width))}
        if biased:
            tensors["in_proj.bias"] = TensorSpec(shape=(3 * width,), role="bias")
        tensors["conv.weight"] = conv_tensor(width, self.conv)
        if biased:
            tensors["conv.bias"] = TensorSpec(shape=(width,), role="bias")
        tensors["out_proj.weight"] = TensorSpec(shape=(width, width), role="output")
        if biased:
            tensors["out_proj.bias"] = TensorSpec(shape=(width,), role="bias")
        return tensors

    def token_flops(self, scope: Scope) -> int:
        """Nothing besides the maps and the taps."""
        del scope
        return 0

    def trace(self, tape: Tape, x: Value, scope: Scope) -> Value:
        """One map to the two gates and the value, the convolution between them, the map back."""
        biased, width = self.bias == "all", scope.width
        with tape.call():
            (whole,) = tape.linear(x, [3 * width], biases=3 * width if biased else 0)
            tape.hold(whole)
            before, after, value = split(whole, [width] * 3)
            mixed = short_conv(times(before, value), self.conv, bias=biased, activation="none")
            tape.hold(mixed)
            out = converted(times(after, mixed), x.item)
            return tape.linear(out, [width], biases=width if biased else 0)[0]

    def state_tensors(self, scope: Scope, capacity: int) -> Mapping[str, StateSpec]:
        """What the convolution still reaches."""
        del capacity
        return {"conv": conv_state(scope.width, self.conv)}

    def details(self, scope: Scope) -> Iterator[str]:
        """The taps."""
        del scope
        yield f"convolution of {self.conv}, gated twice"

    def findings(self, scope: Scope) -> Iterator[Finding]:
        """Long convolutions."""
        del scope
        yield from conv_findings(self.conv)
