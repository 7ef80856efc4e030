"""An update of a run as `vitruvius.sizing` asks of it. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.sizing.workload import Workload

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig


def workload_of(config: TrainConfig) -> Workload:
    """One update: what a piece of the batch takes, and how many there are. `config` is resolved."""
    return Workload(
        mode="train",
        context=config.context,
        batch=config.batch // config.accumulate,
        weights=config.dtype,
        # Pages can leave a GPU that is full; until then they lie there.
        optimizer="adamw-8bit" if config.optimizer == "adamw-8bit-paged" else config.optimizer,
        checkpointing=config.checkpointing,
        accumulate=config.accumulate,
        average="none" if config.ema is None else "fp32",
        z_loss="added" if config.z_loss else "none",
    )
