"""Tell what stood where some of the text was hidden (Devlin et al., 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from vitruvius.training.objectives.base import Judged, Piece, TokenObjective, on_device
from vitruvius.training.objectives.draws import generators

if TYPE_CHECKING:
    import torch

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig

IGNORED = -100
_BECOME_MASK, _BECOME_RANDOM = 0.8, 0.1


@final
class MaskedLM(TokenObjective):
    """Mean cross-entropy in nats of the chosen tokens: 80 % are masked, 10 % replaced by a random one, 10 % kept.

    Which tokens are chosen depends on the seed, the epoch and the sample, so each epoch hides others and a resumed run
    hides the same. At least one token of each sample is chosen.
    """

    judges = ("masked_accuracy",)

    def __init__(self, config: TrainConfig) -> None:
        assert config.mask_token is not None
        self.separate = config.documents == "separate"
        self.rate, self.mask, self.seed = config.mask_rate, config.mask_token, config.seed

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size, with tokens hidden."""
        assert len(batch.inputs) % count == 0
        inputs, targets = self._hidden(batch)
        return [
            Piece(
                tokens=on_device(hidden, device),
                targets=on_device(wanted, device),
                documents=on_device(documents, device) if self.separate else None,
                scored=int((wanted != IGNORED).sum()),
            )
            for hidden, wanted, documents in zip(
                np.split(inputs, count), np.split(targets, count), np.split(batch.documents, count), strict=True
            )
        ]

    def judge(self, model: Model, piece: Piece) -> Judged:
        """The score, and `masked_accuracy`: how many of the chosen tokens are the likeliest ones."""
        h_BTD = model.hidden(piece.tokens, documents=piece.documents)
        table_VD, targets_N = model.embedding.tokens.weight, piece.targets.flatten()
        nats_N = model.head.loss(h_BTD.flatten(0, 1), targets_N, table_VD, per_token=True)
        asked = targets_N >= 0
        found = model.head(h_BTD.flatten(0, 1)[asked].unsqueeze(0), table_VD)[0].argmax(dim=-1)
        right = int((found == targets_N[asked]).sum())
        return Judged(nats_BT=nats_N.float().view_as(piece.targets), means={"masked_accuracy": (right, piece.scored)})

    def _hidden(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Inputs with the mask and random tokens in them, and targets that are -100 where nothing was chosen."""
        inputs, targets = batch.inputs.copy(), np.full_like(batch.inputs, IGNORED)
        length = inputs.shape[1]
        for row, draw in enumerate(generators(batch, self.seed)):
            real = np.flatnonzero(batch.documents[row] >= 0)
            chosen = np.zeros(length, dtype=bool)
            chosen[real] = (draw.random(length) < self.rate)[real]
            if not len(real):
                continue  # padding that a curriculum cut off
            chosen[real[draw.integers(length) % len(real)]] |= not chosen.any()
            fate = draw.random(length)
            # As frequent as in the text.
            other = batch.inputs[row, real[draw.integers(length, size=length) % len(real)]]
            targets[row, chosen] = batch.inputs[row, chosen]
            masked = chosen & (fate < _BECOME_MASK)
            replaced = chosen & (fate >= _BECOME_MASK) & (fate < _BECOME_MASK + _BECOME_RANDOM)
            inputs[row, masked] = self.mask
            inputs[row, replaced] = other[replaced]
        return inputs, targets
