"""Gradients and updates of each block: an embedding, a layer, a norm, a head."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

from vitruvius.training.engines.local import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from vitruvius.nn import Model
    from vitruvius.training.engines import Engine
    from vitruvius.training.engines.base import Picked
    from vitruvius.training.master import MasterOptimizer

MOST_WEIGHTS = 1 << 15
"""Weights of a tensor that an update is measured on, evenly spaced; all of them where there are no more."""

_LAYER = re.compile(r"(?:.*\.)?(?:layers|mtp)\.\d+(?=\.)")


def block_of(name: str) -> str:
    """The block that a parameter belongs to: `layers.3`, `encoder.layers.0`, `embedding`, `head`."""
    found = _LAYER.match(name)
    return found[0] if found else name.split(".", 1)[0]


@torch.no_grad()
def gradient_norms(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """`grad_norm/BLOCK`: L2 norm over the gradients of each block, before clipping."""
    return _norms(_squares(gradients))


@torch.no_grad()
def gradient_norms_of(optimizer: MasterOptimizer, engine: Engine) -> dict[str, float]:
    """The same over all processes, which share what `optimizer` has and all call this; one sum for all blocks."""
    if engine.has_whole_model:
        return gradient_norms(optimizer.gradients())
    mine = {name: each for name, each in optimizer.gradients().items() if name not in optimizer.elsewhere}
    here = _squares(mine)
    blocks = list(dict.fromkeys(block_of(name) for name, _ in optimizer.named_slots()))
    has = {block_of(name) for name in mine}
    sums = engine.summed([*(here.get(block, 0.0) for block in blocks), *(float(block in has) for block in blocks)])
    found = zip(blocks, sums[: len(blocks)], sums[len(blocks) :], strict=True)
    return _norms({block: total for block, total, count in found if count})


def _squares(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    return _summed({name: torch.linalg.vector_norm(each.float()).double().square() for name, each in gradients.items()})


def _norms(squares: Mapping[str, float]) -> dict[str, float]:
    return {f"grad_norm/{block}": math.sqrt(total) for block, total in squares.items() if math.isfinite(total)}


class Masters:
    """Some of the weights that the optimizer keeps, before an update; `ratios` compares them with those after it.

    Of several processes that share the weights each looks at those of its part, and all do so together.
    """

    @torch.no_grad()
    def __init__(self, model: Model, optimizer: MasterOptimizer, engine: Engine | None = None) -> None:
        self.engine: Engine = engine or LocalEngine()
        slots = dict(optimizer.named_slots())
        self._masters = {name: slots[name].master for name, _ in model.named_parameters() if name in slots}
        picked = {name: self.engine.picked(name, master, MOST_WEIGHTS) for name, master in self._masters.items()}
        self._picked: dict[str, Picked] = {name: each for name, each in picked.items() if each.count}
        self._before = {name: self._now(name).clone() for name in self._picked}

    @torch.no_grad()
    def ratios(self) -> dict[str, float]:
        """`update_ratio/BLOCK`: L2 norm of the update over that of the weights before it.

        Both are sums over at most `MOST_WEIGHTS` of each tensor's weights, scaled up to all of them: exact where a
        tensor has no more. They are the same weights for any number of processes.
        """
        moved: dict[str, Tensor] = {}
        sizes: dict[str, Tensor] = {}
        for name, picked in self._picked.items():
            before, scale = self._before[name].double(), picked.of / picked.count
            moved[name] = (self._now(name).double() - before).square().sum() * scale
            sizes[name] = before.square().sum() * scale
        above, below = _summed(moved), _summed(sizes)
        if not self.engine.has_whole_model:
            sums = self.engine.summed([*above.values(), *below.values()])
            above = dict(zip(above, sums, strict=False))
            below = dict(zip(below, sums[len(above) :], strict=True))
        return {
            f"update_ratio/{block}": math.sqrt(above[block] / size)
            for block, size in below.items()
            if size > 0 and math.isfinite(size) and math.isfinite(above[block])
        }

    def _now(self, name: str) -> Tensor:
        """At most `MOST_WEIGHTS` elements of this process's part."""
        return self._masters[name].detach().reshape(-1)[self._picked[name].index]


def _summed(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Sums by block, in one transfer."""
    if not values:
        return {}
    sums: dict[str, float] = {}
    for name, value in zip(values, torch.stack(list(values.values())).tolist(), strict=True):
        block = block_of(name)
        sums[block] = sums.get(block, 0.0) + value
    return sums
