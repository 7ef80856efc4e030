"""What the modules of linear-time mixers share: the choice of a form, convolutions and norms with their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.mixers.recurrent import RecurrentState, empty_state
from vitruvius.nn.ops import gated_activation, rms_norm
from vitruvius.nn.ops.recurrence import (
    clear_padding,
    diagonal_rank_one,
    diagonal_rank_one_step,
    diagonal_rank_one_steps,
    gated_delta,
    gated_delta_step,
    gated_delta_steps,
    short_conv,
    short_conv_matmul,
)

if TYPE_CHECKING:
    from vitruvius.nn.place import Place
    from vitruvius.nn.registry import Factory
    from vitruvius.spec import Scope
    from vitruvius.spec.mixers.recurrent import Recurrent

NORMALISED = 1e-6
"""Added to the squared length of queries and keys that are brought to length 1."""


def empty_recurrence(spec: Recurrent, scope: Scope, *, batch: int, capacity: int, like: Tensor) -> RecurrentState:
    """The state of `batch` sequences before their first token, with the device and format of `like`."""
    specs = spec.state_tensors(scope, capacity)
    return RecurrentState(empty_state(specs, batch, device=like.device, dtype=like.dtype))


def unit(x: Tensor) -> Tensor:
    """The last axis at length 1, in at least fp32."""
    x = x.to(wide(x.dtype))
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORMALISED)


class ShortConv(nn.Module):
    """A short causal convolution of each channel, which goes on in a cache."""

    def __init__(
        self, channels: int, taps: int, factory: Factory, *, bias: bool = False, activation: str = "silu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(channels, taps, **factory))
        self.bias = nn.Parameter(torch.empty(channels, **factory)) if bias else None

    def forward(self, x_BTD: Tensor, place: Place, cache: RecurrentState | None, name: str = "conv") -> Tensor:
        """[B, T, D] to [B, T, D] in at least fp32; `name` is that of the state in the cache."""
        form = short_conv_matmul if place.backend == "reference" else short_conv
        options: dict[str, Any] = {"activation": self.activation, "documents_BT": place.documents}
        if cache is not None:
            options |= {"state_BDK": cache[name], "real_BT": cache.real()}
        y_BTD, state = form(x_BTD, self.weight, self.bias, **options)
        if cache is not None:
            cache.replace(name, state.detach())
        return y_BTD


class GatedNorm(nn.Module):
    """An RMS norm with a gate: act(z) multiplies what comes out of the norm, or what goes in."""

    def __init__(
        self,
        width: int,
        factory: Factory,
        *,
        eps: float,
        order: Literal["norm-first", "gate-first"] = "norm-first",
        activation: Literal["silu", "sigmoid"] = "silu",
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.eps, self.order, self.activation, self.groups = eps, order, activation, groups
        self.weight = nn.Parameter(torch.empty(width, **factory))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """[..., width] twice to [..., width], computed in the format of `x` and rounded once to that of `z`.

        Each group of channels is normalised by itself.
        """
        dtype, z, weight = z.dtype, z.to(x.dtype), self.weight.to(x.dtype)
        if self.order == "gate-first":
            x = self._gated(x, z)
        if self.groups > 1:
            x = rms_norm(x.unflatten(-1, (self.groups, -1)), eps=self.eps).flatten(-2) * weight
        else:
            x = rms_norm(x, weight, eps=self.eps)
        return (x if self.order == "gate-first" else self._gated(x, z)).to(dtype)

    def _gated(self, x: Tensor, z: Tensor) -> Tensor:
        return gated_activation(z, x) if self.activation == "silu" else x * z.sigmoid()


def recur(
    q_BTGN: Tensor,
    k_BTGN: Tensor,
    v_BTHP: Tensor,
    place: Place,
    cache: RecurrentState | None,
    *,
    log_decay: Tensor | None = None,
    beta_BTH: Tensor | None = None,
) -> Tensor:
    """`gated_delta` in the form that the call asks for: chunks, steps for a reading, or one step on from the cache.

    In at least fp32, outputs included: what a norm makes large must not be rounded before.
    """
    v_BTHP = v_BTHP.to(wide(v_BTHP.dtype))
    options: dict[str, Any] = {"log_decay": log_decay, "beta_BTH": beta_BTH}
    form = gated_delta_steps if place.backend == "reference" else gated_delta
    if cache is None:
        return form(q_BTGN, k_BTGN, v_BTHP, **options, documents_BT=place.documents)[0]
    real_BT = cache.real()
    (k_BTGN,) = clear_padding(real_BT, k_BTGN)
    options = {name: None if x is None else clear_padding(real_BT, x)[0] for name, x in options.items()}
    if place.length == 1:
        q, k, v = (x[:, 0] for x in (q_BTGN, k_BTGN, v_BTHP))
        decay, beta = (None if x is None else x[:, 0] for x in options.values())
        out, state = gated_delta_step(q, k, v, log_decay=decay, beta_BH=beta, state_BHNP=cache["state"])
        out = out.unsqueeze(1)
    else:
        out, state = form(q_BTGN, k_BTGN, v_BTHP, **options, state_BHNP=cache["state"])
    cache.replace("state", state.detach())
    return out


def recur_rank_one(
    q_BTHN: Tensor,
    k_BTHN: Tensor,
    v_BTHP: Tensor,
    place: Place,
    cache: RecurrentState | None,
    *,
    log_decay_BTHN: Tensor,
    a_BTHN: Tensor,
    b_BTHN: Tensor,
) -> Tensor:
    """`diagonal_rank_one` in the form that the call asks for, in at least fp32."""
    v_BTHP = v_BTHP.to(wide(v_BTHP.dtype))
    form = diagonal_rank_one_steps if place.backend == "reference" else diagonal_rank_one
    options: dict[str, Any] = {"log_decay_BTHN": log_decay_BTHN, "a_BTHN": a_BTHN, "b_BTHN": b_BTHN}
    if cache is None:
        return form(q_BTHN, k_BTHN, v_BTHP, **options, documents_BT=place.documents)[0]
    k_BTHN, w, b = clear_padding(cache.real(), k_BTHN, log_decay_BTHN, b_BTHN)
    if place.length == 1:
        q, k, v = (x[:, 0] for x in (q_BTHN, k_BTHN, v_BTHP))
        w, a, b = w[:, 0], a_BTHN[:, 0], b[:, 0]
        out, state = diagonal_rank_one_step(q, k, v, log_decay_BHN=w, a_BHN=a, b_BHN=b, state_BHNP=cache["state"])
        out = out.unsqueeze(1)
    else:
        options |= {"log_decay_BTHN": w, "b_BTHN": b}
        out, state = form(q_BTHN, k_BTHN, v_BTHP, **options, state_BHNP=cache["state"])
    cache.replace("state", state.detach())
    return out
