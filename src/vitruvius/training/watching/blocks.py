"""Gradients and updates of each block: an embedding, a layer, a norm, a head."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from vitruvius.nn import Model
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
    squares = {
        name: torch.linalg.vector_norm(gradient.float()).double().square() for name, gradient in gradients.items()
    }
    return {f"grad_norm/{block}": math.sqrt(total) for block, total in _summed(squares).items() if math.isfinite(total)}


class Masters:
    """Some of the weights that the optimizer keeps, before an update; `ratios` compares them with those after it."""

    @torch.no_grad()
    def __init__(self, model: Model, optimizer: MasterOptimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.before = {name: _some(tensor).clone() for name, tensor in self._now()}

    @torch.no_grad()
    def ratios(self) -> dict[str, float]:
        """`update_ratio/BLOCK`: L2 norm of the update over that of the weights before it.

        Both are sums over at most `MOST_WEIGHTS` of each tensor's weights, scaled up to all of them: exact where a
        tensor has no more.
        """
        moved: dict[str, Tensor] = {}
        sizes: dict[str, Tensor] = {}
        for name, tensor in self._now():
            before = self.before[name]
            scale = tensor.numel() / max(1, before.numel())
            moved[name] = (_some(tensor).double() - before.double()).square().sum() * scale
            sizes[name] = before.double().square().sum() * scale
        above, below = _summed(moved), _summed(sizes)
        return {
            f"update_ratio/{block}": math.sqrt(above[block] / size)
            for block, size in below.items()
            if size > 0 and math.isfinite(size) and math.isfinite(above[block])
        }

    def _now(self) -> Iterable[tuple[str, Tensor]]:
        masters = self.optimizer.tensors()
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.numel():
                yield name, masters.get(f"master.{name}", parameter.detach())


def _some(tensor: Tensor) -> Tensor:
    """At most `MOST_WEIGHTS` elements, evenly spaced."""
    flat = tensor.detach().reshape(-1)
    return flat[:: -(-flat.numel() // MOST_WEIGHTS)]


def _summed(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Sums by block, in one transfer."""
    if not values:
        return {}
    sums: dict[str, float] = {}
    for name, value in zip(values, torch.stack(list(values.values())).tolist(), strict=True):
        block = block_of(name)
        sums[block] = sums.get(block, 0.0) + value
    return sums
