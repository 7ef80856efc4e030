"""Rows to the tensors that `ForTrainer` takes, by our own objectives: the same tokens hidden, the same loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch

from vitruvius.data import Batch
from vitruvius.training.checking import ensure
from vitruvius.training.config import TrainConfig
from vitruvius.training.objectives import make_objective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vitruvius.spec import Architecture
    from vitruvius.training.huggingface.rows import Row
    from vitruvius.training.objectives import Piece

IGNORED = -100


@final
class Collator:
    """`data_collator=` of a Trainer whose datasets are `Rows`."""

    def __init__(self, architecture: Architecture, config: TrainConfig | None = None) -> None:
        """config: objective, mask_rate, mask_token, documents and seed. Raises SpecError when they do not fit."""
        self.config = ensure(config or TrainConfig(), architecture)
        self.objective = make_objective(self.config)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """One batch, labels in Hugging Face's convention."""
        (piece,) = self.objective.pieces(batch_of(rows), 1, torch.device("cpu"))
        if piece.source is not None:
            return _of_source(piece)
        found = {"input_ids": piece.tokens, "labels": piece.targets}
        if piece.documents is not None:
            found["documents"] = piece.documents
        if self.config.objective == "masked-lm":
            return found
        # A label stands at its own token, one place after the one it is predicted from: rows grow by one place.
        found = {name: torch.nn.functional.pad(tensor, (0, 1), value=_LAST[name]) for name, tensor in found.items()}
        found["labels"] = torch.nn.functional.pad(piece.targets, (1, 0), value=IGNORED)
        if piece.prefix is not None:
            found["prefix_lengths"] = torch.tensor(piece.prefix)
        return found


_LAST = {"input_ids": 0, "labels": IGNORED, "documents": -1}
"""What stands at the last place of a row, which nothing is predicted from."""


def _of_source(piece: Piece) -> dict[str, Tensor]:
    assert piece.source is not None
    found = {"input_ids": piece.source, "labels": piece.targets, "decoder_input_ids": piece.tokens}
    if piece.source_lengths is not None:
        lengths = torch.tensor(piece.source_lengths).unsqueeze(1)
        found["attention_mask"] = (torch.arange(piece.source.shape[1]) < lengths).long()
    return found


def batch_of(rows: Sequence[Row]) -> Batch:
    """The batch that these rows make, shorter ones padded to the longest."""
    width = max(row.inputs.shape[1] for row in rows)
    blank = {"inputs": 0, "targets": IGNORED, "documents": -1, "crosses": False}

    def stacked(name: str) -> np.ndarray:
        arrays = [getattr(row, name) for row in rows]
        return np.concatenate(
            [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=blank[name]) for array in arrays]
        )

    return Batch(
        **{name: stacked(name) for name in blank},
        sample_ids=np.array([row.sample for row in rows], dtype=np.int64),
        epochs=np.array([row.epoch for row in rows], dtype=np.int64),
    )
