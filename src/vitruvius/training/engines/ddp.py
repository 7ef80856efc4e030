"""Data parallel training: every process has the whole model, computes its share of each batch, and gets all gradients.

Gradients are summed by an all-reduce of our own, after the last piece, and not by DistributedDataParallel's hooks:

- Sums are fp32 whatever the weights' dtype, as those over the pieces of a batch are. DDP reduces in the dtype of the
  gradients, which rounds bf16 sums once more.
- DDP takes the mean over processes. Losses are means over targets, of which processes may have unequally many.
- A weight that no token of this process has used (an expert) takes part with zeros, without a search through the graph.

The price: messages start when the backward pass is done, where DDP sends the first while it computes the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
import torch.distributed as dist

from vitruvius.training.engines.processes import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from vitruvius.training.master import MasterOptimizer, Slot

BUCKET = 1 << 23
"""Elements that are sent together (32 MiB): large enough that the latency of a message does not count."""


@final
class DdpEngine(ProcessEngine):
    """One of several processes with the whole model each."""

    @torch.no_grad()
    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Sum the gradients over all processes in fp32, bucket by bucket.

        A weight without a gradient in any process stays without one: no decay and no momentum moves it either.
        """
        slots = list(optimizer.slots())
        present = self.total([float(slot.gradient() is not None) for slot in slots])
        slots = [slot for slot, count in zip(slots, present, strict=True) if count]
        for work in [dist.all_reduce(_flattened(bucket), async_op=True) for bucket in _buckets(slots)]:
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
