"""Gradients summed over processes in fp32, bucket by bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from vitruvius.training.master import Slot

BUCKET = 1 << 23
"""Elements that are sent together (32 MiB): large enough that the latency of a message does not count."""


@torch.no_grad()
def sum_gradients(slots: Sequence[Slot], group: dist.ProcessGroup | None = None) -> None:
    """Put the sums over the processes of a group, or over all, in the place of the gradients of some slots.

    A slot without a gradient here takes part with zeros.
    """
    for work in [dist.all_reduce(_flattened(bucket), group=group, async_op=True) for bucket in _buckets(slots)]:
        assert work is not None  # this process is in the group
        work.wait()


def _buckets(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """The slots in their order, in groups of about `BUCKET` elements on one device."""
    bucket: list[Slot] = []
    size = 0
    for slot in slots:
        if bucket and (size + slot.master.numel() > BUCKET or slot.master.device != bucket[0].master.device):
            yield bucket
            bucket, size = [], 0
        bucket.append(slot)
        size += slot.master.numel()
    if bucket:
        yield bucket


def _flattened(bucket: Sequence[Slot]) -> Tensor:
    """One fp32 tensor with the gradients of a bucket; from here on they are views of it."""
    flat = torch.zeros(sum(slot.master.numel() for slot in bucket), device=bucket[0].master.device)
    start = 0
    for slot in bucket:
        part = flat[start : start + slot.master.numel()].view(slot.master.shape)
        start += slot.master.numel()
        gradient = slot.gradient()
        if gradient is not None:
            part.copy_(gradient)
        slot.accumulated, slot.parameter.grad = part, None
    return flat
