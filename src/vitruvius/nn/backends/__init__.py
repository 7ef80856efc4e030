"""How attention is computed: pattern, device and dtype choose a backend from one table.

    reference   every score in the open, in the dtype of the inputs: what the others are held against
    sdpa        torch's scaled dot product attention, for plain causal attention
    chunked     blocks of queries over the keys their pattern allows: exact, memory linear in length, trains anywhere

All of them take q_BHTK, k_BGTK, v_BGTK and a `Request`, and return out_BHTK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vitruvius.errors import UsageError
from vitruvius.nn.backends.chunked import chunked
from vitruvius.nn.backends.reference import reference
from vitruvius.nn.backends.request import Request, TableBias
from vitruvius.nn.backends.sdpa import sdpa
from vitruvius.nn.backends.stored import attend_stored
from vitruvius.patterns import causal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BACKENDS", "Request", "TableBias", "attend", "attend_stored", "choose"]

BACKENDS = {"reference": reference, "sdpa": sdpa, "chunked": chunked}


def choose(request: Request, *, device: str, training: bool) -> str:
    """The backend for a call: the first row of the table that fits.

        plain causal, one document per row, no bias, on a GPU or without gradients      sdpa
        everything else                                                                chunked

    On CPUs the chunked backend also serves plain causal training: its batched products beat the flash backward there.
    """
    plain = request.pattern == causal and not request.terms
    if plain and (device != "cpu" or not training):
        return "sdpa"
    return "chunked"


def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request) -> Tensor:
    """Attention of a whole sequence to itself, [B, H, T, K]."""
    name = request.place.backend
    if name == "auto":
        training = torch.is_grad_enabled() and q_BHTK.requires_grad
        name = choose(request, device=q_BHTK.device.type, training=training)
    if name not in BACKENDS:
        raise UsageError(f"there is no backend {name!r}", fix=f"use auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](q_BHTK, k_BGTK, v_BGTK, request)
