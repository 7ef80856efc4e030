"""Contextual positions: a kernel of its own, because a position depends on all scores between query and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.positions.blocks import BLOCK, Sight, grouped_scores, needs_gradient, recomputed, weighted_sum
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.cope import ContextualPosition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.nn.backends import Request
    from vitruvius.nn.mixers.keyvalue import KeyValueStore, Readable
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads


@implements(ContextualPosition)
class ContextualPositionModule(nn.Module):
    """Vectors of the positions 0, 1, ..., which fractional counts are interpolated between."""

    def __init__(self, spec: ContextualPosition, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        shape = spec.tensors_for_heads(heads, scope)["weight"].shape
        self.weight = nn.Parameter(torch.empty(shape, **factory))

    @uncompiled
    def attend(
        self,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        x_BTD: Tensor,
        request: Request,
        cache: KeyValueStore | None,
    ) -> Tensor:
        """Attention with contextual positions, [B, H, T, K]; memory grows with the length, times one block."""
        del x_BTD
        gates = _Gates(request)
        if cache is not None:
            out_BHTK = self._stored(q_BHTK, k_BGTK, v_BGTK, request, cache, gates)
        elif request.place.backend == "reference":
            out_BHTK = self._dense(q_BHTK, k_BGTK, v_BGTK, request, gates)
        else:
            out_BHTK = self._blocks(q_BHTK, k_BGTK, v_BGTK, request, gates)
        gates.report()
        return out_BHTK

    def _dense(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request, gates: _Gates) -> Tensor:
        """Every score in the open."""
        length = q_BHTK.shape[2]
        mask = Sight.of(request).mask(0, length, slice(0, length))
        weights_BHTS, gates_BHTS = _weights(q_BHTK, k_BGTK, self.weight, mask, None, request.scale)
        gates.add(gates.tally(gates_BHTS, mask))
        signals = request.place.signals
        if signals is not None and signals.attention is not None:
            signals.attention.append(weights_BHTS)
        return weighted_sum(weights_BHTS, v_BGTK)

    def _blocks(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, request: Request, gates: _Gates) -> Tensor:
        """A block of queries after another over the keys that it may see; the backward pass computes each again."""
        sight, length = Sight.of(request), q_BHTK.shape[2]
        again = length > BLOCK and needs_gradient(q_BHTK, k_BGTK, v_BGTK, self.weight)
        parts: list[Tensor] = []
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            keys = _in_order(sight, start, stop, q_BHTK.device)
            inputs = (q_BHTK[:, :, start:stop], k_BGTK, v_BGTK, start, keys, sight, gates)
            part, counted = recomputed(self._block, *inputs, again=again)
            gates.add(counted)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _block(
        self,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        start: int,
        keys: slice | Tensor,
        sight: Sight,
        gates: _Gates,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # The mask is made in here, so that only one block's exists at a time.
        mask = sight.mask(start, start + q_BHTK.shape[2], keys)
        weights_BHTS, gates_BHTS = _weights(q_BHTK, k_BGTK[:, :, keys], self.weight, mask, None, gates.scale)
        return weighted_sum(weights_BHTS, v_BGTK[:, :, keys]), gates.tally(gates_BHTS, mask)

    def _stored(
        self,
        q_BHTK: Tensor,
        k_BGTK: Tensor,
        v_BGTK: Tensor,
        request: Request,
        cache: KeyValueStore,
        gates: _Gates,
    ) -> Tensor:
        """New queries over keys in a cache, which stand there in any order."""
        readable = cache.extend({"k": k_BGTK, "v": v_BGTK}, request.place.positions, request.pattern)
        order = _order(readable, request, cache)
        parts: list[Tensor] = []
        for start in range(0, q_BHTK.shape[2], BLOCK):
            q = q_BHTK[:, :, start : start + BLOCK]
            mask = readable.mask_of(slice(start, start + BLOCK))
            weights_BHTS, gates_BHTS = _weights(q, readable.k_BGSK, self.weight, mask, order, request.scale)
            gates.add(gates.tally(gates_BHTS, mask))
            parts.append(weighted_sum(weights_BHTS, readable.v_BGSK))
        return torch.cat(parts, dim=2)


def _in_order(sight: Sight, start: int, stop: int, device: torch.device) -> slice | Tensor:
    """The keys that a block needs, from the first to the last, since positions are counted along them."""
    runs = sight.segments(start, stop)
    if len(runs) == 1:
        return runs[0].slice
    return torch.cat([torch.arange(r.start, r.stop, r.step, device=device) for r in runs]).sort().values


def _order(readable: Readable, request: Request, cache: KeyValueStore) -> tuple[Tensor, Tensor]:
    """The slots by position, and the place of each slot in that order: [S] or [B, S]; layers of a step share them."""
    key = ("order of slots", cache.plan, request.pattern)
    known = cache.step.memo.get(key)
    if not isinstance(known, tuple):
        order = readable.positions.argsort(dim=-1)
        known = order, order.argsort(dim=-1)
        cache.step.memo[key] = known
    return known


def _weights(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    table: Tensor,
    mask: Tensor | None,
    order: tuple[Tensor, Tensor] | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention weights and gates, [B, H, T, S] in at least fp32; what is not visible has neither."""
    scores_BHTS = grouped_scores(q_BHTK, k_BGSK) * scale
    scores_BHTS = scores_BHTS.to(wide(scores_BHTS.dtype))
    gates_BHTS = scores_BHTS.sigmoid()
    if mask is not None:
        # Before the sum: what a query does not see is not counted either.
        gates_BHTS = gates_BHTS.masked_fill(~mask, 0.0)
    counts_BHTS = _since(gates_BHTS, order).clamp(max=table.shape[-2] - 1)
    scores_BHTS = scores_BHTS + _interpolated(q_BHTK, table, counts_BHTS)
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf)
    return scores_BHTS.softmax(dim=-1), gates_BHTS


