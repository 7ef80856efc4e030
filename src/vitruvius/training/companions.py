"""Those who take part in a run beside weights and optimizer, and whose state stands in every checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from vitruvius.training.loop import Trainer


class Companion:
    """Base of companions: each of its moments does nothing unless a subclass says so.

    For every update in turn: `before`, forward and backward pass, the optimizer's step (or none), `after`. Unlike an
    observer it may change how the run goes on, so all processes have it, and it comes to the same in each. Whatever it
    remembers from one update to the next is in `state` or `tensors`: a resumed run goes on to the same bits.
    """

    name: ClassVar[str]
    """What its state is called in a checkpoint: lower case and dashes, never that of another companion."""

    def started(self, trainer: Trainer) -> None:
        """The loop begins, or goes on from a checkpoint, whose state is restored by now."""

    def before(self, step: int) -> None:
        """Update `step` (from 1) is about to be computed."""

    def after(self, step: int, row: Mapping[str, Any]) -> Mapping[str, float]:
        """The update is done, and this is its row of metrics; returns numbers to add to it.

        A row with `applied: 0` is that of an update which the guard did not let through.
        """
        del step, row
        return {}

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON data."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        if state:
            raise ValueError(f"{self.name} remembers nothing")

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers as tensors, by name; they are its own memory."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave. Raises ValueError when that is not what it can have given."""
        if tensors:
            raise ValueError(f"{self.name} remembers no tensors")
