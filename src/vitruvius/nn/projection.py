"""Several linear maps of one input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitruvius.nn.ops import joint_linear

if TYPE_CHECKING:
    from collections.abc import Sequence


def project(x: Tensor, maps: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Several maps of one input, [..., in] to [..., out] each; while training, one gradient for their common input.

    A map that a transform has replaced (an adapter, a quantized one) is called by itself.
    """
    plain = [m for m in maps if type(m) is nn.Linear]
    if len(plain) < len(maps) or not (torch.is_grad_enabled() and x.requires_grad):
        return tuple(m(x) for m in maps)
    return joint_linear(x, [m.weight for m in plain], [m.bias for m in plain])
