"""Whether data and architecture speak of the same tokens. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from vitruvius.data import TokenShards
    from vitruvius.spec import Architecture
    from vitruvius.training.config import TrainConfig


def ensure_vocabulary(shards: TokenShards, architecture: Architecture, config: TrainConfig) -> None:
    """Raise DataError or UsageError where the data's vocabulary and the architecture's do not fit.

    `config` is resolved.
    """
    if shards.vocab_size > architecture.vocab_size:
        raise DataError(
            f"the data's vocabulary has {shards.vocab_size:,} tokens, the architecture's vocab_size is "
            f"{architecture.vocab_size:,}",
            where=str(shards.directory),
            fix=f"--set vocab_size={shards.vocab_size}, or prepare the data with --vocab {architecture.vocab_size}",
        )
    mask = config.mask_token
    if config.objective == "masked-lm" and mask is not None and mask < shards.vocab_size:
        raise UsageError(
            f"id {mask:,} is to hide tokens, and stands for one in the data (ids 0 to {shards.vocab_size - 1:,})",
            where="train.mask_token",
            fix=f"--set vocab_size={shards.vocab_size + 1}, so that one id is free",
        )
