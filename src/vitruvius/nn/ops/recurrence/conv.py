"""Short causal convolutions, one filter per channel: the last few tokens, mixed before a recurrence looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.recurrence.chunks import segments_of, working_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "silu": F.silu}
"""What a convolution's outputs may go through."""


def short_conv(
    x_BTD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None = None,
    *,
    activation: str = "none",
    state_BDK: Tensor | None = None,
    documents_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each channel's last K inputs under its own weights: outputs [B, T, D] and the state [B, D, K - 1] after them.

    weight_DK: the last column is the token's own. The state is the last K - 1 real inputs, zeros where there were
    fewer. documents_BT: no tap reaches into another document. real_BT: False at padding on the right, which leaves the
    state alone. Outputs are in at least fp32. Raises KeyError for an activation that is not in `ACTIVATIONS`.
    """
    return _convolve(_Taps.apply, x_BTD, weight_DK, bias_D, activation, state_BDK, documents_BT, real_BT)


def short_conv_matmul(
    x_BTD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None = None,
    *,
    activation: str = "none",
    state_BDK: Tensor | None = None,
    documents_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`short_conv` as one matmul per channel over its unfolded taps: the readable form, 2 * K * D FLOPs per token."""
    return _convolve(_unfolded, x_BTD, weight_DK, bias_D, activation, state_BDK, documents_BT, real_BT)


def _convolve(
    taps: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x_BTD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None,
    activation: str,
    state_BDK: Tensor | None,
    documents_BT: Tensor | None,
    real_BT: Tensor | None,
) -> tuple[Tensor, Tensor]:
    before = weight_DK.shape[1] - 1
    past = x_BTD.new_zeros(x_BTD.shape[0], before, x_BTD.shape[2])
    if state_BDK is not None:
        past = state_BDK.transpose(1, 2).to(x_BTD.dtype)
    known_BTD = torch.cat([past, x_BTD], dim=1)
    dtype = working_dtype(x_BTD, weight_DK)
    y_BTD = taps(known_BTD.to(dtype), weight_DK.to(dtype), _reach(documents_BT, before, dtype))
    if bias_D is not None:
        y_BTD = y_BTD + bias_D.to(dtype)
    return ACTIVATIONS[activation](y_BTD), _last(known_BTD, before, real_BT)


def _last(known_BTD: Tensor, before: int, real_BT: Tensor | None) -> Tensor:
    """The inputs that the next token's taps will reach, [B, D, K - 1]."""
    if real_BT is None:
        return known_BTD[:, known_BTD.shape[1] - before :].transpose(1, 2)
    index_BK = real_BT.sum(dim=1, keepdim=True) + torch.arange(before, device=known_BTD.device)
    index_BKD = index_BK.unsqueeze(-1).expand(-1, -1, known_BTD.shape[2])
    return known_BTD.gather(1, index_BKD).transpose(1, 2)


def _reach(documents_BT: Tensor | None, before: int, dtype: torch.dtype) -> Tensor | None:
    """[K, B, T]: one where a tap stays inside the document, oldest tap first. A state is of the first document."""
    if documents_BT is None:
        return None
    segments = segments_of(documents_BT)
    length = segments.shape[1]
    known = F.pad(segments, (before, 0))
    return torch.stack([known[:, tap : tap + length] == segments for tap in range(before + 1)]).to(dtype)


def _unfolded(known_BTD: Tensor, weight_DK: Tensor, reach: Tensor | None) -> Tensor:
    taps_BTDK = known_BTD.unfold(1, weight_DK.shape[1], 1)
    if reach is not None:
        taps_BTDK = taps_BTDK * reach.permute(1, 2, 0).unsqueeze(2)
    taps_DXK = taps_BTDK.permute(2, 0, 1, 3).flatten(1, 2)
    y_DX = torch.bmm(taps_DXK, weight_DK.unsqueeze(-1)).squeeze(-1)
    return y_DX.unflatten(1, taps_BTDK.shape[:2]).permute(1, 2, 0)


class _Taps(torch.autograd.Function):
    """A multiply-add per tap over whole rows, forward and backward, without unfolding or turning anything."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, weight: Tensor, reach: Tensor | None) -> Tensor:
        ctx.save_for_backward(known, weight, reach)
        count = weight.shape[1]
        length = known.shape[1] - count + 1
        y = known.new_zeros(known.shape[0], length, known.shape[2])
        for tap in range(count):
            seen = known[:, tap : tap + length]
            y.addcmul_(seen if reach is None else seen * reach[tap].unsqueeze(-1), weight[:, tap])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        known, weight, reach = ctx.saved_tensors
        known_grad, weight_grad = torch.zeros_like(known), torch.empty_like(weight)
        length = grads[0].shape[1]
        for tap in range(weight.shape[1]):
            grad = grads[0] if reach is None else grads[0] * reach[tap].unsqueeze(-1)
            weight_grad[:, tap] = (grad * known[:, tap : tap + length]).sum((0, 1))
            known_grad[:, tap : tap + length].addcmul_(grad, weight[:, tap])
        return known_grad, weight_grad, None
