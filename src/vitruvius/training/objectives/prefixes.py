"""Continue a text whose beginning may be read in both directions: by a prefix, or by an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from vitruvius.training.objectives.base import Piece, TokenObjective, on_device
from vitruvius.training.objectives.draws import generators

if TYPE_CHECKING:
    import torch

    from vitruvius.data import Batch
    from vitruvius.training.config import TrainConfig

IGNORED = -100


@final
class PrefixLM(TokenObjective):
    """Mean cross-entropy in nats of what follows a prefix of random length (Raffel et al., 2020; Tay et al., 2022).

    Layers with an open prefix read it in both directions; its own tokens are no targets. A sample is one text.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.seed = config.seed

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size; each sample has a prefix of 1 to T - 1 tokens, drawn evenly."""
        assert len(batch.inputs) % count == 0
        length = batch.inputs.shape[1]
        prefixes = np.array([int(draw.integers(1, max(2, length))) for draw in generators(batch, self.seed)])
        targets = batch.targets.copy()
        # The target of the prefix's last token is the first one outside it.
        targets[np.arange(length) < prefixes[:, None] - 1] = IGNORED
        return [
            Piece(
                tokens=on_device(inputs, device),
                targets=on_device(wanted, device),
                prefix=tuple(prefix.tolist()),
                scored=int((wanted != IGNORED).sum()),
            )
            for inputs, wanted, prefix in zip(
                np.split(batch.inputs, count), np.split(targets, count), np.split(prefixes, count), strict=True
            )
        ]


@final
class Continuation(TokenObjective):
    """Mean cross-entropy in nats of the second half of each sample, of which an encoder reads the first.

    The decoder's first input is the source's last token, so that it has something to start from.
    """

    def __init__(self, config: TrainConfig) -> None:
        del config

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size, each sample cut in the middle."""
        assert len(batch.inputs) % count == 0
        half = max(1, batch.inputs.shape[1] // 2)
        return [
            Piece(
                tokens=on_device(inputs[:, half - 1 :], device),
                targets=on_device(targets[:, half - 1 :], device),
                source=on_device(inputs[:, :half], device),
                scored=targets[:, half - 1 :].size,
            )
            for inputs, targets in zip(np.split(batch.inputs, count), np.split(batch.targets, count), strict=True)
        ]
