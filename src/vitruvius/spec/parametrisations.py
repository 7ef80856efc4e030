"""Initialisations that carry hyperparameters to larger models: muP across width, CompleteP across depth too.

Both equal `normal` at their base: same first weights, same multipliers, same learning rates. Away from it, with
m = width / base_width and m_L = depth / base_depth, under Adam:

                     first std      learning rate   weight decay   eps              multiplier
    hidden matrices  std / sqrt(m)  x 1/m           x m            x 1/(m m_L)
    readouts inside  std / m        x 1/m           x m            x 1/m_L
    logits           std                                           x 1/m            x 1/m
    tables           table_std                                     x 1/m
    gains, biases                                                  x 1/(m m_L)
    scores                                                                          sqrt(base_head_width) / head_width
    sublayers                                                                       x 1/m_L

muP has the first two columns, and the multipliers of logits and scores; the rest is CompleteP's. A readout inside is a
map from the stream to a number of channels that does not grow (a router): table 3's form of an output weight, which
needs no multiplier. Sources: Yang et al., "Tensor Programs V", 2022 (tables 3 and 8; definition 4.1 on 1/d attention);
Dey et al., "Don't be lazy: CompleteP enables compute-efficient deep transformers", 2025 (table 1, alpha = 1, for which
learning rates do not depend on depth).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Literal

from vitruvius.spec.inits import Residual  # noqa: TC001 (pydantic reads the fields' types at run time)
from vitruvius.spec.node import Init, PositiveFloat, PositiveInt, register

if TYPE_CHECKING:
    from vitruvius.spec.node import Scope
    from vitruvius.spec.weight import Weight


class WidthParametrisation(Init):
    """What muP and CompleteP share: everything that depends on the width alone."""

    __slots__ = ()

    base_width: int
    base_head_width: int
    std: float

    def matrix_std(self, fan_in: int, fan_out: int) -> float:  # noqa: ARG002 (the width decides, not the fans)
        """Standard deviation of a matrix at the base width."""
        return self.std

    def width_ratio(self, width: int) -> float:
        """How many times as wide as the base."""
        return width / self.base_width

    def std_of(self, weight: Weight, scope: Scope) -> float:
        """Standard deviation of a tensor that is drawn."""
        base = super().std_of(weight, scope)
        ratio = self.width_ratio(scope.width)
        if weight.width_class == "hidden":
            return base / sqrt(ratio)
        if weight.width_class == "readout" and not weight.is_head_readout:
            return base / ratio
        return base

    def attention_scale(self, head_width: int) -> float:
        """What scores of heads of this width are multiplied by: 1/d, and 1/sqrt(d) at the base head width."""
        return sqrt(self.base_head_width / head_width) / sqrt(head_width)

    def logit_scale(self, width: int) -> float:
        """What the logits of a stream of `width` are multiplied by."""
        return 1.0 / self.width_ratio(width)

    def learning_rate_scale(self, weight: Weight, scope: Scope) -> float:
        """1/m for maps that read the stream, 1 for tables, gains, biases and the map to the logits."""
        if weight.width_class == "vector" or weight.is_head_readout:
            return 1.0
        return 1.0 / self.width_ratio(scope.width)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class MuP(WidthParametrisation):
    """Maximal update parametrisation: learning rates found at the base width hold at any (Yang et al., 2022)."""

    kind: Literal["mup"] = "mup"
    base_width: PositiveInt
    """Width of the model that the hyperparameters were found on; at this width `mup` equals `normal`."""
    base_head_width: PositiveInt = 64
    """Head width at which scores are divided by sqrt(head_width), as without muP."""
    std: PositiveFloat = 0.02
    """Standard deviation of every matrix at the base width."""
    table_std: PositiveFloat = 0.02
    """Standard deviation of embedding and position tables, at any width."""
    residual: Residual = "plain"
    """`scaled` divides maps into the residual stream by sqrt(2 x layers), as GPT-2 does."""


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteP(WidthParametrisation):
    """muP, and its like for depth: a learning rate found on few layers holds for many (Dey et al., 2025)."""

    kind: Literal["completep"] = "completep"
    base_width: PositiveInt
    """Width of the model that the hyperparameters were found on."""
    base_depth: PositiveInt
    """Layers of that model; at its width and depth `completep` equals `normal`."""
    base_head_width: PositiveInt = 64
    """Head width at which scores are divided by sqrt(head_width), as without muP."""
    std: PositiveFloat = 0.02
    """Standard deviation of every matrix at the base width."""
    table_std: PositiveFloat = 0.02
    """Standard deviation of embedding and position tables, at any width."""
    residual: Residual = "plain"
    """`scaled` divides maps into the residual stream by sqrt(2 x base_depth), at any depth."""

    def std_of(self, weight: Weight, scope: Scope) -> float:
        """Standard deviation of a tensor that is drawn; the depth has no say in it."""
        return super(CompleteP, self).std_of(weight, replace(scope, depth=self.base_depth))

    def branch_scale(self, depth: int) -> float:
        """What each sublayer of a stack of `depth` layers is multiplied by before it joins the residual stream."""
        return self.base_depth / depth

    def weight_decay_scale(self, weight: Weight, scope: Scope) -> float:
        """The ratio m where the learning rate has 1/m, so that decay per step does not depend on the width."""
        return 1.0 / self.learning_rate_scale(weight, scope)

    def eps_scale(self, weight: Weight, scope: Scope) -> float:
        """How gradients shrink: by 1/m along an axis that grows, by 1/m_L inside a sublayer."""
        across = weight.is_head_readout or (any(weight.grows) and weight.width_class != "readout")
        width = 1.0 / self.width_ratio(scope.width) if across else 1.0
        return width * (self.branch_scale(scope.depth) if weight.part == "layer" else 1.0)
