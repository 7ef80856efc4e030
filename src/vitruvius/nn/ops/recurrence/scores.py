"""How strongly the tokens of a chunk meet: x_i . y_j, decayed from j to i, for every pair j <= i of a chunk.

    score(i, j) = sum_n x[i, n] * y[j, n] * exp(to[i, n] - g[j, n])

`g` is the cumulative log decay within the chunk, which never rises. No power above zero is ever taken, so that the
strongest decay gives zeros and not overflow: with one decay per token the differences are taken pair by pair; with one
per channel the chunk is halved again and again, and the rows of a second half meet the columns of the first through
the decay at their border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from vitruvius.nn.ops.compiling import uncompiled
from vitruvius.nn.ops.recurrence.chunks import FLOOR, exp_of_decay

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The later side of the pairs."""

    x: Tensor
    """[..., C, N]."""
    itself: bool
    """Whether a token meets itself."""
    to: Tensor | None = None
    """Cumulative log decay up to which a row counts, shaped as `g`; `g` itself when not given."""
    scale: Tensor | None = None
    """[..., R, C], what each row is multiplied by (with one decay per token only)."""


@uncompiled
def scores_by_token(rows: list[Rows], y: Tensor, g: Tensor, pairs: Tensor | None) -> list[Tensor]:
    """Scores [..., R, C, C] with one decay per token and head: y [..., C, N], g [..., R, C].

    pairs: [..., C, C] to multiply the dot products by, or None.
    """
    inputs = [tensor for row in rows for tensor in (row.x, row.scale)]
    return list(_ByToken.apply(y, g, pairs, [row.itself for row in rows], *inputs))


@uncompiled
def scores_by_channel(rows: list[Rows], columns: list[Tensor], g: Tensor) -> list[Tensor]:
    """Scores [..., C, C] of each of the rows with each of the columns, and one decay per channel: all [..., C, N].

    C must be a power of two. In the order rows[0] with columns[0], rows[0] with columns[1], ...
    """
    inputs = [row.x for row in rows] + [row.to for row in rows if row.to is not None] + columns
    shape = [(row.itself, row.to is not None) for row in rows]
    return list(_ByChannel.apply(g, shape, *inputs))


class _ByToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, g: Tensor, pairs: Tensor | None, itself: list[bool], *inputs: Any
    ) -> tuple[Tensor, ...]:
        kept = _kept(g)
        results = []
        for x, scale, diagonal in zip(inputs[::2], inputs[1::2], itself, strict=True):
            dots = _dots(x, y, pairs, 0 if diagonal else -1)
            score = kept * dots.unsqueeze(-3)
            results.append(score if scale is None else score.mul_(scale.unsqueeze(-1)))
        ctx.save_for_backward(y, g, pairs, *inputs)
        ctx.itself = itself
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, g, pairs, *inputs = ctx.saved_tensors
        kept = _kept(g)
        y_grad, g_grad = torch.zeros_like(y), torch.zeros_like(g)
        found: list[Tensor | None] = []
        for x, scale, diagonal, grad in zip(inputs[::2], inputs[1::2], ctx.itself, grads, strict=True):
            dots = _dots(x, y, pairs, 0 if diagonal else -1)
            through = grad * kept
            of_score = through * dots.unsqueeze(-3)
            scale_grad = None
            if scale is not None:
                scale_grad = of_score.sum(-1)
                of_score.mul_(scale.unsqueeze(-1))
                through.mul_(scale.unsqueeze(-1))
            g_grad += of_score.sum(-1)
            g_grad -= of_score.sum(-2)
            dots_grad = through.sum(-3).tril_(0 if diagonal else -1)
            if pairs is not None:
                dots_grad *= pairs
            y_grad += dots_grad.transpose(-1, -2) @ x
            found += [dots_grad @ y, scale_grad]
        return y_grad, g_grad, None, None, *found


def _kept(g: Tensor) -> Tensor:
    """exp(g_i - g_j) for j <= i, and at most one for the others, which nobody counts."""
    return (g.unsqueeze(-1) - g.unsqueeze(-2)).clamp_(FLOOR[g.dtype], 0).exp_()


