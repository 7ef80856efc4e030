"""What every backend shares: which pairs are visible, what is added to their scores, and what a sink takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.backends.request import Request


def wide(dtype: torch.dtype) -> torch.dtype:
    """The number format of statistics over numbers of a format: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def visible(request: Request, q_positions: Tensor, k_positions: Tensor) -> Tensor:
    """Which pairs the pattern and the open prefix allow: bool [T, S], or [B, 1, T, S] when rows differ."""
    q, k = q_positions.unsqueeze(-1), k_positions.unsqueeze(-2)
    allowed = request.pattern.allows(q, k)
    if request.prefix_B is not None:
        prefix = request.prefix_B.view(-1, 1, 1)
        allowed = allowed | ((q < prefix) & (k < prefix) & (k >= 0))
    return allowed if allowed.dim() == 2 else allowed.unsqueeze(1)


def added(
    request: Request, q_positions: Tensor, k_positions: Tensor, *, heads: int, decay: tuple[Tensor, Tensor] | None
) -> Tensor | None:
    """Bias, table and decay together, [..., H, T, S] in at least fp32; None when there is nothing of them."""
    terms: list[Tensor] = []
    if request.bias is not None or request.table is not None:
        k_positions = k_positions.clamp(min=0)  # empty slots of a cache; the mask hides them
    if request.bias is not None:
        terms.append(request.bias(q_positions, k_positions, heads))
    if request.table is not None:
        terms.append(request.table.dense(q_positions, k_positions))
    if decay is not None:
        # The difference first: both are large late in a sequence, and a score beside either would lose its digits.
        terms.append(decay[0].unsqueeze(-1) - decay[1].unsqueeze(-2))
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def softcapped(scores: Tensor, cap: float | None) -> Tensor:
    """Scores between -cap and cap; as they are when there is no cap."""
    return scores if cap is None else torch.tanh(scores / cap) * cap


def sink_share(lse_BHT: Tensor, sink_H: Tensor) -> Tensor:
    """The share of the softmax that keys keep beside a sink: [B, H, T], in the dtype of the log-sum-exp."""
    return torch.sigmoid(lse_BHT - sink_H.to(lse_BHT.dtype).unsqueeze(-1))


def document_runs(documents_BT: Tensor) -> Tensor:
    """Documents numbered by where they change, [B, T]: a document ends for good where another begins."""
    runs = torch.zeros_like(documents_BT, dtype=torch.int64)
    runs[:, 1:] = (documents_BT[:, 1:] != documents_BT[:, :-1]).cumsum(1)
    return runs
