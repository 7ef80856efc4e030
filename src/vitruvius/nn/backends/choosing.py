"""Attention of a whole sequence to itself, by the backend that the table gives the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError
from vitruvius.nn.backends.chunked import chunked
from vitruvius.nn.backends.reference import reference
from vitruvius.nn.backends.request import Asked
from vitruvius.nn.backends.sdpa import sdpa
from vitruvius.nn.backends.table import TABLE, lookup, situation_of
from vitruvius.nn.ops.compiling import uncompiled

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def _flex(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """FlexAttention, imported when it is first asked for: torch's compiler is large."""
    from vitruvius.nn.backends.flex import flex

    return flex(q_BHTK, k_BGTK, v_BGTK, request)


BACKENDS = {"reference": reference, "sdpa": sdpa, "chunked": chunked, "flex": _flex}


def choose(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> str:
    """The backend that the table gives a call."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTK, k_BGTK, v_BGTK))
    situation = situation_of(
        request,
        device=q_BHTK.device.type,
        dtype=str(q_BHTK.dtype).removeprefix("torch."),
        work="train" if wanted else "infer",
        widths=(q_BHTK.shape[-1], v_BGTK.shape[-1]),
    )
    return lookup(TABLE, situation).backend


@uncompiled  # what is looked up by a pattern has keys that a compiler's guards do not tell apart
def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Attention of a whole sequence to itself, [B, H, T, K]."""
    signals, name = request.place.signals, request.place.backend
    if signals is not None and signals.requests is not None:
        signals.requests.append(Asked(request=request, widths=(q_BHTK.shape[-1], v_BGTK.shape[-1]), stored=False))
    if name == "auto":
        name = choose(q_BHTK, k_BGTK, v_BGTK, request)
    if name not in BACKENDS:
        raise UsageError(f"there is no backend {name!r}", fix=f"use auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](q_BHTK, k_BGTK, v_BGTK, request)
