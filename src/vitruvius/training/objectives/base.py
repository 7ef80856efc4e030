"""What the loop asks of an objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.nn import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A slice of a batch as tensors on the device: what one forward and backward pass sees."""

    tokens: Tensor
    """Inputs, int64 [B, T]."""
    targets: Tensor
    """What to predict, int64 [B, T]; -100 counts nothing."""
    documents: Tensor | None
    """Document of each input, int64 [B, T]; None when samples are one text each."""
    scored: int
    """Targets that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one forward pass over a piece came to."""

    objective: Tensor
    """The scalar to differentiate: the loss and every auxiliary loss."""
    loss: Tensor
    """The loss by itself, detached; what metrics report."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further numbers of this pass, by name."""


class Objective(Protocol):
    """Turns batches into pieces, and pieces into losses."""

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size."""
        ...

    def train(self, model: Model, piece: Piece) -> Result:
        """One forward pass with everything that training adds."""
        ...

    def score(self, model: Model, piece: Piece) -> Tensor:
        """Loss of every target by itself, fp32 [B, T], without auxiliary losses."""
        ...
