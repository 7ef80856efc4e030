"""Write the target of a pair whose source an encoder reads (Sutskever et al., 2014; Raffel et al., 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from vitruvius.training.objectives.base import Piece, TokenObjective, on_device

if TYPE_CHECKING:
    import torch

    from vitruvius.data import Batch
    from vitruvius.training.config import TrainConfig

IGNORED = -100


@final
class Seq2Seq(TokenObjective):
    """Mean cross-entropy in nats of the target's tokens and its separator; the source's are no targets.

    The decoder starts from the separator. Rows are padded to the longest of their piece, and nothing reads padding.
    """

    def __init__(self, config: TrainConfig) -> None:
        del config

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size, each source and target apart."""
        assert len(batch.inputs) % count == 0
        return [
            _piece(inputs, targets, documents, device)
            for inputs, targets, documents in zip(
                np.split(batch.inputs, count),
                np.split(batch.targets, count),
                np.split(batch.documents, count),
                strict=True,
            )
        ]


def _piece(inputs: np.ndarray, targets: np.ndarray, documents: np.ndarray, device: torch.device) -> Piece:
    """Rows of a source (an even document), what the decoder reads (an odd one) and padding (-1), taken apart."""
    real = documents >= 0
    source_lengths = (real & (documents % 2 == 0)).sum(axis=1)
    target_lengths = real.sum(axis=1) - source_lengths
    assert (source_lengths > 0).all()
    assert (target_lengths > 0).all()
    places = np.arange(int(target_lengths.max()))
    inside = places < target_lengths[:, None]
    # Past the end of a row anything may stand: it is padding.
    at = np.minimum(source_lengths[:, None] + places, inputs.shape[1] - 1)
    wanted = np.where(inside, np.take_along_axis(targets, at, axis=1), IGNORED)
    source = inputs[:, : int(source_lengths.max())].copy()
    # One row's padding must not depend on another's text.
    source[np.arange(source.shape[1]) >= source_lengths[:, None]] = 0
    return Piece(
        tokens=on_device(np.where(inside, np.take_along_axis(inputs, at, axis=1), 0), device),
        targets=on_device(wanted, device),
        source=on_device(source, device),
        source_lengths=tuple(source_lengths.tolist()),
        scored=int((wanted != IGNORED).sum()),
    )
