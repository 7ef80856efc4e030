"""Output head and softmax cross-entropy in one, a chunk of tokens at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.norm import statistics_dtype

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["sum", "mean", "none"]

CHUNK_LOGITS = 1 << 24
"""Logits held at a time when the caller names no chunk: 32 MiB in bf16, whatever the vocabulary."""


ROWS = 512
"""Rows of one product that makes the weight's gradient. Its transposed operand strides over the whole vocabulary, and
with more rows than the cache holds lines for, the product takes twice as long on CPU."""

FOLD = 4096
"""Rows whose part of the weight's gradient is summed in the weight's dtype before it is added to an fp32 sum."""


@uncompiled  # loops over chunks of tokens: nothing to fuse, much to unroll
def linear_cross_entropy(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy of `softmax(h @ weight.T + bias)` against the targets, in nats, without ever holding all logits.

    Shapes: h_ND, weight_VD, bias_V, targets_N (int64). `softcap=c` replaces each logit z by c*tanh(z/c). Rows whose
    target is `ignore_index` count nothing. Returns fp32 (fp64 for fp64 input): the `sum` over tokens, their `mean`
    (0 if none counts), or with `none` the loss of each token [N]. `chunk` is the number of tokens at a time.

    `sum` and `mean` compute the gradients of h, weight and bias in the forward pass, when autograd wants them, because
    the softmax is at hand there; `none` computes the logits again in the backward pass, where each token's weight is
    known. Not differentiable twice.
    """
    tokens = chunk or max(1, CHUNK_LOGITS // weight_VD.shape[0])
    head = _Head(weight_VD=weight_VD, bias_V=bias_V, softcap=softcap, ignore_index=ignore_index, chunk=tokens)
    if reduction == "none":
        return _PerToken.apply(h_ND, weight_VD, bias_V, targets_N, head)
    total = _Total.apply(h_ND, weight_VD, bias_V, targets_N, head)
    return total if reduction == "sum" else total / targets_N.ne(ignore_index).sum().clamp(min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    ignore_index: int
    chunk: int

    def logits(self, h_CD: Tensor, buffer: Tensor) -> Tensor:
        """Logits before the soft cap, in `buffer`'s memory."""
        z_CV = torch.mm(h_CD, self.weight_VD.t(), out=buffer[: h_CD.shape[0]])
        return z_CV if self.bias_V is None else z_CV.add_(self.bias_V)


@dataclass(slots=True, kw_only=True)
class _Gradients:
    """What one sweep adds up. None where autograd wants nothing."""

    h_ND: Tensor | None
    weight_VD: Tensor | None
    """The sum over at most `FOLD` rows, in the dtype of the weight."""
    folded_VD: Tensor | None = None
    """The sums that `weight_VD` held before, in fp32 or better; None while there were none."""
    bias_V: Tensor | None
    rows: int = 0
    """Rows in `weight_VD`."""

    @classmethod
    def zeros(cls, h_ND: Tensor, head: _Head, wants: tuple[bool, bool, bool]) -> _Gradients:
        wide = statistics_dtype(h_ND.dtype)
        return cls(
            h_ND=torch.empty_like(h_ND) if wants[0] else None,
            weight_VD=torch.zeros_like(head.weight_VD) if wants[1] else None,
            bias_V=torch.zeros_like(head.bias_V, dtype=wide) if wants[2] and head.bias_V is not None else None,
        )

    def add(self, rows: slice, h_CD: Tensor, d_logits_CV: Tensor, head: _Head) -> None:
        """Add what one chunk's gradient of the logits gives."""
        if self.h_ND is not None:
            torch.mm(d_logits_CV, head.weight_VD, out=self.h_ND[rows])
        if self.weight_VD is not None:
            if self.rows >= FOLD:
                self._fold(self.weight_VD)
            for start in range(0, h_CD.shape[0], ROWS):
                self.weight_VD.addmm_(d_logits_CV[start : start + ROWS].t(), h_CD[start : start + ROWS])
            self.rows += h_CD.shape[0]
        if self.bias_V is not None:
            self.bias_V += d_logits_CV.sum(0, dtype=self.bias_V.dtype)

    def _fold(self, weight_VD: Tensor) -> None:
        if self.folded_VD is None:
            self.folded_VD = weight_VD.to(statistics_dtype(weight_VD.dtype), copy=True)
        else:
            self.folded_VD += weight_VD
        weight_VD.zero_()
        self.rows = 0

    def done(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """Gradients of h, weight and bias in `dtype`."""
        if self.weight_VD is not None and self.folded_VD is not None:
            self._fold(self.weight_VD)
        weight_VD = self.weight_VD if self.folded_VD is None else self.folded_VD
        return tuple(None if each is None else each.to(dtype) for each in (self.h_ND, weight_VD, self.bias_V))


def _sweep(h_ND: Tensor, targets_N: Tensor, head: _Head, weight_N: Tensor | None, grads: _Gradients | None) -> Tensor:
    """Loss of each token; with `grads`, also the gradients of sum(weight_N * loss_N), added to it.

    A weight of None stands for 1.
    """
    loss_N = torch.empty(h_ND.shape[0], dtype=statistics_dtype(h_ND.dtype), device=h_ND.device)
    buffer = h_ND.new_empty(min(head.chunk, h_ND.shape[0]), head.weight_VD.shape[0])
    for start in range(0, h_ND.shape[0], head.chunk):
        rows = slice(start, start + head.chunk)
        h_CD = h_ND[rows]
        counted_C = targets_N[rows].ne(head.ignore_index)
        target_C1 = targets_N[rows].where(counted_C, 0).unsqueeze(-1)
        z_CV = head.logits(h_CD, buffer)
        tanh_CV = None
        if head.softcap is not None:
            tanh_CV = z_CV.div_(head.softcap).tanh_()
            z_CV = tanh_CV * head.softcap
        p_CV = torch.softmax(z_CV, dim=-1)
        loss_C, residual_C = _loss_and_residual(z_CV, p_CV, target_C1)
        loss_N[rows] = loss_C * counted_C
        if grads is None:
            continue
        every_C = torch.arange(p_CV.shape[0], device=p_CV.device)
        p_CV[every_C, target_C1.squeeze(-1)] = residual_C.neg().to(p_CV.dtype)  # scatter_ would copy all of p
        if tanh_CV is not None:
            p_CV.mul_(tanh_CV.square_().neg_().add_(1))
        weight_C = counted_C.to(loss_N.dtype) if weight_N is None else weight_N[rows] * counted_C
        if not bool((weight_C == 1).all()):
            p_CV.mul_(weight_C.to(p_CV.dtype).unsqueeze(-1))
        grads.add(rows, h_CD, p_CV, head)
    return loss_N


SURE = 0.5
"""Above this probability of the target, its complement is summed from the others instead of being subtracted from 1."""

TINY = 1e-30
"""Below this probability of the target, its logarithm is taken from the logits: the rounded probability may be zero."""


def _loss_and_residual(z_CV: Tensor, p_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor]:
    """-log p and 1 - p of the target, in fp32 or better, from probabilities rounded to the dtype of the logits.

    Read off one pass of softmax; the few rows where rounding would show are computed again: p near 1, where bf16 has
    three digits but the gradient is the small difference, and p near 0, where it underflows.
    """
    wide = statistics_dtype(p_CV.dtype)
    p_C = p_CV.gather(-1, target_C1).squeeze(-1).to(wide)
    loss_C, residual_C = -p_C.log(), 1 - p_C
    sure = (p_C > SURE).nonzero().squeeze(-1)
    if sure.numel():
        others = p_CV[sure].scatter_(-1, target_C1[sure], 0).sum(-1, dtype=wide)
        residual_C[sure] = others
        loss_C[sure] = -torch.log1p(-others.clamp(max=SURE))
    lost = (p_C < TINY).nonzero().squeeze(-1)
    if lost.numel():
        z_LV = z_CV[lost].to(wide)
        loss_C[lost] = z_LV.logsumexp(-1) - z_LV.gather(-1, target_C1[lost]).squeeze(-1)
    return loss_C, residual_C


class _Total(torch.autograd.Function):
    """Sum of the tokens' losses; gradients made in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,  # noqa: ARG004 - autograd must see it; the sweep reads it from `head`
        targets_N: Tensor,
        head: _Head,
    ) -> Tensor:
        wants = ctx.needs_input_grad[:3]
        grads = _Gradients.zeros(h_ND, head, wants) if any(wants) else None
        loss_N = _sweep(h_ND, targets_N, head, None, grads)
        if grads is not None:
            ctx.save_for_backward(*grads.done(weight_VD.dtype))
        return loss_N.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        made = (None if each is None else each * grad.to(each.dtype) for each in ctx.saved_tensors)
        return (*made, None, None)


class _PerToken(torch.autograd.Function):
    """Loss of each token; the backward pass sweeps again, now that it knows every token's weight."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, head: _Head
    ) -> Tensor:
        ctx.save_for_backward(h_ND, weight_VD, bias_V, targets_N)
        ctx.head = head
        return _sweep(h_ND, targets_N, head, None, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, weight_VD, _, targets_N = ctx.saved_tensors
        grads = _Gradients.zeros(h_ND, ctx.head, ctx.needs_input_grad[:3])
        _sweep(h_ND, targets_N, ctx.head, grad_N, grads)
        return (*grads.done(weight_VD.dtype), None, None)
