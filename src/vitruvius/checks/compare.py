"""How far apart two results are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-9
"""Two fp64 computations of one thing, added up in different orders, differ by 1e-15 to 1e-12. A single missing key,
wrong position or leaked token moves logits by 1e-6 and more, even with the small weights of a fresh model."""


def gap(found: Tensor, expected: Tensor) -> float:
    """Greatest difference, relative to the largest expected value where that exceeds one; NaN when either has one."""
    if found.numel() == 0:
        return 0.0
    scale = max(1.0, expected.abs().max().item())
    return (found - expected).abs().max().item() / scale
