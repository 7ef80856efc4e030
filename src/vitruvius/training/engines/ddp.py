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

from vitruvius.training.engines.processes import ProcessEngine
from vitruvius.training.engines.sums import sum_gradients

if TYPE_CHECKING:
    from vitruvius.training.master import MasterOptimizer


@final
class DdpEngine(ProcessEngine):
    """One of several processes with the whole model each."""

    @property
    def computes_alone(self) -> bool:
        """Gradients are summed after the passes."""
        return True

    @torch.no_grad()
    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Sum the gradients over all processes in fp32, bucket by bucket.

        A weight without a gradient in any process stays without one: no decay and no momentum moves it either.
        """
        slots = list(optimizer.slots())
        present = self.total([float(slot.gradient() is not None) for slot in slots])
        slots = [slot for slot, count in zip(slots, present, strict=True) if count]
        sum_gradients(slots)
