"""Retention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import empty_recurrence, recur
from vitruvius.nn.ops import apply_rotary, gated_activation, rms_norm
from vitruvius.nn.positions.rope import rotary_tables
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.retnet import RetNet
from vitruvius.spec.positions.rope import RotaryPosition

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(RetNet)
class RetNetModule(nn.Module):
    """Queries, keys and values, a rotation, the recurrence, a norm per head, a gate, the map back."""

    def __init__(self, spec: RetNet, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.rope = None if spec.theta is None else RotaryPosition(theta=spec.theta).in_context(scope.context)
        self.key_width, self.value_width = spec.key_width(scope), spec.width_of_value(scope)
        keys, values = spec.heads * self.key_width, spec.heads * self.value_width
        bare = {"bias": False, **factory}
        self.q, self.k = (nn.Linear(scope.width, keys, **bare) for _ in range(2))
        self.v, self.gate = (nn.Linear(scope.width, values, **bare) for _ in range(2))
        self.out = nn.Linear(values, scope.width, **bare)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        q, k, v, z_BTE = project(x_BTD, (self.q, self.k, self.v, self.gate))
        q_BTHN, k_BTHN = (part.unflatten(2, (-1, self.key_width)) for part in (q, k))
        v_BTHP = v.unflatten(2, (-1, self.value_width))
        if self.rope is not None:
            cos, sin = rotary_tables(self.rope, self.key_width, place.positions, q_BTHN.dtype)
            q_BTHN, k_BTHN = (
                apply_rotary(part.transpose(1, 2), cos, sin, self.rope.pairing).transpose(1, 2)
                for part in (q_BTHN, k_BTHN)
            )
        k_BTHN = k_BTHN * self.key_width**-0.5
        log_decay = self._log_decays(x_BTD).expand(*x_BTD.shape[:2], -1)
        out_BTHP = recur(q_BTHN, k_BTHN, v_BTHP, place, cache, log_decay=log_decay)
        y_BTE = rms_norm(out_BTHP, eps=self.spec.norm_eps).flatten(2)
        return self.out(gated_activation(z_BTE.to(y_BTE.dtype), y_BTE).to(z_BTE.dtype))

    def _log_decays(self, x_BTD: Tensor) -> Tensor:
        """[H]: constants, made where they are used, so that a model made on the meta device needs no repair."""
        head = torch.arange(self.spec.heads, device=x_BTD.device, dtype=torch.float64)
        return torch.log1p(-torch.exp2(-5.0 - head)).to(wide(x_BTD.dtype))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
