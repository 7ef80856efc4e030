"""Normalisations."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import Norm, PositiveFloat, TensorSpec, register
from vitruvius.spec.tracing.strides import contiguous, viewed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.tracing.tape import Give, Tape, Value


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RMSNorm(Norm):
    """x / rms(x) * gain (Zhang and Sennrich, 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    eps: PositiveFloat = 1e-5
    """Added to the mean square."""
    gain: Literal["weight", "1 + weight", "none"] = "weight"
    """What multiplies the normalised vector; `1 + weight` starts at zero, as in Gemma."""

    def tensors_of_width(self, width: int) -> Mapping[str, TensorSpec]:
        """One gain per channel, unless there is none."""
        if self.gain == "none":
            return {}
        start = 0.0 if self.gain == "1 + weight" else None
        return {"weight": TensorSpec(shape=(width,), role="gain", start=start)}

    def trace_normed(self, tape: Tape, x: Value) -> Value:
        """Keeps the vectors and a reciprocal of each; what is in fp32 is computed a few rows at a time."""
        return self._traced(tape, x, [(x, x.size)])

    def trace_forked(self, tape: Tape, x: Value) -> tuple[Value, Value]:
        """The vectors themselves and what they become; one gradient of both."""
        passed = tape.same(x)
        return passed, self._traced(tape, x, [(x, x.size)], passed)

    def _traced(self, tape: Tape, x: Value, gives: list[tuple[Value, Give]], *passed: Value) -> Value:
        width, wide = x.shape[-1], max(4, x.item)
        rows = prod(x.shape[:-1])
        copied = x.size if viewed(x.shape, x.strides, (rows, width)) is None else 0
        block = tape.block_rows(rows, width) * wide
        y, reciprocal = tape.fresh(x.shape), tape.fresh((rows, 1), item=wide, gradient=False)
        tape.op(
            "rmsnorm",
            reads=[x],
            makes=[y, reciprocal, *passed],
            saves=[x, reciprocal],
            forward=copied + block,
            gives=gives,
            weights=0 if self.gain == "none" else width * x.item,
            backward=2 * copied + 3 * block,
        )
        return y


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm(Norm):
    """(x - mean(x)) / std(x) * gain + bias (Ba et al., 2016)."""

    kind: Literal["layernorm"] = "layernorm"
    eps: PositiveFloat = 1e-5
    """Added to the variance."""
    bias: bool = True
    """Whether a learned vector is added."""

    def tensors_of_width(self, width: int) -> Mapping[str, TensorSpec]:
        """A gain and, when asked for, a bias per channel."""
        tensors = {"weight": TensorSpec(shape=(width,), role="gain")}
        if self.bias:
            tensors["bias"] = TensorSpec(shape=(width,), role="bias")
        return tensors

    def trace_normed(self, tape: Tape, x: Value) -> Value:
        """Keeps the vectors, and mean and reciprocal deviation of each."""
        width, rows = x.shape[-1], prod(x.shape[:-1])
        copied = 0 if contiguous(x.shape, x.strides) else x.size
        y = tape.fresh(x.shape)
        statistics = [tape.fresh((rows, 1), item=x.item, gradient=False) for _ in range(2)]
        tape.op(
            "layernorm",
            reads=[x],
            makes=[y, *statistics],
            saves=[x, *statistics],
            forward=copied,
            weights=(2 if self.bias else 1) * width * x.item,
            backward=2 * copied,
        )
        return y
