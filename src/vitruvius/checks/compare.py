"""How far apart two results are."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def worst_of(gaps: Iterable[float]) -> float:
    """The largest gap, 0 without any; NaN is worse than all others, which `max` would forget."""
    found = list(gaps)
    return next((gap for gap in found if isnan(gap)), max(found, default=0.0))


def worst_in(gaps: Mapping[str, float]) -> tuple[str, float]:
    """(name, gap) of the worst entry."""
    return max(gaps.items(), key=lambda item: float("inf") if isnan(item[1]) else item[1])
