"""A parameter of which a process keeps a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import distributed as dist


@torch.no_grad()
def cut(module: nn.Module, name: str, dim: int, group: dist.ProcessGroup) -> None:
    """Leave this process's part of a parameter in its place: equal ones along a dimension, in the order of a group."""
    at, _, last = name.rpartition(".")
    holder = module.get_submodule(at)
    whole = holder.get_parameter(last)
    size = whole.shape[dim] // group.size()
    part = whole.narrow(dim, group.rank() * size, size).clone(memory_format=torch.contiguous_format)
    setattr(holder, last, nn.Parameter(part, requires_grad=whole.requires_grad))
    if isinstance(holder, nn.Linear) and last == "weight":
        holder.out_features, holder.in_features = part.shape