def _since(gates_BHTS: Tensor, order: tuple[Tensor, Tensor] | None) -> Tensor:
    """The sum of the gates from each key to the last; keys stand in order, or in the order given."""
    if order is not None:
        gates_BHTS = _reordered(gates_BHTS, order[0])
    sums = gates_BHTS.flip(-1).cumsum(-1).flip(-1)
    return sums if order is None else _reordered(sums, order[1])


def _reordered(x_BHTS: Tensor, index: Tensor) -> Tensor:
    if index.dim() == 1:
        return x_BHTS.index_select(-1, index)
    return x_BHTS.gather(-1, index[:, None, None].expand_as(x_BHTS))


def _interpolated(q_BHTK: Tensor, table: Tensor, counts_BHTS: Tensor) -> Tensor:
    """Products with vectors at fractional positions, [B, H, T, S]: between those with the vectors below and above."""
    products_BHTN = torch.matmul(q_BHTK, table.transpose(-1, -2)).to(counts_BHTS.dtype)
    below = counts_BHTS.detach().floor()
    share = counts_BHTS - below
    low = products_BHTN.gather(-1, below.long())
    high = products_BHTN.gather(-1, counts_BHTS.detach().ceil().long())
    return low + (high - low) * share


class _Gates:
    """Statistics of the gates of all visible pairs of a call."""

    def __init__(self, request: Request) -> None:
        self.signals, self.scale = request.place.signals, request.scale
        self.sums: list[Tensor] = []

    def tally(self, gates_BHTS: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """(number, sum, sum of squares) of a block's gates by head, or nothing where nobody listens."""
        if self.signals is None:
            return ()
        gates_HN = gates_BHTS.detach().double().transpose(0, 1).flatten(1)
        seen = 1.0 if mask is None else float(mask.sum()) / mask.numel()
        return torch.full_like(gates_HN[:, 0], seen * gates_HN.shape[1]), gates_HN.sum(1), gates_HN.square().sum(1)

    def add(self, counted: Sequence[Tensor]) -> None:
        """That of one block."""
        if counted:
            self.sums.append(torch.stack(tuple(counted)))

    def report(self) -> None:
        """Mean and spread over all heads, and the variance of each head by itself.

        What a key adds to the position of those before it is its gate, so that is the variance of the encoding.
        """
        if self.signals is None:
            return
        number, total, squares = torch.stack(self.sums).sum(0)
        mean, square = total.sum() / number.sum(), squares.sum() / number.sum()
        by_head = (squares / number - (total / number).square()).clamp(min=0.0)
        self.signals.report("position_gate_mean", mean.float())
        self.signals.report("position_gate_std", (square - mean.square()).clamp(min=0.0).sqrt().float())
        self.signals.report("position_variance", by_head.mean().float())
