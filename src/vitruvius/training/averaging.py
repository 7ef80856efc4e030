"""An exponential moving average of the weights, beside those that are trained.

    n = updates in the average so far
    d = min(decay, (1 + n) / (10 + n))
    average <- d * average + (1 - d) * weight                     fp32, from the masters, after each applied update

The decay warms up: with a fixed one the weights drawn at the start would be in it for about 1 / (1 - decay) updates. A
correction of the bias (as Adam's) would come to much the same, but what stands in memory and on the disk would not be
weights until it is divided: this average is a model at any time. It begins with the weights that the run begins with,
of which a tenth is left after the first update. Source of the warm-up: `num_updates` of TensorFlow's
ExponentialMovingAverage.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from vitruvius.nn.weights import weights_of
from vitruvius.training.companions import Companion

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.training.master import MasterOptimizer


def warmed_up(decay: float, updates: int) -> float:
    """The decay after so many updates."""
    return min(decay, (1 + updates) / (10 + updates))


@final
class WeightAverage(Companion):
    """The average of what is trained; all else is as it is in the model."""

    name: ClassVar[str] = "ema"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        """Applied updates that are in the average."""
        self._average: dict[str, Tensor] = {}
        self._model: Model | None = None

    def begin(self, model: Model, optimizer: MasterOptimizer) -> None:
        """Take the weights as they are for the average. Called once, before anything is restored or trained."""
        self._model = model
        self._average = {name: slot.master.detach().clone() for name, slot in optimizer.named_slots()}

    @torch.no_grad()
    def applied(self, optimizer: MasterOptimizer) -> None:
        """An update was applied."""
        decay = warmed_up(self.decay, self.updates)
        for name, slot in optimizer.named_slots():
            self._average[name].lerp_(slot.master, 1.0 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def in_place(self, optimizer: MasterOptimizer) -> Generator[None]:
        """Within the block the model's weights are the average, rounded to their format; then the bits are back.

        Takes no memory where weights have masters; else the space of one weight.
        """
        self._put(optimizer)
        try:
            yield
        finally:
            self._take_back(optimizer)

    @torch.no_grad()
    def _put(self, optimizer: MasterOptimizer) -> None:
        for name, slot in optimizer.named_slots():
            if slot.is_own_master:
                _swap(slot.weight, self._average[name])
            else:
                slot.weight.copy_(self._average[name])

    @torch.no_grad()
    def _take_back(self, optimizer: MasterOptimizer) -> None:
        for name, slot in optimizer.named_slots():
            if slot.is_own_master:
                _swap(slot.weight, self._average[name])
            else:
                # What every update ends with: the weight is its master, rounded.
                slot.weight.copy_(slot.master)

    def state(self) -> dict[str, Any]:
        """How many updates are in the average."""
        return {"updates": self.updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        updates = state.get("updates")
        if not isinstance(updates, int) or isinstance(updates, bool) or updates < 0:
            raise ValueError("the number of updates is no whole number from 0 on")
        self.updates = updates

    def tensors(self) -> dict[str, Tensor]:
        """A whole model: averages in fp32, and what is not trained as it is; named as in `model.safetensors`."""
        assert self._model is not None
        return weights_of(self._model) | self._average

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave. Raises ValueError when that is not what it can have given."""
        mine = self.tensors()
        if mine.keys() != tensors.keys():
            name = min(mine.keys() ^ tensors.keys())
            raise ValueError(f"{name} is {'missing' if name in mine else 'not in this model'}")
        for name, average in self._average.items():
            if tensors[name].shape != average.shape or tensors[name].dtype != average.dtype:
                raise ValueError(f"{name} is {list(tensors[name].shape)} {tensors[name].dtype}")
        for name, average in self._average.items():
            average.copy_(tensors[name])


def _swap(one: Tensor, other: Tensor) -> None:
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)
