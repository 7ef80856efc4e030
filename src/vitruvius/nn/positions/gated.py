"""Positions that the content lets in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.registry import Factory, implements, make
from vitruvius.spec.positions.gated import GatedAdditivePosition

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(GatedAdditivePosition)
class GatedAdditivePositionModule(nn.Module):
    """x + strength * sigmoid(gate(x) / temperature) * P(t); reports mean and spread of the gate to whoever listens."""

    def __init__(self, spec: GatedAdditivePosition, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.strength, self.temperature = spec.strength, spec.temperature
        self.gate = nn.Linear(scope.width, scope.width, **factory)
        self.table = make(spec.added, scope, factory)

    def embed(self, x_BTD: Tensor, place: Place) -> Tensor:
        """Add each position's vector, as far as the token lets it in.

        Raises PositionOverflowError as the table does.
        """
        logits_BTD = self.gate(x_BTD)
        if self.temperature != 1.0:
            logits_BTD = logits_BTD / self.temperature
        gate_BTD = logits_BTD.sigmoid()
        if place.signals is not None:
            wide = gate_BTD.detach().float()
            place.signals.report("position_gate_mean", wide.mean())
            place.signals.report("position_gate_std", wide.std(correction=0))
        rows = self.table.rows(place.positions, x_BTD)
        if self.strength != 1.0:
            return torch.addcmul(x_BTD, gate_BTD, rows, value=self.strength)
        return x_BTD + gate_BTD * rows
