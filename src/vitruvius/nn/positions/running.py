"""What runs along a sequence: sums and short convolutions that restart at each document and go on in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vitruvius.nn.backends.scores import document_runs, wide
from vitruvius.nn.mixers.recurrent import real_tokens

if TYPE_CHECKING:
    from torch import nn

    from vitruvius.nn.mixers.keyvalue import KeyValueStore
    from vitruvius.nn.place import Place


def wide_linear(linear: nn.Module, x_BTD: Tensor) -> Tensor:
    """A linear map in at least fp32: what is summed over a whole sequence must not be rounded to bf16 first."""
    dtype = wide(x_BTD.dtype)
    if not isinstance(linear, torch.nn.Linear):  # replaced by a transform: an adapter, a quantized map
        return linear(x_BTD).to(dtype)
    bias = linear.bias
    return F.linear(x_BTD.to(dtype), linear.weight.to(dtype), None if bias is None else bias.to(dtype))


def real_in(cache: KeyValueStore | None) -> Tensor | None:
    """Which tokens of the step are no padding, bool [B, T]; None where all are."""
    return None if cache is None else real_tokens(cache.step, cache.device)


def running_sum(
    step_BTC: Tensor, place: Place, cache: KeyValueStore | None, name: str, *, modulo: float | None = None
) -> Tensor:
    """Sums over the sequence so far, each token's own included: [B, T, ...] of [B, T, ...], in the dtype of the input.

    They restart at each document. With a cache they go on from `cache.running[name]`, [B, ...], which padding leaves
    alone, and which is kept modulo `modulo` where that is given: of angles, whole turns need no digits.
    """
    if cache is None:
        if place.documents is None:
            return step_BTC.cumsum(1)
        return sums_in_runs(step_BTC, document_runs(place.documents))
    real_BT = real_in(cache)
    if real_BT is not None:
        step_BTC = step_BTC.masked_fill(~_like(real_BT, step_BTC), 0.0)
    so_far_BC = cache.running[name]
    total_BTC = step_BTC.cumsum(1) + so_far_BC.unsqueeze(1).to(step_BTC.dtype)
    after_BC = total_BTC[:, -1].detach()
    so_far_BC.copy_(after_BC if modulo is None else after_BC.remainder(modulo))
    return total_BTC


def _like(flags_BT: Tensor, x_BTC: Tensor) -> Tensor:
    """Flags with as many axes as what they are about."""
    return flags_BT.view(*flags_BT.shape, *(1,) * (x_BTC.dim() - 2))


def sums_in_runs(step_BTC: Tensor, runs_BT: Tensor) -> Tensor:
    """Cumulative sums [B, T, ...] that restart wherever the run changes; runs are numbered upwards.

    By doubling: after round r each entry is the sum of the last 2^r steps of its run. Nothing is ever subtracted, so no
    document loses digits to, or has a gradient from, the one before.
    """
    total_BTC, reach = step_BTC, 1
    length = step_BTC.shape[1]
    while reach < length:
        same_BT = runs_BT[:, reach:] == runs_BT[:, :-reach]
        earlier = total_BTC[:, :-reach].masked_fill(~_like(same_BT, step_BTC), 0.0)
        total_BTC = torch.cat([total_BTC[:, :reach], total_BTC[:, reach:] + earlier], dim=1)
        reach *= 2
    return total_BTC


def short_convolution(u_BTC: Tensor, taps_CN: Tensor, place: Place, cache: KeyValueStore | None, name: str) -> Tensor:
    """Each channel's weighted sum over its last N tokens, [B, T, C] in the dtype of the taps.

    The last tap is the token's own. What lies before a document is zero. With a cache, `cache.running[name]` holds the
    last N - 1 tokens, [B, N - 1, C]; padding leaves it alone.
    """
    taps = taps_CN.shape[1]
    if cache is None:
        before_BNC = u_BTC.new_zeros(u_BTC.shape[0], taps - 1, u_BTC.shape[2])
    else:
        before_BNC = cache.running[name].to(u_BTC.dtype).clone()
    seen_BSC = torch.cat([before_BNC, u_BTC], dim=1)
    if cache is not None:
        _keep_last(cache, seen_BSC.detach(), name)
    shifted = [seen_BSC[:, tap : tap + u_BTC.shape[1]] for tap in range(taps)]
    if place.documents is not None:
        runs_BT = document_runs(place.documents)
        shifted = [_within(part, runs_BT, taps - 1 - tap) for tap, part in enumerate(shifted)]
    if place.backend == "reference":
        # As one matrix product per channel, which torch's FLOP counter sees.
        unfolded_CMN = torch.stack(shifted, dim=-1).flatten(0, 1).transpose(0, 1).to(taps_CN.dtype)
        return torch.bmm(unfolded_CMN, taps_CN.unsqueeze(-1)).squeeze(-1).t().unflatten(0, u_BTC.shape[:2])
    total = shifted[0].to(taps_CN.dtype) * taps_CN[:, 0]
    for tap in range(1, taps):
        total = torch.addcmul(total, shifted[tap].to(taps_CN.dtype), taps_CN[:, tap])
    return total


def _within(part_BTC: Tensor, runs_BT: Tensor, back: int) -> Tensor:
    """Zero where the token `back` places earlier belongs to another document."""
    if back == 0:
        return part_BTC
    same_BT = torch.zeros_like(runs_BT, dtype=torch.bool)
    same_BT[:, back:] = runs_BT[:, back:] == runs_BT[:, :-back]
    return part_BTC.masked_fill(~same_BT.unsqueeze(-1), 0.0)


def _keep_last(cache: KeyValueStore, seen_BSC: Tensor, name: str) -> None:
    """The last real tokens of each row, of those kept before and those of the step."""
    kept_BNC, step = cache.running[name], cache.step
    taps = kept_BNC.shape[1]
    if all(count == step.length for count in step.counts):
        kept_BNC.copy_(seen_BSC[:, seen_BSC.shape[1] - taps :])
        return
    first_B1 = torch.tensor(step.counts, device=seen_BSC.device).unsqueeze(1)
    index_BN = first_B1 + torch.arange(taps, device=seen_BSC.device)
    kept_BNC.copy_(seen_BSC.gather(1, index_BN.unsqueeze(-1).expand(-1, -1, seen_BSC.shape[2])))


def report_gates(place: Place, gates: Tensor, increments: Tensor, *, of: str = "position") -> None:
    """Mean and spread of gates, and how much what they add to the position varies from token to token.

    `increments` is [B, T, C]. Its variance over all tokens of the call, averaged over C, is `position_variance`: zero
    for a scheme that goes by distance alone, whose every token counts the same.
    """
    if place.signals is None:
        return
    gates, increments = gates.detach().float(), increments.detach().float()
    place.signals.report(f"{of}_gate_mean", gates.mean())
    place.signals.report(f"{of}_gate_std", gates.std(correction=0))
    place.signals.report(f"{of}_variance", increments.flatten(0, 1).var(0, correction=0).mean())
