"""Token embedding whose gradient is summed in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.norm import statistics_dtype

if TYPE_CHECKING:
    from torch import Tensor


@uncompiled  # a compiler would put the sum in the table's dtype
def embedding(tokens: Tensor, weight_VD: Tensor) -> Tensor:
    """Look up rows of a table: [...] int64 tokens and [V, D] weights give [..., D].

    A frequent token's gradient is the sum of thousands of rows; in bf16 such a sum stops growing after a few hundred
    terms, so it is kept in fp32 and rounded once.
    """
    return _Embedding.apply(tokens, weight_VD)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.dtype = weight_VD.shape, weight_VD.dtype
        return F.embedding(tokens, weight_VD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        wide = statistics_dtype(ctx.dtype)
        rows = grads[0].reshape(-1, ctx.shape[1]).to(wide)
        grad = torch.zeros(ctx.shape, dtype=wide, device=rows.device)
        grad.index_add_(0, tokens.reshape(-1), rows)
        return None, grad.to(ctx.dtype)
