"""A loss scale for fp16 that finds its size by itself.

fp16 holds nothing below 6e-8, where many gradients are. The loss is multiplied by a scale before the backward pass, and
the gradients divided by it again as the optimizer reads them in fp32. A scale that makes a gradient pass 65,504 makes
infinities: that update is left out and the scale falls. After some updates without any it rises again.
Source: Micikevicius et al., Mixed Precision Training, 2018.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, final

from vitruvius.errors import RunError
from vitruvius.training.companions import Companion
from vitruvius.training.guarding.judge import Judgement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data import Batch
    from vitruvius.training.loop import Listener, Trainer
    from vitruvius.training.settings import Scaler

LEAST = 2.0**-40
LARGEST = 2.0**40
"""The scale stays between these, however long nothing (or everything) overflows."""

OVERFLOW = Judgement(verdict="overflow")
"""Of an update whose gradients overflowed: there is nothing for the guard to judge."""


@final
class LossScaler(Companion):
    """The scale, and what has happened since it last changed. Norms decide, which are the same in all processes."""

    name: ClassVar[str] = "loss-scaler"

    def __init__(self, settings: Scaler) -> None:
        self.settings = settings
        self.scale = settings.initial
        """What the loss is multiplied by in the next backward pass."""
        self.good = 0
        """Updates applied since the scale last changed."""
        self.overflows = 0
        """Overflows in a row."""

    def applied(self) -> None:
        """An update was applied: after enough of them the scale grows."""
        self.good, self.overflows = self.good + 1, 0
        if self.good >= self.settings.growth_every:
            self.scale, self.good = min(LARGEST, self.scale * self.settings.growth), 0

    def overflowed(self) -> None:
        """A gradient was not finite: the scale falls."""
        self.scale = max(LEAST, self.scale * self.settings.backoff)
        self.good, self.overflows = 0, self.overflows + 1

    def state(self) -> dict[str, Any]:
        """The scale, and both counts."""
        return {"scale": self.scale, "good": self.good, "overflows": self.overflows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError when that is not what it can have given."""
        scale, counts = state.get("scale"), [state.get("good"), state.get("overflows")]
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not math.isfinite(scale) or scale <= 0:
            raise ValueError("the scale is no number above 0")
        if any(not isinstance(count, int) or isinstance(count, bool) or count < 0 for count in counts):
            raise ValueError("a count is no whole number from 0 on")
        self.scale = float(scale)
        self.good, self.overflows = int(state["good"]), int(state["overflows"])


def bear_overflow(trainer: Trainer, step: int, batch: Batch, listener: Listener) -> dict[str, float]:
    """What happens in the place of update `step`, whose gradients overflowed in fp16; numbers for its row of metrics.

    The scale falls, and an event says from where to where. No retry of the guard is counted. Raises RunError, with the
    state before the update in a checkpoint, after more overflows in a row than are borne.
    """
    scaler = trainer.updater.scaler
    assert scaler is not None
    before = scaler.scale
    if scaler.overflows >= scaler.settings.overflows:
        if trainer.state.step and not trainer.is_saved:
            trainer.save()
        raise RunError(
            f"the gradients of step {step:,} overflow in fp16, after {scaler.overflows} overflows in a row, with a "
            f"loss scale of {before:g} by now",
            where=str(trainer.run.path),
            fix="train into a new folder with dtype: bf16 or fp32, or a lower --lr: no loss scale helps where "
            "gradients are infinite or NaN without one",
        )
    scaler.overflowed()
    trainer.run.event(
        "overflow", step=step, loss_scale=before, next_loss_scale=scaler.scale, sample_ids=batch.sample_ids.tolist()
    )
    listener.note(
        f"step {step:,}: gradients overflow in fp16: not applied, "
        f"the loss scale falls from {before:g} to {scaler.scale:g}"
    )
    return {"overflow": 1}
