"""Output head and softmax cross-entropy in one, a chunk of tokens at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
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

FOLD_FP16 = 512
"""The same for fp16, where a sum over more rows may pass 65,504: no loss scale reaches a sum that is made before it."""

WIDE = 1 << 17
"""Probabilities at a time that are computed in fp32 before they are rounded, with a z-loss in a narrower dtype."""


@dataclass(slots=True, kw_only=True)
class LossParts:
    """What a loss with a z-loss is made of, filled in by the call; detached scalars, summed or averaged as the loss."""

    cross_entropy: Tensor | None = None
    z_loss: Tensor | None = None
    """The coefficient times the squares of the log-sum-exps of the logits."""
    lse_mean: Tensor | None = None
    """Mean log-sum-exp over the targets that count; 0 where none does."""
    lse_max: Tensor | None = None
    """The largest."""


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
    z_loss: float = 0.0,
    parts: LossParts | None = None,
) -> Tensor:
    """Cross-entropy of `softmax(h @ weight.T + bias)` against the targets, in nats, without ever holding all logits.

    Shapes: h_ND, weight_VD, bias_V, targets_N (int64). `softcap=c` replaces each logit z by c*tanh(z/c). Rows whose
    target is `ignore_index` count nothing. Returns fp32 (fp64 for fp64 input): the `sum` over tokens, their `mean`
    (0 if none counts), or with `none` the loss of each token [N]. `chunk` is the number of tokens at a time.

    `sum` and `mean` compute the gradients of h, weight and bias in the forward pass, when autograd wants them, because
    the softmax is at hand there; `none` computes the logits again in the backward pass, where each token's weight is
    known. Not differentiable twice.

    `z_loss=c` adds c * lse^2 to the loss of each token that counts, lse the log-sum-exp of its logits (soft cap
    included), which keeps logits from drifting; `parts` is then told both apart. Source: Chowdhery et al., PaLM, 2022.
    """
    tokens = chunk or max(1, CHUNK_LOGITS // weight_VD.shape[0])
    head = _Head(
        weight_VD=weight_VD, bias_V=bias_V, softcap=softcap, ignore_index=ignore_index, chunk=tokens, z_loss=z_loss
    )
    if reduction == "none":
        return _PerToken.apply(h_ND, weight_VD, bias_V, targets_N, head)
    total = _Total.apply(h_ND, weight_VD, bias_V, targets_N, head)
    count = 1 if reduction == "sum" else targets_N.ne(ignore_index).sum().clamp(min=1)
    if parts is not None:
        head.tell(parts, targets_N, count)
    return total if reduction == "sum" else total / count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    ignore_index: int
    chunk: int
    z_loss: float = 0.0
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list["tuple[Tensor, Tensor]"])
    """Cross-entropy and log-sum-exp of each token, of the last sweep; with a z-loss alone."""

    def tell(self, parts: LossParts, targets_N: Tensor, count: Tensor | int) -> None:
        """Fill in what the loss of the last sweep is made of."""
        loss_N, lse_N = self.seen[-1]
        counted_N = targets_N.ne(self.ignore_index)
        parts.cross_entropy = loss_N.sum() / count
        parts.z_loss = self.z_loss * lse_N.square().sum() / count
        parts.lse_mean = lse_N.sum() / counted_N.sum().clamp(min=1)
        parts.lse_max = lse_N.masked_fill(~counted_N, -torch.inf).max() if bool(counted_N.any()) else lse_N.sum()

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
            if self.rows >= (FOLD_FP16 if self.weight_VD.dtype == torch.float16 else FOLD):
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
    lse_N = torch.zeros_like(loss_N) if head.z_loss else None
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
        at_target_C = residual_C.neg()
        if lse_N is not None:
            lse_C = z_CV.gather(-1, target_C1).squeeze(-1).to(loss_C.dtype) + loss_C
            lse_N[rows] = lse_C * counted_C
            if grads is not None:
                # Of p * (1 + pull) - 1 at the target, p * (1 + pull) elsewhere.
                pull_C = 2 * head.z_loss * lse_C
                at_target_C += pull_C * (1 - residual_C)
                _pulled(z_CV, p_CV, pull_C)
        if grads is None:
            continue
        every_C = torch.arange(p_CV.shape[0], device=p_CV.device)
        p_CV[every_C, target_C1.squeeze(-1)] = at_target_C.to(p_CV.dtype)  # scatter_ would copy all of p
        if tanh_CV is not None:
            p_CV.mul_(tanh_CV.square_().neg_().add_(1))
        weight_C = counted_C.to(loss_N.dtype) if weight_N is None else weight_N[rows] * counted_C
        # Elsewhere a pass over the probabilities costs less than waiting for the device's answer.
        if weight_C.device.type != "cpu" or not bool((weight_C == 1).all()):
            p_CV.mul_(weight_C.to(p_CV.dtype).unsqueeze(-1))
        grads.add(rows, h_CD, p_CV, head)
    if lse_N is None:
        return loss_N
    head.seen[:] = [(loss_N, lse_N)]
    return loss_N + head.z_loss * lse_N.square()


def _pulled(z_CV: Tensor, p_CV: Tensor, pull_C: Tensor) -> None:
    """Multiply each row of p by 1 + pull.

    A usual pull (2e-4 times a log-sum-exp of 10) is less than half a digit of bf16, and would be lost between two
    roundings: in narrow dtypes the softmax is made once more in fp32, a few rows at a time, and rounded once.
    """
    if p_CV.dtype == pull_C.dtype:
        p_CV.mul_(1 + pull_C.unsqueeze(-1))
        return
    step = max(1, WIDE // p_CV.shape[1])
    for start in range(0, p_CV.shape[0], step):
        part = slice(start, start + step)
        # Without a name: the next rows' softmax must not find these still there.
        p_CV[part] = torch.softmax(z_CV[part], dim=-1, dtype=pull_C.dtype).mul_(1 + pull_C[part].unsqueeze(-1))


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
    if p_CV.device.type != "cpu":
        return _without_waiting(z_CV, p_CV, target_C1, wide)
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


def _without_waiting(z_CV: Tensor, p_CV: Tensor, target_C1: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same for every row at once: a GPU that is asked how many rows there are keeps the host waiting.

    Where p is near 0 the log-sum-exp comes from the largest logit, whose probability is rounded like all: of such a
    loss, which is above 69, that is less than a ten-thousandth.
    """
    row_C, target_C = torch.arange(p_CV.shape[0], device=p_CV.device), target_C1.squeeze(-1)
    narrow_C = p_CV[row_C, target_C]
    p_C = narrow_C.to(wide)
    p_CV[row_C, target_C] = torch.zeros_like(narrow_C)
    others_C = p_CV.sum(-1, dtype=wide)
    p_CV[row_C, target_C] = narrow_C
    sure_C, lost_C = p_C > SURE, p_C < TINY
    near_C = -torch.log1p(-others_C.clamp(max=SURE))
    lse_C = z_CV.amax(-1).to(wide) - p_CV.amax(-1).to(wide).log()
    far_C = lse_C - z_CV[row_C, target_C].to(wide)
    loss_C = torch.where(sure_C, near_C, torch.where(lost_C, far_C, -p_C.log()))
    return loss_C, torch.where(sure_C, others_C, 1 - p_C)


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
