"""Mamba-2: state-space duality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import GatedNorm, ShortConv, empty_recurrence, recur
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.mamba2 import Mamba2

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(Mamba2)
class Mamba2Module(nn.Module):
    """One map in, a convolution, the recurrence with a skip, a gated norm, one map out; dt and A in at least fp32."""

    def __init__(self, spec: Mamba2, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        bias = spec.bias == "all"
        self.in_proj = nn.Linear(scope.width, spec.inner + spec.mixed + spec.heads, bias=bias, **factory)
        self.conv = ShortConv(spec.mixed, spec.conv, factory, bias=spec.bias != "none")
        self.dt_bias = nn.Parameter(torch.empty(spec.heads, **factory))
        self.A_log = nn.Parameter(torch.empty(spec.heads, **factory))
        self.D = nn.Parameter(torch.empty(spec.heads, **factory))
        self.norm = GatedNorm(spec.inner, factory, eps=spec.norm_eps, order="gate-first", groups=spec.groups)
        self.out_proj = nn.Linear(spec.inner, scope.width, bias=bias, **factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        spec, dtype = self.spec, wide(x_BTD.dtype)
        z_BTE, mixed, dt = self.in_proj(x_BTD).split([spec.inner, spec.mixed, spec.heads], dim=-1)
        mixed = self.conv(mixed, place, cache)
        shared = spec.groups * spec.state
        values, B_BTE, C_BTE = mixed.split([spec.inner, shared, shared], dim=-1)
        dt_BTH = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
        log_decay = -self.A_log.to(dtype).exp() * dt_BTH
        values = values.unflatten(2, (spec.heads, -1))
        k_BTGN, q_BTGN = (part.unflatten(2, (spec.groups, -1)) for part in (B_BTE, C_BTE))
        v_BTHP = values * dt_BTH.unsqueeze(-1)
        y_BTHP = recur(q_BTGN, k_BTGN, v_BTHP, place, cache, log_decay=log_decay)
        y_BTHP = y_BTHP + self.D.to(dtype).unsqueeze(-1) * values
        return self.out_proj(self.norm(y_BTHP.flatten(2), z_BTE))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.in_proj.weight)
