"""What attention is asked for, besides queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vitruvius.nn.place import Place
    from vitruvius.patterns import Pattern

BiasHook = Callable[["Tensor", "Tensor", int], "Tensor"]
"""(query positions, key positions, heads) -> a term for each score, [..., H, T, S]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One layer's attention in one call."""

    pattern: Pattern
    """Who attends to whom, on positions within a document."""
    scale: float
    """Multiplies the scores."""
    place: Place
    """Positions and documents of the tokens."""
    bias: BiasHook | None = None
    """The position's bias on scores."""
