"""Predict the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from vitruvius.training.objectives.base import Piece, TokenObjective, on_device

if TYPE_CHECKING:
    import torch

    from vitruvius.data import Batch
    from vitruvius.training.config import TrainConfig


@final
class CausalLM(TokenObjective):
    """Mean cross-entropy in nats of the next token.

    Every target counts, the separator after a document and the first token of the next one too: a model has to learn
    to end and to begin.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.separate = config.documents == "separate"

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size, on the device."""
        assert len(batch.inputs) % count == 0
        return [
            Piece(
                tokens=on_device(inputs, device),
                targets=on_device(targets, device),
                documents=on_device(documents, device) if self.separate else None,
                scored=int((targets >= 0).sum()),
            )
            for inputs, targets, documents in zip(
                np.split(batch.inputs, count),
                np.split(batch.targets, count),
                np.split(batch.documents, count),
                strict=True,
            )
        ]