def _dots(x: Tensor, y: Tensor, pairs: Tensor | None, diagonal: int) -> Tensor:
    dots = (x @ y.transpose(-1, -2)).tril_(diagonal)
    return dots if pairs is None else dots.mul_(pairs)


class _ByChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, shape: list[tuple[bool, bool]], *inputs: Tensor) -> tuple[Tensor, ...]:
        rows, tos, columns = _sorted_inputs(g, shape, inputs)
        size = g.shape[-2]
        scores = [g.new_zeros(*g.shape[:-1], size) for _ in rows for _ in columns]
        for i, (itself, _) in enumerate(shape):
            if itself:
                for j, y in enumerate(columns):
                    scores[i * len(columns) + j].diagonal(dim1=-2, dim2=-1).copy_((rows[i] * y).sum(-1))
        half = size // 2
        while half:
            near, far = _halves(g, tos, half)
            ys = [_first(y, half) * far for y in columns]
            for i, x in enumerate(rows):
                xs = _second(x, half) * near[i]
                for j, y in enumerate(ys):
                    _corner(scores[i * len(columns) + j], half).copy_(xs @ y.transpose(-1, -2))
            half //= 2
        ctx.save_for_backward(g, *inputs)
        ctx.shape = shape
        return tuple(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, *inputs = ctx.saved_tensors
        rows, tos, columns = _sorted_inputs(g, ctx.shape, inputs)
        row_grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in rows]
        column_grads = [torch.zeros_like(y, memory_format=torch.contiguous_format) for y in columns]
        half = g.shape[-2] // 2
        while half:
            near, far = _halves(g, tos, half)
            ys = [_first(y, half) * far for y in columns]
            for i, x in enumerate(rows):
                xs = _second(x, half) * near[i]
                for j, y in enumerate(ys):
                    grad = _corner(grads[i * len(columns) + j], half)
                    _second(row_grads[i], half).addcmul_(grad @ y, near[i])
                    _first(column_grads[j], half).addcmul_(grad.transpose(-1, -2) @ xs, far)
            half //= 2
        # The decay between two tokens depends on both ends only, so each end's gradient is that of its own factor.
        to_grads = [x * x_grad for x, x_grad in zip(rows, row_grads, strict=True)]
        g_grad = torch.zeros_like(g, memory_format=torch.contiguous_format)
        for y, y_grad in zip(columns, column_grads, strict=True):
            g_grad.addcmul_(y, y_grad, value=-1)
        for i, (itself, has_to) in enumerate(ctx.shape):
            if not has_to:
                g_grad += to_grads[i]
            if itself:
                for j, y in enumerate(columns):
                    met = grads[i * len(columns) + j].diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
                    row_grads[i] += met * y
                    column_grads[j] += met * rows[i]
        kept = [to_grads[i] for i, (_, has_to) in enumerate(ctx.shape) if has_to]
        return g_grad, None, *row_grads, *kept, *column_grads


def _sorted_inputs(
    g: Tensor, shape: list[tuple[bool, bool]], inputs: tuple[Tensor, ...] | list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Rows, the cumulative decay of each, and columns."""
    rows, rest = list(inputs[: len(shape)]), list(inputs[len(shape) :])
    tos = [rest.pop(0) if has_to else g for _, has_to in shape]
    return rows, tos, rest


def _halves(g: Tensor, tos: list[Tensor], half: int) -> tuple[list[Tensor], Tensor]:
    """Decay from the border to each row behind it, per kind of row, and from each column before it to the border."""
    before = _first(g, half)
    border = before[..., -1:, :]
    return [exp_of_decay(_second(to, half) - border) for to in tos], exp_of_decay(border - before)


def _first(x: Tensor, half: int) -> Tensor:
    return x.unflatten(-2, (-1, 2, half))[..., 0, :, :]


def _second(x: Tensor, half: int) -> Tensor:
    return x.unflatten(-2, (-1, 2, half))[..., 1, :, :]


def _corner(score: Tensor, half: int) -> Tensor:
    """Second half by first half of each square of 2 * half along the diagonal: a view [..., squares, half, half]."""
    count = score.shape[-1] // (2 * half)
    squares = score.unflatten(-1, (count, 2, half)).unflatten(-4, (count, 2, half))
    return squares.diagonal(dim1=-6, dim2=-3)[..., 1, :, 0, :, :].movedim(-1, -3)
