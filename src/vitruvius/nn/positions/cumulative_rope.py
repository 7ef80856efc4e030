"""Rotation by what the content has turned so far."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.positions.running import report_gates, running_sum, wide_linear
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.cumulative_rope import CumulativeRotaryPosition

if TYPE_CHECKING:
    from vitruvius.nn.mixers.keyvalue import KeyValueStore
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads


@implements(CumulativeRotaryPosition)
class CumulativeRotaryPositionModule(nn.Module):
    """The rate at which each token turns the pairs of each key head.

    Angles are summed in fp64 and rounded once, as those of fixed rotations are; the sum kept for decoding is taken
    modulo a full turn, so that it loses no digits over a long text.
    """

    def __init__(self, spec: CumulativeRotaryPosition, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec, self.groups = spec, heads.groups
        self.frequencies = spec.frequencies(heads.width)
        self.gate = nn.Linear(scope.width, spec.rates(heads), **factory)

    def turn(
        self, q_BHTK: Tensor, k_BGTK: Tensor, x_BTD: Tensor, place: Place, cache: KeyValueStore | None
    ) -> tuple[Tensor, Tensor]:
        """Rotate the queries and keys of each group by the group's angles."""
        angles_BTGP = self.angles(x_BTD, place, cache)
        angles_BGTP = angles_BTGP.transpose(1, 2)
        cos, sin = angles_BGTP.cos(), angles_BGTP.sin()
        q_BGRTK = q_BHTK.unflatten(1, (self.groups, -1))
        return rotated(q_BGRTK, cos.unsqueeze(2), sin.unsqueeze(2)).flatten(1, 2), rotated(k_BGTK, cos, sin)

    def angles(self, x_BTD: Tensor, place: Place, cache: KeyValueStore | None) -> Tensor:
        """How far each pair of each group has turned at each token, [B, T, G, P] in radians, at least fp32."""
        rates = wide_linear(self.gate, x_BTD)
        if self.spec.rate == "bounded":
            rates = 2 * rates.sigmoid()
        rates_BTGR = rates.unflatten(2, (self.groups, -1))
        frequencies_P = torch.tensor(self.frequencies, dtype=torch.float64, device=x_BTD.device)
        turns_BTGP = rates_BTGR.double() * frequencies_P
        report_gates(place, rates, turns_BTGP.flatten(2))
        return running_sum(turns_BTGP, place, cache, "angle", modulo=2 * pi).to(wide(x_BTD.dtype))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels i and i + P turned by angle i; cosines and sines are [..., P], and gradients reach them."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
