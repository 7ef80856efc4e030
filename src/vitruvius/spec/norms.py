"""Normalisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.node import Norm, PositiveFloat, TensorSpec, register

if TYPE_CHECKING:
    from collections.abc import Mapping


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
