"""Forgetting attention."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitruvius.nn.positions.running import real_in, report_gates, running_sum, wide_linear
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.fox import ForgettingPosition

if TYPE_CHECKING:
    from vitruvius.nn.backends import Request
    from vitruvius.nn.mixers.keyvalue import KeyValueStore, Readable
    from vitruvius.nn.place import Place
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads

NEGLIGIBLE = 10.0
"""Keys that are skipped have together at most e^-10 of a query's weight."""


def cumulative_decay(
    gate: nn.Module, x_BTD: Tensor, place: Place, cache: KeyValueStore | None, *, of: str = "position"
) -> Tensor:
    """Sums of log forget gates up to each token, c_BHT in at least fp32: the score of i and j gains c_i - c_j."""
    logits_BTH = wide_linear(gate, x_BTD)
    log_gates_BTH = F.logsigmoid(logits_BTH)
    report_gates(place, logits_BTH.detach().sigmoid(), log_gates_BTH, of=of)
    return running_sum(log_gates_BTH, place, cache, "decay_so_far").transpose(1, 2)


@implements(ForgettingPosition)
class ForgettingPositionModule(nn.Module):
    """A forget gate per query head, and while decoding the keys that it has left anything of."""

    def __init__(self, spec: ForgettingPosition, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.evict = spec.evict
        self.gate = nn.Linear(scope.width, heads.queries, **factory)

    def decay(self, x_BTD: Tensor, place: Place, cache: KeyValueStore | None) -> Tensor:
        """Sums of log gates up to each token, c_BHT in at least fp32."""
        return cumulative_decay(self.gate, x_BTD, place, cache)

    def prune(
        self, q_BHTK: Tensor, k_BGTK: Tensor, readable: Readable, request: Request, cache: KeyValueStore
    ) -> Readable:
        """With `evict: negligible`, the keys of a single-token step that are not dead; everything otherwise.

        Of the keys that a query i sees let b be the one with the largest c_i - c_b (itself, where it sees itself), M a
        bound on |scaled q_i . k_j|, and L the number of keys. Key j is dead when

            c_i - c_j < (c_i - c_b) - (2 M + ln L + 10)

        Then all dead keys together weigh at most L e^(M - (2 M + ln L + 10)) against at least e^(-M) of key b: e^-10.
        Gates never exceed one, so a dead key's c_i - c_j only falls, and it is dead for good unless a longer query
        raises M. M is |scale| times the norm of the query times that of the longest key so far, which a query and key
        norm bounds for every query. A key is skipped when it is dead for all heads and rows.
        """
        if self.evict == "never":
            return readable
        _remember_longest(k_BGTK, cache)
        if q_BHTK.shape[2] > 1:
            return readable  # a step of several tokens reads a copy of all keys anyway
        live_S = _live(q_BHTK, readable, request, cache.running["longest_key"])
        if request.place.signals is not None:
            request.place.signals.report("live_keys", live_S.sum().float())
        return _only(readable, live_S)


def _remember_longest(k_BGTK: Tensor, cache: KeyValueStore) -> None:
    longest_BG = cache.running["longest_key"]
    norms_BGT = k_BGTK.detach().to(longest_BG.dtype).norm(dim=-1)
    real_BT = real_in(cache)
    if real_BT is not None:
        norms_BGT = norms_BGT.masked_fill(~real_BT.unsqueeze(1), 0.0)
    torch.maximum(longest_BG, norms_BGT.amax(-1), out=longest_BG)


@torch.no_grad()
def _live(q_BH1K: Tensor, readable: Readable, request: Request, longest_BG: Tensor) -> Tensor:
    """Which slots some head of some row still reads, bool [S]."""
    assert request.decay is not None
    left_BHS = request.decay[0] - readable.tensors["decay"].squeeze(-1)
    mask = readable.mask
    if mask is not None:
        visible = mask if mask.dim() == 2 else mask.squeeze(1)
        left_BHS = left_BHS.masked_fill(~visible, -torch.inf)
    heads_per_group = q_BH1K.shape[1] // longest_BG.shape[1]
    norms_BH = q_BH1K.squeeze(2).to(longest_BG.dtype).norm(dim=-1)
    bound_BH = norms_BH * longest_BG.repeat_interleave(heads_per_group, dim=1) * abs(request.scale)
    if request.softcap is not None:
        bound_BH = bound_BH.clamp(max=request.softcap)
    least_BH = left_BHS.amax(-1) - (2 * bound_BH + log(left_BHS.shape[-1]) + NEGLIGIBLE)
    return (left_BHS >= least_BH.unsqueeze(-1)).flatten(0, 1).any(0)


def _only(readable: Readable, live_S: Tensor) -> Readable:
    """The readable without dead slots: a view where those left lie side by side."""
    index, mask = live_S.nonzero().squeeze(1), readable.mask
    count = index.numel()
    if count == live_S.numel() or count == 0:
        return readable
    first = int(index[0])
    chosen = slice(first, first + count) if int(index[-1]) - first + 1 == count else index
    return replace(
        readable,
        tensors={name: tensor[:, :, chosen] for name, tensor in readable.tensors.items()},
        positions=readable.positions[..., chosen],
        seen=None if mask is None else mask[..., chosen],
    )
