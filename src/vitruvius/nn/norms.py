"""Normalisations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitruvius.nn.ops import forked_rms_norm, layer_norm, rms_norm
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.norms import LayerNorm, RMSNorm


@implements(RMSNorm)
class RMSNormModule(nn.Module):
    """x / rms(x) * gain, statistics in at least fp32."""

    def __init__(self, spec: RMSNorm, width: int, factory: Factory) -> None:
        super().__init__()
        self.eps = spec.eps
        self.offset = 1.0 if spec.gain == "1 + weight" else 0.0
        self.weight = None if spec.gain == "none" else nn.Parameter(torch.empty(width, **factory))

    @shaped
    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Normalise the last axis."""
        return rms_norm(x, self.weight, eps=self.eps, gain_offset=self.offset)

    def fork(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` and its normalised form, for a residual branch: their gradients meet in one pass."""
        return forked_rms_norm(x, self.weight, eps=self.eps, gain_offset=self.offset)


@implements(LayerNorm)
class LayerNormModule(nn.Module):
    """(x - mean(x)) / std(x) * gain + bias."""

    def __init__(self, spec: LayerNorm, width: int, factory: Factory) -> None:
        super().__init__()
        self.eps = spec.eps
        self.weight = nn.Parameter(torch.empty(width, **factory))
        self.bias = nn.Parameter(torch.empty(width, **factory)) if spec.bias else None

    @shaped
    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Normalise the last axis."""
        return layer_norm(x, self.weight, self.bias, eps=self.eps)
