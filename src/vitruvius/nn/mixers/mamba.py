"""Mamba: the selective scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import ShortConv, empty_recurrence
from vitruvius.nn.ops import gated_activation
from vitruvius.nn.ops.recurrence import clear_padding, selective_scan, selective_scan_step, selective_scan_steps
from vitruvius.nn.positions.running import wide_linear
from vitruvius.nn.registry import Factory, implements, make
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.mamba import Mamba

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope


@implements(Mamba)
class MambaModule(nn.Module):
    """One map in, a convolution, the scan with a skip, a gate, one map out; step sizes and A in at least fp32."""

    def __init__(self, spec: Mamba, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec, self.rank = spec, spec.rank(scope)
        inner, norm, bias = spec.inner(scope), spec.inner_norm, spec.bias == "all"
        self.in_proj = nn.Linear(scope.width, 2 * inner, bias=bias, **factory)
        self.conv = ShortConv(inner, spec.conv, factory, bias=spec.bias != "none")
        self.x_proj = nn.Linear(inner, self.rank + 2 * spec.state, bias=False, **factory)
        self.dt_norm = None if norm is None else make(norm, self.rank, factory)
        self.B_norm = None if norm is None else make(norm, spec.state, factory)
        self.C_norm = None if norm is None else make(norm, spec.state, factory)
        self.dt_proj = nn.Linear(self.rank, inner, **factory)
        self.A_log = nn.Parameter(torch.empty(inner, spec.state, **factory))
        self.D = nn.Parameter(torch.empty(inner, **factory))
        self.out_proj = nn.Linear(inner, scope.width, bias=bias, **factory)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        u_BTE, z_BTE = self.in_proj(x_BTD).chunk(2, dim=-1)
        u_BTE = self.conv(u_BTE, place, cache)  # in at least fp32, like all up to the gate
        dt, B, C = self.x_proj(u_BTE.to(z_BTE.dtype)).split([self.rank, self.spec.state, self.spec.state], dim=-1)
        if self.dt_norm is not None and self.B_norm is not None and self.C_norm is not None:
            dt, B, C = self.dt_norm(dt), self.B_norm(B), self.C_norm(C)
        dt_BTE = F.softplus(wide_linear(self.dt_proj, dt))
        y_BTE = self._scan(u_BTE, dt_BTE, B, C, place, cache)
        return self.out_proj(gated_activation(z_BTE.to(y_BTE.dtype), y_BTE).to(z_BTE.dtype))

    def _scan(
        self,
        u_BTE: Tensor,
        dt_BTE: Tensor,
        B_BTN: Tensor,
        C_BTN: Tensor,
        place: Place,
        cache: RecurrentState | None,
    ) -> Tensor:
        """The scan in the form that the call asks for."""
        form = selective_scan_steps if place.backend == "reference" else selective_scan
        A_EN = -self.A_log.to(wide(u_BTE.dtype)).exp()
        options: dict[str, Any] = {"skip_D": self.D}
        if cache is None:
            return form(u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, **options, documents_BT=place.documents)[0]
        (dt_BTE,) = clear_padding(cache.real(), dt_BTE)
        options["state_BDN"] = cache["state"]
        if place.length == 1:
            u, dt, B, C = (x[:, 0] for x in (u_BTE, dt_BTE, B_BTN, C_BTN))
            y_BE, state = selective_scan_step(u, dt, A_EN, B, C, **options)
            y_BTE = y_BE.unsqueeze(1)
        else:
            y_BTE, state = form(u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, **options)
        cache.replace("state", state.detach())
        return y_BTE

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.in_proj.weight)
