"""Gated DeltaNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import GatedNorm, ShortConv, empty_recurrence, recur, unit
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.deltanet import GatedDeltaNet

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope

BETA_SCALES = {"positive": 1.0, "both": 2.0}
"""Eigenvalues of a step: the greatest beta."""


@implements(GatedDeltaNet)
class GatedDeltaNetModule(nn.Module):
    """Queries, keys and values through a convolution, the delta rule, a gated norm per head, the map back."""

    def __init__(self, spec: GatedDeltaNet, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.key_width, self.value_width = spec.key_width(scope), spec.width_of_value(scope)
        self.widths = [spec.groups * self.key_width] * 2 + [spec.heads * self.value_width]
        bare = {"bias": False, **factory}
        self.q, self.k, self.v = (nn.Linear(scope.width, rows, **bare) for rows in self.widths)
        self.gate = nn.Linear(scope.width, self.widths[2], **bare)
        self.beta = nn.Linear(scope.width, spec.heads, **bare)
        self.dt = self.dt_bias = self.A_log = None
        self.conv = ShortConv(sum(self.widths), spec.conv, factory)
        if spec.decay == "head":
            self.dt = nn.Linear(scope.width, spec.heads, **bare)
            self.dt_bias = nn.Parameter(torch.empty(spec.heads, **factory))
            self.A_log = nn.Parameter(torch.empty(spec.heads, **factory))
        self.norm = GatedNorm(self.value_width, factory, eps=spec.norm_eps)
        self.out = nn.Linear(self.widths[2], scope.width, **bare)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        maps = [m for m in (self.q, self.k, self.v, self.gate, self.beta, self.dt) if m is not None]
        q, k, v, z_BTE, beta, *dt = project(x_BTD, maps)
        mixed = self.conv(torch.cat([q, k, v], dim=-1), place, cache)
        q, k, v = mixed.split(self.widths, dim=-1)
        q_BTGN, k_BTGN = (unit(part.unflatten(2, (-1, self.key_width))) for part in (q, k))
        v_BTHP, z_BTHP = (part.unflatten(2, (-1, self.value_width)) for part in (v, z_BTE))
        beta_BTH = BETA_SCALES[self.spec.eigenvalues] * beta.to(wide(beta.dtype)).sigmoid()
        log_decay = self._log_decay(dt[0]) if dt else None
        q_BTGN = q_BTGN * self.key_width**-0.5
        out_BTHP = recur(q_BTGN, k_BTGN, v_BTHP, place, cache, log_decay=log_decay, beta_BTH=beta_BTH)
        return self.out(self.norm(out_BTHP, z_BTHP).flatten(2))

    def _log_decay(self, dt_BTH: Tensor) -> Tensor:
        assert self.A_log is not None
        assert self.dt_bias is not None
        dtype = wide(dt_BTH.dtype)
        return -self.A_log.to(dtype).exp() * F.softplus(dt_BTH.to(dtype) + self.dt_bias.to(dtype))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
