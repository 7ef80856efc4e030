"""Embedding and head with the vocabulary cut among processes: each has the rows of some tokens.

The loss of a token needs the log-sum-exp over all of them, which is put together from the maximum and the sum of each
process (Shoeybi et al., "Megatron-LM", 2019). The backward pass computes the logits of a process again, and needs
nobody else: logits are never held for more than a chunk of tokens.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vitruvius.nn.embeddings import TokenTable
from vitruvius.nn.ops import embedding
from vitruvius.nn.ops.cross_entropy import CHUNK_LOGITS
from vitruvius.nn.ops.norm import statistics_dtype
from vitruvius.training.engines.exchange import copied, joined, summed

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.ops import LossParts

_IGNORED = -100


class SplitTable(TokenTable):
    """Rows of the tokens that this process has; the others add theirs."""

    group: dist.ProcessGroup

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Rows of the tokens, [B, T, D], in every process."""
        own_BT, has_BT = _own(tokens_BT, self.weight.shape[0], self.group)
        return summed(embedding(own_BT, self.weight) * has_BT.unsqueeze(-1).to(self.weight.dtype), self.group)


def split_vocabulary(table: TokenTable, head: Any, group: dist.ProcessGroup) -> None:
    """Let a table and a head, whose tensors are cut by now, compute together with the other processes."""
    table.__class__ = SplitTable
    cast("SplitTable", table).group = group
    head.group = group
    head.forward = MethodType(_logits, head)
    head.loss = MethodType(_loss, head)


def _logits(head: Any, h_BTD: Tensor, table_VD: Tensor) -> Tensor:
    """As the head's own `forward`, in every process."""
    h_BTD = copied(head.prepare(h_BTD), head.group)
    own_BTV = F.linear(h_BTD, table_VD if head.weight is None else head.weight, head.bias)
    if head.softcap is not None:
        own_BTV = torch.tanh(own_BTV / head.softcap) * head.softcap
    return joined(own_BTV, head.group)


def _loss(
    head: Any,
    h_ND: Tensor,
    targets_N: Tensor,
    table_VD: Tensor,
    *,
    per_token: bool = False,
    z_loss: float = 0.0,
    parts: LossParts | None = None,
) -> Tensor:
    """As the head's own `loss`, the same in every process."""
    weight_VD = table_VD if head.weight is None else head.weight
    h_ND = copied(head.prepare(h_ND), head.group)
    loss_N, lse_N = _SplitLoss.apply(h_ND, weight_VD, head.bias, targets_N, head.softcap, z_loss, head.group)
    counted_N = targets_N.ne(_IGNORED)
    count = counted_N.sum().clamp(min=1)
    if parts is not None:
        squares = z_loss * lse_N.square().sum()
        parts.z_loss = squares / count
        parts.cross_entropy = (loss_N.detach().sum() - squares) / count
        parts.lse_mean = lse_N.sum() / count
        parts.lse_max = lse_N.masked_fill(~counted_N, -torch.inf).max() if bool(counted_N.any()) else lse_N.sum()
    return loss_N if per_token else loss_N.sum() / count


class _SplitLoss(torch.autograd.Function):
    """Loss and log-sum-exp of each token, [N]; zero where none counts. The log-sum-exp has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        softcap: float | None,
        z_loss: float,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor]:
        wide = statistics_dtype(h_ND.dtype)
        counted_N = targets_N.ne(_IGNORED)
        own_N, has_N = _own(targets_N, weight_VD.shape[0], group)
        loss_N, lse_N = (torch.empty(h_ND.shape[0], dtype=wide, device=h_ND.device) for _ in range(2))
        chunk = _chunk(weight_VD)
        for start in range(0, h_ND.shape[0], chunk):
            rows = slice(start, start + chunk)
            z_CV, _ = _capped(h_ND[rows], weight_VD, bias_V, softcap)
            z_CV = z_CV.to(wide)
            most_C = z_CV.amax(dim=-1)
            dist.all_reduce(most_C, op=dist.ReduceOp.MAX, group=group)
            target_C = z_CV.gather(-1, own_N[rows].unsqueeze(-1)).squeeze(-1) * has_N[rows]
            both_2C = torch.stack([(z_CV - most_C.unsqueeze(-1)).exp().sum(dim=-1), target_C])
            dist.all_reduce(both_2C, group=group)
            lse_N[rows] = most_C + both_2C[0].log()
            loss_N[rows] = lse_N[rows] - both_2C[1]
        lse_N *= counted_N
        loss_N = loss_N * counted_N + z_loss * lse_N.square()
        ctx.save_for_backward(h_ND, weight_VD, bias_V, targets_N, lse_N)
        ctx.softcap, ctx.z_loss, ctx.group = softcap, z_loss, group
        ctx.mark_non_differentiable(lse_N)
        return loss_N, lse_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, weight_VD, bias_V, targets_N, lse_N = ctx.saved_tensors
        wants_h, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        weight_N = grad_N * targets_N.ne(_IGNORED)
        own_N, has_N = _own(targets_N, weight_VD.shape[0], ctx.group)
        grad_h_ND = torch.empty_like(h_ND) if wants_h else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=lse_N.dtype) if wants_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=lse_N.dtype) if wants_bias else None
        chunk = _chunk(weight_VD)
        for start in range(0, h_ND.shape[0], chunk):
            rows = slice(start, start + chunk)
            h_CD, lse_C = h_ND[rows], lse_N[rows]
            z_CV, slope_CV = _capped(h_CD, weight_VD, bias_V, ctx.softcap)
            d_CV = (z_CV.to(lse_N.dtype) - lse_C.unsqueeze(-1)).exp_()
            d_CV *= (1 + 2 * ctx.z_loss * lse_C).unsqueeze(-1)
            every_C = torch.arange(d_CV.shape[0], device=d_CV.device)
            d_CV[every_C, own_N[rows]] -= has_N[rows].to(d_CV.dtype)
            d_CV *= weight_N[rows].unsqueeze(-1)
            if slope_CV is not None:
                d_CV *= slope_CV
            if grad_bias_V is not None:
                grad_bias_V += d_CV.sum(0)
            narrow_CV = d_CV.to(h_ND.dtype)
            if grad_h_ND is not None:
                torch.mm(narrow_CV, weight_VD, out=grad_h_ND[rows])
            if grad_weight_VD is not None:
                grad_weight_VD += narrow_CV.t() @ h_CD
        made = (
            grad_h_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None else grad_bias_V.to(weight_VD.dtype),
        )
        return (*made, None, None, None, None)


def _chunk(weight_VD: Tensor) -> int:
    """Tokens at a time."""
    return max(1, CHUNK_LOGITS // weight_VD.shape[0])


def _capped(
    h_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Logits of this process's tokens, and the slope of the cap, where there is one."""
    z_CV = F.linear(h_CD, weight_VD, bias_V)
    if softcap is None:
        return z_CV, None
    tanh_CV = torch.tanh(z_CV / softcap)
    return tanh_CV * softcap, 1 - tanh_CV.float().square()


def _own(tokens: Tensor, rows: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Rows of tokens in this process's part, and whether they are there; row 0 stands for those that are not."""
    own = tokens - group.rank() * rows
    has = (own >= 0) & (own < rows)
    return own.where(has, 0), has
