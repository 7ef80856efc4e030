"""An update of a run as `vitruvius.sizing` asks of it. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.sizing.workload import Workload

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig


def tokens_read(config: TrainConfig) -> int:
    """Tokens of a sample that a stack reads at most; `config` is resolved.

    A continuation gives an encoder the first half and a decoder the rest, and a pair has limits of its own; everything
    else reads the whole sample.
    """
    assert config.context is not None
    if config.objective == "continuation":
        # The decoder starts from the last token of the half that the encoder reads.
        return config.context - max(1, config.context // 2) + 1
    if config.objective == "seq2seq":
        return max(config.pairs.source or config.context, config.pairs.target or config.context)
    return config.context


def workload_of(config: TrainConfig) -> Workload:
    """One update: what a piece of the batch takes, and how many there are. `config` is resolved."""
    return Workload(
        mode="train",
        context=tokens_read(config),
        batch=config.batch // config.accumulate,
        weights=config.dtype,
        # Pages can leave a GPU that is full; until then they lie there.
        optimizer="adamw-8bit" if config.optimizer == "adamw-8bit-paged" else config.optimizer,
        checkpointing=config.checkpointing,
        accumulate=config.accumulate,
        average="none" if config.ema is None else "fp32",
        z_loss="added" if config.z_loss else "none",
    )
