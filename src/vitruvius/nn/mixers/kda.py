"""Kimi delta attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.deltanet import BETA_SCALES
from vitruvius.nn.mixers.linear import GatedNorm, ShortConv, empty_recurrence, recur, unit
from vitruvius.nn.projection import project
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.kda import KimiDelta

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(KimiDelta)
class KimiDeltaModule(nn.Module):
    """As Gated DeltaNet, with low-rank maps to a decay per channel and to a sigmoid gate."""

    def __init__(self, spec: KimiDelta, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        self.key_width, self.value_width = spec.key_width(scope), spec.width_of_value(scope)
        self.widths = [spec.heads * self.key_width] * 2 + [spec.heads * self.value_width]
        rank, bare = spec.inner_rank(scope), {"bias": False, **factory}
        self.q, self.k, self.v = (nn.Linear(scope.width, rows, **bare) for rows in self.widths)
        self.beta = nn.Linear(scope.width, spec.heads, **bare)
        self.decay_down = nn.Linear(scope.width, rank, **bare)
        self.gate_down = nn.Linear(scope.width, rank, **bare)
        self.conv = ShortConv(sum(self.widths), spec.conv, factory)
        self.decay_up = nn.Linear(rank, self.widths[0], **bare)
        self.dt_bias = nn.Parameter(torch.empty(self.widths[0], **factory))
        self.A_log = nn.Parameter(torch.empty(spec.heads, **factory))
        self.gate_up = nn.Linear(rank, self.widths[2], **bare)
        self.norm = GatedNorm(self.value_width, factory, eps=spec.norm_eps, activation="sigmoid")
        self.out = nn.Linear(self.widths[2], scope.width, **bare)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        maps = (self.q, self.k, self.v, self.beta, self.decay_down, self.gate_down)
        q, k, v, beta, decay, gate = project(x_BTD, maps)
        mixed = self.conv(torch.cat([q, k, v], dim=-1), place, cache)
        q, k, v = mixed.split(self.widths, dim=-1)
        q_BTHN, k_BTHN = (unit(part.unflatten(2, (-1, self.key_width))) for part in (q, k))
        v_BTHP, z_BTHP = (part.unflatten(2, (-1, self.value_width)) for part in (v, self.gate_up(gate)))
        dtype = wide(x_BTD.dtype)
        beta_BTH = BETA_SCALES[self.spec.eigenvalues] * beta.to(dtype).sigmoid()
        dt_BTHN = F.softplus(self.decay_up(decay).to(dtype) + self.dt_bias.to(dtype)).unflatten(2, (-1, self.key_width))
        log_decay = -self.A_log.to(dtype).exp().unsqueeze(-1) * dt_BTHN
        q_BTHN = q_BTHN * self.key_width**-0.5
        out_BTHP = recur(q_BTHN, k_BTHN, v_BTHP, place, cache, log_decay=log_decay, beta_BTH=beta_BTH)
        return self.out(self.norm(out_BTHP, z_BTHP).flatten(2))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
