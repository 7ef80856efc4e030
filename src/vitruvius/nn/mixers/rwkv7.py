"""RWKV-7's time mixing."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.linear import empty_recurrence, recur_rank_one, unit
from vitruvius.nn.ops import layer_norm
from vitruvius.nn.ops.recurrence import short_conv
from vitruvius.nn.registry import Factory, implements
from vitruvius.nn.shapes import Float, shaped
from vitruvius.spec.mixers.rwkv7 import RWKV7, SHIFTED

if TYPE_CHECKING:
    from vitruvius.nn.mixers.recurrent import RecurrentState
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope

FASTEST = exp(-0.5)
"""The strongest log decay of a step."""


class HeadNorm(nn.Module):
    """LayerNorm of each head by itself, with a gain and a shift for every channel of all heads."""

    def __init__(self, width: int, factory: Factory, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = (nn.Parameter(torch.empty(width, **factory)) for _ in range(2))

    def forward(self, y_BTHN: Tensor) -> Tensor:
        """[B, T, H, N] to [B, T, D]."""
        return layer_norm(y_BTHN, eps=self.eps).flatten(2) * self.weight + self.bias


@implements(RWKV7)
class RWKV7Module(nn.Module):
    """Shifted inputs, the recurrence, a norm per head, a bonus for the token itself, a gate, the map back."""

    def __init__(self, spec: RWKV7, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.spec = spec
        width, bare = scope.width, {"bias": False, **factory}
        for name in SHIFTED:
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.empty(width, **factory)))
        self.r, self.k, self.v = (nn.Linear(width, width, **bare) for _ in range(3))
        ranks = {"decay": spec.decay_rank, "rate": spec.rate_rank}
        if spec.value_from is not None:
            ranks["value"] = spec.value_rank
        for name, rank in ranks.items():
            self.add_module(f"{name}_down", nn.Linear(width, rank, **bare))
            self.add_module(f"{name}_up", nn.Linear(rank, width, **bare))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(width, **factory)))
        self.gate_down = nn.Linear(width, spec.gate_rank, **bare)
        self.gate_up = nn.Linear(spec.gate_rank, width, **bare)
        self.removal, self.replacement, self.bonus = (nn.Parameter(torch.empty(width, **factory)) for _ in range(3))
        self.norm = HeadNorm(width, factory, eps=spec.norm_eps)
        self.out = nn.Linear(width, width, **bare)

    @shaped
    def forward(
        self, x_BTD: Float[Tensor, "B T D"], place: Place, cache: RecurrentState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix positions: [B, T, D] to [B, T, D]."""
        if cache is not None:
            cache.begin()
        dtype = wide(x_BTD.dtype)
        step_BTD = self._previous(x_BTD, place, cache) - x_BTD
        r_in, w_in, k_in, v_in, a_in, g_in = (x_BTD + step_BTD * getattr(self, f"mix_{name}") for name in SHIFTED)
        r, k, v = self.r(r_in), self.k(k_in), self._mixed(self.v(v_in), v_in, place)
        log_decay = -FASTEST * self._low_rank("decay", w_in, torch.tanh).sigmoid()
        rate = self._low_rank("rate", a_in).sigmoid()
        k = k.to(dtype)
        kappa_BTHN = unit(self._split(k * self.removal))
        k = k * (1 + (rate - 1) * self.replacement)
        r_BTHN, k_BTHN, v_BTHN, w_BTHN, rate_BTHN = (self._split(part) for part in (r, k, v, log_decay, rate))
        y_BTHN = recur_rank_one(
            r_BTHN,
            k_BTHN,
            v_BTHN,
            place,
            cache,
            log_decay_BTHN=w_BTHN,
            a_BTHN=-kappa_BTHN,
            b_BTHN=kappa_BTHN * rate_BTHN,
        )
        y_BTD = self.norm(y_BTHN)
        own_BTH1 = (r_BTHN * k_BTHN * self._split(self.bonus)).sum(-1, keepdim=True)
        y_BTD = y_BTD + (own_BTH1 * v_BTHN).flatten(2)
        gate_BTD = self.gate_up(self.gate_down(g_in).sigmoid())
        return self.out((y_BTD * gate_BTD).to(gate_BTD.dtype))

    def _previous(self, x_BTD: Tensor, place: Place, cache: RecurrentState | None) -> Tensor:
        """The token before each one, zero where a document starts: a convolution that looks at nothing else."""
        taps_D2 = torch.tensor([1.0, 0.0], device=x_BTD.device, dtype=x_BTD.dtype).expand(x_BTD.shape[2], 2)
        options: dict[str, Any] = {"documents_BT": place.documents}
        if cache is not None:
            options |= {"state_BDK": cache["token"], "real_BT": cache.real()}
        before_BTD, last = short_conv(x_BTD, taps_D2, **options)
        if cache is not None:
            cache.replace("token", last.detach())
        return before_BTD.to(x_BTD.dtype)

    def _mixed(self, v_BTD: Tensor, v_in: Tensor, place: Place) -> Tensor:
        """The values, with a share of those of an earlier layer where the spec says so; left for others to read."""
        if self.spec.value_from is not None:
            assert place.layer is not None
            other_BTD = place.passed.values[dict(place.layer.loans())["values"]].transpose(1, 2).flatten(2)
            share_BTD = self._low_rank("value", v_in).sigmoid().to(v_BTD.dtype)
            v_BTD = v_BTD + (other_BTD - v_BTD) * share_BTD
        if place.layer is not None and "values" in place.layer.lends:
            place.passed.values[place.layer.index] = self._split(v_BTD).transpose(1, 2)
        return v_BTD

    def _low_rank(self, name: str, x_BTD: Tensor, inside: Any = None) -> Tensor:
        """Bias + up(inside(down(x))), in at least fp32."""
        down, up, bias = (getattr(self, f"{name}_{part}") for part in ("down", "up", "bias"))
        h = down(x_BTD)
        dtype = wide(h.dtype)
        return up(h if inside is None else inside(h)).to(dtype) + bias.to(dtype)

    def _split(self, x: Tensor) -> Tensor:
        """Heads apart."""
        return x.unflatten(-1, (-1, self.spec.head_width))

    def decode_state(self, batch: int, capacity: int, scope: Scope) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return empty_recurrence(self.spec, scope, batch=batch, capacity=capacity, like=self.out.weight)
