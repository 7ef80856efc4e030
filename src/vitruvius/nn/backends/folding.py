"""A pattern whose distances are all multiples of r never lets positions of different residue mod r meet: the residues
become rows of the batch and the pattern a plain window, r times cheaper and exactly the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vitruvius.nn.backends.plans import only_distance
from vitruvius.nn.backends.request import TableBias
from vitruvius.nn.backends.scores import document_runs
from vitruvius.patterns import Pattern, fold

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def folding(request: Request, length: int) -> tuple[int, Pattern]:
    """How far apart positions that ever meet stand, and the pattern among them; 1 where folding gains nothing.

    A prefix makes all of its positions meet; chunks count from the start of the document, which may stand anywhere.
    """
    packed = request.place.documents is not None
    if request.prefix_B is not None or (packed and not only_distance(request.pattern)):
        return 1, request.pattern
    step, pattern = fold(request.pattern)
    return (step, pattern) if 1 < step < length else (1, request.pattern)


def folded_request(request: Request, step: int, pattern: Pattern, length: int, batch: int) -> Request:
    """The request among positions of one residue: [B, ...] becomes [B * step, ...], T becomes ceil(T / step)."""
    place = request.place
    device = place.positions.device
    documents_BT = None if place.documents is None else document_runs(place.documents)
    if documents_BT is None and length % step and not pattern.is_causal:
        # Nobody may read the padding behind the last residues; a causal pattern does not anyway.
        documents_BT = torch.zeros(batch, length, dtype=torch.int64, device=device)
    if documents_BT is not None:
        padded = F.pad(documents_BT, (0, -length % step), value=-1)
        documents_BT = padded.view(batch, -1, step).transpose(1, 2).flatten(0, 1)
    bias, table, decay = request.bias, request.table, request.decay
    if table is not None:
        index = table.index
        table = TableBias(weight_RH=table.weight_RH, index=lambda q, k: index(q * step, k * step))
    return replace(
        request,
        pattern=pattern,
        place=replace(place, positions=torch.arange(-(-length // step), device=device), documents=documents_BT),
        bias=None if bias is None else lambda q, k, heads: bias(q * step, k * step, heads),
        table=table,
        decay=None if decay is None else (_fold_decay(decay[0], step), _fold_decay(decay[1], step)),
    )


def fold_time(x_BHTK: Tensor, step: int) -> Tensor:
    """Residues of time as batch rows: [B, H, T, K] to [B * step, H, ceil(T / step), K], padded at the end."""
    batch, heads, length, width = x_BHTK.shape
    x_BHTK = F.pad(x_BHTK, (0, 0, 0, -length % step))
    return x_BHTK.view(batch, heads, -1, step, width).permute(0, 3, 1, 2, 4).flatten(0, 1)


def unfold_time(x_BHTK: Tensor, step: int, length: int) -> Tensor:
    """Back to [B, H, T, K]."""
    return x_BHTK.unflatten(0, (-1, step)).permute(0, 2, 3, 1, 4).flatten(2, 3)[:, :, :length]


def _fold_decay(c_BHT: Tensor, step: int) -> Tensor:
    return fold_time(c_BHT.unsqueeze(-1), step).squeeze(-1)
