"""PaTH: attention over keys that every later token has mapped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.backends.scores import wide
from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.positions.blocks import BLOCK, Sight, grouped_scores, needs_gradient, recomputed, weighted_sum
from vitruvius.nn.positions.fox import cumulative_decay
from vitruvius.nn.positions.path_scores import Chunks, Reading, Stored, one_by_one
from vitruvius.nn.positions.running import real_in, short_convolution, wide_linear
from vitruvius.nn.registry import Factory, implements
from vitruvius.spec.positions.path import PathPosition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.nn.backends import Request
    from vitruvius.nn.mixers.keyvalue import KeyValueStore
    from vitruvius.nn.place import Place
    from vitruvius.patterns import Segment
    from vitruvius.spec import Scope
    from vitruvius.spec.node import Heads

EPSILON = 1e-6
"""Added to the norm that w is divided by."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    """What a call computes with: queries, keys and maps in at least fp32."""

    q_BHTK: Tensor
    k_BGTK: Tensor
    v_BGTK: Tensor
    w_BGTK: Tensor
    beta_BGT: Tensor
    """Zero at padding, whose map then does nothing."""
    decay_BHT: Tensor | None
    request: Request

    @property
    def length(self) -> int:
        """Tokens."""
        return self.q_BHTK.shape[2]


@implements(PathPosition)
class PathPositionModule(nn.Module):
    """The map of each token: a unit vector made of the last few tokens, and how much of it keys lose."""

    def __init__(self, spec: PathPosition, heads: Heads, scope: Scope, factory: Factory) -> None:
        super().__init__()
        self.groups, channels = heads.groups, heads.groups * heads.width
        self.w = self.w_down = self.w_up = self.taps = self.forget = None
        bare = {"bias": False, **factory}
        if spec.rank is None:
            self.w = nn.Linear(scope.width, channels, **bare)
        else:
            self.w_down = nn.Linear(scope.width, spec.rank, **bare)
            self.w_up = nn.Linear(spec.rank, channels, **bare)
        if spec.kernel > 1:
            self.taps = Taps(channels, spec.kernel, factory)
        self.beta = nn.Linear(scope.width, heads.groups, **factory)
        if spec.forget == "fox":
            self.forget = nn.Linear(scope.width, heads.queries, **factory)

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
        """Attention over mapped keys, [B, H, T, K]; memory grows with the length, times one block."""
        place, dtype = request.place, wide(q_BHTK.dtype)
        w_BGTK, beta_BGT = self.maps(x_BTD, place, cache)
        decay_BHT = None if self.forget is None else cumulative_decay(self.forget, x_BTD, place, cache, of="forget")
        inputs = _Inputs(
            q_BHTK=q_BHTK.to(dtype),
            k_BGTK=k_BGTK.to(dtype),
            v_BGTK=v_BGTK,
            w_BGTK=w_BGTK,
            beta_BGT=beta_BGT,
            decay_BHT=decay_BHT,
            request=request,
        )
        if cache is not None:
            return _one_step(inputs, cache) if inputs.length == 1 and all(cache.step.counts) else _steps(inputs, cache)
        return _dense(inputs) if place.backend == "reference" else _chunked(inputs)

    def maps(self, x_BTD: Tensor, place: Place, cache: KeyValueStore | None) -> tuple[Tensor, Tensor]:
        """Unit vectors w_BGTK and beta_BGT between 0 and 2, in at least fp32; beta is 0 at padding."""
        dtype = wide(x_BTD.dtype)
        if self.w is not None:
            u_BTC = self.w(x_BTD)
        else:
            assert self.w_down is not None
            assert self.w_up is not None
            u_BTC = self.w_up(self.w_down(x_BTD))
        if self.taps is not None:
            u_BTC = short_convolution(u_BTC, self.taps.weight.to(dtype), place, cache, "taps")
        u_BGTK = u_BTC.to(dtype).unflatten(2, (self.groups, -1)).transpose(1, 2)
        w_BGTK = u_BGTK / (u_BGTK.norm(dim=-1, keepdim=True) + EPSILON)
        beta_BTG = 2 * wide_linear(self.beta, x_BTD).sigmoid()
        self._report(place, w_BGTK, beta_BTG)
        real_BT = real_in(cache)
        if real_BT is not None:
            beta_BTG = beta_BTG.masked_fill(~real_BT.unsqueeze(-1), 0.0)
        return w_BGTK, beta_BTG.transpose(1, 2)

    def _report(self, place: Place, w_BGTK: Tensor, beta_BTG: Tensor) -> None:
        """Statistics of beta, and the variance of beta w w^T, element by element and then averaged."""
        if place.signals is None:
            return
        w_GNK = w_BGTK.detach().float().transpose(0, 1).flatten(1, 2)
        beta_GN = beta_BTG.detach().float().flatten(0, 1).t()
        mean_GKK = torch.matmul((beta_GN.unsqueeze(-1) * w_GNK).transpose(1, 2), w_GNK) / w_GNK.shape[1]
        squares_G = (beta_GN * w_GNK.square().sum(-1)).square().mean(1)
        variance = (squares_G - mean_GKK.square().sum((1, 2))).clamp(min=0.0).mean() / w_GNK.shape[-1] ** 2
        place.signals.report("position_gate_mean", beta_GN.mean())
        place.signals.report("position_gate_std", beta_GN.std(correction=0))
        place.signals.report("position_variance", variance)


class Taps(nn.Module):
    """The taps of a causal convolution of each channel by itself."""

    def __init__(self, channels: int, kernel: int, factory: Factory) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel, **factory))


def _dense(inputs: _Inputs) -> Tensor:
    """As the definition reads."""
    request, length = inputs.request, inputs.length
    scores_BHTS = one_by_one(inputs.k_BGTK, inputs.w_BGTK, inputs.beta_BGT, inputs.q_BHTK) * request.scale
    if inputs.decay_BHT is not None:
        scores_BHTS = scores_BHTS + (inputs.decay_BHT.unsqueeze(-1) - inputs.decay_BHT.unsqueeze(-2))
    mask = Sight.of(request).mask(0, length, slice(0, length))
    scores_BHTS = scores_BHTS.masked_fill(~mask, -torch.inf)
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    signals = request.place.signals
    if signals is not None and signals.attention is not None:
        signals.attention.append(weights_BHTS)
    if signals is not None and signals.largest_scores is not None:
        signals.largest_scores.append(scores_BHTS.amax(dim=(-2, -1)))
    return weighted_sum(weights_BHTS, inputs.v_BGTK)


def _chunked(inputs: _Inputs) -> Tensor:
    """A chunk of queries after another, each going left over the chunks that it needs."""
    q_BHTK, k_BGTK, w_BGTK, beta_BGT = inputs.q_BHTK, inputs.k_BGTK, inputs.w_BGTK, inputs.beta_BGT
    again = inputs.length > BLOCK and needs_gradient(q_BHTK, k_BGTK, inputs.v_BGTK, w_BGTK, beta_BGT)
    chunks = Chunks.of(k_BGTK, w_BGTK, beta_BGT, again=again, goes_on=inputs.length > BLOCK)
    sight = Sight.of(inputs.request)
    reading = Reading(
        chunks=chunks,
        v_BGTK=inputs.v_BGTK,
        scale=inputs.request.scale,
        mask_of=sight.mask,
        decay_BHT=inputs.decay_BHT,
    )
    parts: list[Tensor] = []
    for chunk in range(len(chunks.w)):
        start, stop = chunks.bounds(chunk)
        needed = {i for run in sight.segments(start, stop) for i in _chunks_of(run, chunks.size)}
        earlier = sorted(i for i in needed if i < chunk)
        parts.append(recomputed(reading.attend, q_BHTK[:, :, start:stop], chunk, earlier, again=again))
    return torch.cat(parts, dim=2)


def _chunks_of(run: Segment, size: int) -> Iterable[int]:
    """The chunks that a run of keys reaches into."""
    if run.step < size:
        return range(run.start // size, (run.stop - 1) // size + 1)
    return {key // size for key in range(run.start, run.stop, run.step)}


def _kept(inputs: _Inputs, k_BGTK: Tensor) -> dict[str, Tensor]:
    """What a step leaves for each of its tokens."""
    kept = {"k": k_BGTK, "v": inputs.v_BGTK}
    if inputs.decay_BHT is not None:
        kept["decay"] = inputs.decay_BHT.unsqueeze(-1)
    return kept


def _one_step(inputs: _Inputs, cache: KeyValueStore) -> Tensor:
    """One token per row: it maps the keys in the cache where they lie, then its query reads them."""
    keys_NSK = cache.slots["k"][:, :, : cache.held].flatten(0, 1)  # a view: rows and heads lie side by side
    w_N1K, beta_N11 = inputs.w_BGTK.detach().flatten(0, 1), inputs.beta_BGT.detach().reshape(-1, 1, 1)
    along_NS1 = torch.bmm(keys_NSK, w_N1K.transpose(1, 2)) * beta_N11
    torch.baddbmm(keys_NSK, along_NS1, w_N1K, alpha=-1, out=keys_NSK)
    request = inputs.request
    readable = cache.extend(_kept(inputs, inputs.k_BGTK), request.place.positions, request.pattern)
    scores_BHTS = grouped_scores(inputs.q_BHTK, readable.k_BGSK) * request.scale
    if inputs.decay_BHT is not None:
        kept_BHS = readable.tensors["decay"].squeeze(-1)
        scores_BHTS = scores_BHTS + (inputs.decay_BHT.unsqueeze(-1) - kept_BHS.unsqueeze(-2))
    if readable.mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~readable.mask, -torch.inf)
    return weighted_sum(scores_BHTS.softmax(dim=-1), readable.v_BGSK)


def _steps(inputs: _Inputs, cache: KeyValueStore) -> Tensor:
    """Several tokens per row, beside what the cache holds; it then holds all keys as the last token has mapped them."""
    chunks = Chunks.of(inputs.k_BGTK, inputs.w_BGTK, inputs.beta_BGT)
    k_end_BGTK, total_BGKK = chunks.at_end()
    kept_BGSK = cache.slots["k"][:, :, : cache.held]
    before_BGSK = kept_BGSK.clone()
    kept_BGSK.copy_(torch.matmul(before_BGSK, total_BGKK.detach().transpose(-1, -2)))
    request = inputs.request
    readable = cache.extend(_kept(inputs, k_end_BGTK), request.place.positions, request.pattern)
    old = readable.v_BGSK.shape[2] - inputs.length  # the step's own keys stand at the end

    rows_of = lru_cache(maxsize=1)(lambda start, stop: readable.mask_of(slice(start, stop)))

    def mask_of(start: int, stop: int, keys: slice) -> Tensor | None:
        mask = rows_of(start, stop)
        if mask is None:
            return None
        columns = slice(0, old) if keys.start >= inputs.length else slice(keys.start + old, keys.stop + old)
        return mask[..., columns]

    stored = None
    if old:
        decay = readable.tensors.get("decay")
        stored = Stored(
            k_BGSK=before_BGSK[:, :, :old],
            v_BGSK=readable.v_BGSK[:, :, :old],
            decay_BHS=None if decay is None else decay[:, :, :old].squeeze(-1),
        )
    reading = Reading(
        chunks=chunks,
        v_BGTK=inputs.v_BGTK,
        scale=request.scale,
        mask_of=mask_of,
        decay_BHT=inputs.decay_BHT,
        stored=stored,
    )
    parts = [
        reading.attend(inputs.q_BHTK[:, :, slice(*chunks.bounds(chunk))], chunk, range(chunk))
        for chunk in range(len(chunks.w))
    ]
    return torch.cat(parts, dim=2)
