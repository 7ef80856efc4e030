"""Those who look at a run as it goes, and change nothing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data import Batch
    from vitruvius.training.loop import Trainer
    from vitruvius.training.updating import Gathered


class Observer:
    """Base of observers: each of its moments does nothing unless a subclass says so.

    For every update in turn: `before`, forward and backward pass, `gathered`, the optimizer's step (or none, where the
    guard forbids it), `after`. What an observer attaches to the model in `before` it takes off in `after`. It draws no
    random numbers from torch's own generators and changes no tensor.
    """

    def started(self, trainer: Trainer) -> None:
        """The loop begins, or goes on."""

    def before(self, step: int, batch: Batch) -> None:
        """Update `step` (from 1) is about to be computed."""

    def gathered(self, step: int, gathered: Gathered) -> None:
        """The gradients are at hand, before clipping."""

    def after(self, step: int, applied: str) -> Mapping[str, float]:
        """The update is done; returns numbers for its row of metrics. applied: what the guard decided."""
        del step, applied
        return {}

    def ended(self) -> None:
        """The loop is over, for whatever reason."""
