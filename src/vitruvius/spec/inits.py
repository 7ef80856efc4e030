"""How the first weights are drawn.

Matrices follow the kind; tables (embeddings, learned positions) are always normal with `table_std`; gains start at
one, biases at zero. A head tied to the embedding keeps the embedding's draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from vitruvius.spec.node import Init, PositiveFloat, register

Residual = Literal["plain", "scaled"]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class NormalInit(Init):
    """Normal with one standard deviation for every matrix (GPT-2)."""

    kind: Literal["normal"] = "normal"
    std: PositiveFloat = 0.02
    """Standard deviation of every matrix."""
    table_std: PositiveFloat = 0.02
    """Standard deviation of embedding and position tables."""
    residual: Residual = "plain"
    """`scaled` divides maps into the residual stream by sqrt(2 x layers), as GPT-2 does."""

    def matrix_std(self, fan_in: int, fan_out: int) -> float:  # noqa: ARG002 (one signature for every kind)
        """Standard deviation of a matrix with these fans."""
        return self.std


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class KaimingInit(Init):
    """Normal with variance gain^2 / fan_in (He et al., 2015)."""

    kind: Literal["kaiming"] = "kaiming"
    nonlinearity: Literal["linear", "relu"] = "relu"
    """`relu` has gain sqrt(2), `linear` has gain 1."""
    table_std: PositiveFloat = 0.02
    """Standard deviation of embedding and position tables."""
    residual: Residual = "plain"
    """`scaled` divides maps into the residual stream by sqrt(2 x layers)."""

    def matrix_std(self, fan_in: int, fan_out: int) -> float:  # noqa: ARG002 (one signature for every kind)
        """Standard deviation of a matrix with these fans."""
        gain = 2.0 if self.nonlinearity == "relu" else 1.0
        return sqrt(gain / fan_in)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class XavierInit(Init):
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""

    kind: Literal["xavier"] = "xavier"
    table_std: PositiveFloat = 0.02
    """Standard deviation of embedding and position tables."""
    residual: Residual = "plain"
    """`scaled` divides maps into the residual stream by sqrt(2 x layers)."""

    def matrix_std(self, fan_in: int, fan_out: int) -> float:
        """Standard deviation of a matrix with these fans."""
        return sqrt(2.0 / (fan_in + fan_out))
