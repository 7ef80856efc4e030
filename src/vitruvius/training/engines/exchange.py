"""What processes that compute one share together pass to each other, forwards and backwards.

Source: Shoeybi et al., "Megatron-LM", 2019 (`copied` is its f, `summed` its g).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor


def copied(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """What every process reads for a part of the work of its own: the same forwards, gradients are summed."""
    return _Copied.apply(x, group)


def summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of what every process has found of a whole: every one gets it, and the gradient as it is."""
    return _Summed.apply(x, group)


def joined(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Parts of the last dimension, equally long, side by side in every process; each gets the gradient of its own."""
    return _Joined.apply(x, group)


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _total(grad, ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        del ctx
        return _total(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grad, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.width = group, x.shape[-1]
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(found, x.contiguous(), group=group)
        return torch.cat(found, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.narrow(-1, ctx.group.rank() * ctx.width, ctx.width).contiguous(), None


def _total(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """A sum in a tensor of its own: what comes in belongs to autograd."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
