"""Linear maps of rows in groups, each group through weights of its own: what experts of a mixture are made of.

Rows are sorted by group; `sizes` says how many each group has. Products go straight into their place in the result, and
gradients of gathers are gathers: neither copies results together nor adds rows one by one, which is what takes most of
the time beside the products themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.norm import statistics_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Maps = "Sequence[tuple[Tensor, Tensor | None]]"


@uncompiled
def grouped_linear(x_RI: Tensor, maps: Sequence[tuple[Tensor, Tensor | None]], sizes_E: Tensor) -> tuple[Tensor, ...]:
    """Several linear maps of the same rows, [R, I] to [R, O] each, with weights [E, O, I] and biases [E, O] or None.

    sizes_E: rows of each group, in order; groups without rows are passed over. Works in every float dtype, for every
    width, on every device (which has to wait for the sizes).
    """
    weights, biases = [weight for weight, _ in maps], [bias for _, bias in maps]
    return _Grouped.apply(x_RI, tuple(sizes_E.tolist()), len(maps), *weights, *biases)


def looped_linear(x_RI: Tensor, maps: Sequence[tuple[Tensor, Tensor | None]], sizes_E: Tensor) -> tuple[Tensor, ...]:
    """The same as a readable loop out of `linear`: the reference."""
    runs = x_RI.split(sizes_E.tolist())
    return tuple(
        torch.cat(
            [
                F.linear(run, weight_EOI[e], None if bias_EO is None else bias_EO[e])
                for e, run in enumerate(runs)
                if run.shape[0] or x_RI.shape[0] == 0
            ]
        )
        for weight_EOI, bias_EO in maps
    )


def fused_linear(x_RI: Tensor, maps: Sequence[tuple[Tensor, Tensor | None]], sizes_E: Tensor) -> tuple[Tensor, ...]:
    """The same in torch's grouped product: one kernel on CUDA, which never waits for the sizes; a loop in C++ on CPUs.

    For rows whose bytes are a multiple of 16: bf16, and on CPUs fp32 too. Gradients must be dense: one that is expanded
    (of a plain sum) raises.
    """
    ends_E = sizes_E.cumsum(0).to(torch.int32)
    results: list[Tensor] = []
    for weight_EOI, bias_EO in maps:
        y_RO = F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=ends_E)
        results.append(y_RO if bias_EO is None else y_RO + bias_EO.repeat_interleave(sizes_E, dim=0))
    return tuple(results)


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """(group, its rows) of the groups that have any."""
    start = 0
    for group, size in enumerate(sizes):
        if size:
            yield group, slice(start, start + size)
        start += size


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RI: Tensor, sizes: tuple[int, ...], count: int, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights = [weight for weight in parameters[:count] if weight is not None]
        biases = parameters[count:]
        ctx.sizes = sizes
        ctx.save_for_backward(x_RI, *weights)
        results = tuple(x_RI.new_empty(x_RI.shape[0], weight.shape[1]) for weight in weights)
        for group, rows in _runs(sizes):
            for y_RO, weight, bias in zip(results, weights, biases, strict=True):
                if bias is None:
                    torch.mm(x_RI[rows], weight[group].t(), out=y_RO[rows])
                else:
                    torch.addmm(bias[group], x_RI[rows], weight[group].t(), out=y_RO[rows])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, *weights = ctx.saved_tensors
        count, sizes = len(weights), ctx.sizes
        wants_x, _, _, *wants = ctx.needs_input_grad
        grad_x = torch.empty_like(x_RI) if wants_x else None
        grad_weights = [torch.empty_like(w) if want else None for w, want in zip(weights, wants[:count], strict=True)]
        for group, rows in _runs(sizes):
            for index, (grad_RO, weight, grad_weight) in enumerate(zip(grads, weights, grad_weights, strict=True)):
                if grad_x is not None and index == 0:
                    torch.mm(grad_RO[rows], weight[group], out=grad_x[rows])
                elif grad_x is not None:
                    grad_x[rows].addmm_(grad_RO[rows], weight[group])
                if grad_weight is not None:
                    torch.mm(grad_RO[rows].t(), x_RI[rows], out=grad_weight[group])
        for grad_weight in grad_weights:
            for group, size in enumerate(sizes):
                if grad_weight is not None and not size:
                    grad_weight[group].zero_()
        grad_biases = [_summed(g, sizes) if want else None for g, want in zip(grads, wants[count:], strict=True)]
        return (grad_x, None, None, *grad_weights, *grad_biases)


def _summed(grad_RO: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum over the rows of each group, [E, O]."""
    sums_EO = grad_RO.new_zeros(len(sizes), grad_RO.shape[1])
    for group, rows in _runs(sizes):
        sums_EO[group] = grad_RO[rows].sum(0, dtype=statistics_dtype(grad_RO.dtype))
    return sums_EO


def dispatch(x_ND: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
    """The rows of tokens, [R, D]: row r is token_R[r]. row_NK: where the copies of each token went.

    Rows that stand nowhere in `row_NK` fill runs up; they have no gradient.
    """
    return _Dispatch.apply(x_ND, token_R, row_NK)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
        ctx.save_for_backward(row_NK)
        return x_ND.index_select(0, token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (row_NK,) = ctx.saved_tensors
        first, *others = row_NK.unbind(1)
        grad_ND = grads[0].index_select(0, first)
        for row_N in others:
            grad_ND += grads[0].index_select(0, row_N)
        return grad_ND, None, None


def combine(y_RD: Tensor, weights_NK: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
    """Each token's rows, weighted and added up: [R, D] and [N, K] to [N, D], in the dtype of the rows."""
    return _Combine.apply(y_RD, weights_NK, token_R, row_NK)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, weights_NK: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
        ctx.save_for_backward(y_RD, weights_NK, token_R, row_NK)
        weights_NK1 = weights_NK.to(y_RD.dtype).unsqueeze(2)
        out_ND = y_RD.index_select(0, row_NK[:, 0]) * weights_NK1[:, 0]
        for choice in range(1, row_NK.shape[1]):
            out_ND.addcmul_(y_RD.index_select(0, row_NK[:, choice]), weights_NK1[:, choice])
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y_RD, weights_NK, token_R, row_NK = ctx.saved_tensors
        grad_RD = grads[0].index_select(0, token_R)
        weight_R = weights_NK.new_zeros(token_R.shape[0])
        weight_R[row_NK.flatten()] = weights_NK.flatten()
        wide = statistics_dtype(y_RD.dtype)
        dots_R = (grad_RD * y_RD).sum(dim=1, dtype=wide)
        return (
            grad_RD.mul_(weight_R.to(grad_RD.dtype).unsqueeze(1)),
            dots_R[row_NK].to(weights_NK.dtype),
            None,
            None,
        )
