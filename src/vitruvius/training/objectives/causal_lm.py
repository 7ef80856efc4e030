"""Predict the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch

from vitruvius.nn import Signals
from vitruvius.training.objectives.base import Piece, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dead_experts": torch.sum,
    "expert_load_max_over_mean": torch.max,
}
"""How a metric that several layers report becomes one number; the mean where nothing is said."""


@final
class CausalLM:
    """Mean cross-entropy in nats of the next token, plus what the modules ask for (`aux_loss`).

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
                tokens=_tensor(inputs, device),
                targets=_tensor(targets, device),
                documents=_tensor(documents, device) if self.separate else None,
                scored=targets.size,
            )
            for inputs, targets, documents in zip(
                np.split(batch.inputs, count),
                np.split(batch.targets, count),
                np.split(batch.documents, count),
                strict=True,
            )
        ]

    def train(self, model: Model, piece: Piece) -> Result:
        """Cross-entropy and auxiliary losses; metrics are `aux_loss` and what routers report."""
        signals = Signals()
        loss = model.loss(piece.tokens, piece.targets, documents=piece.documents, signals=signals)
        metrics = {name: _reduced(name, values) for name, values in signals.metrics.items()}
        if not signals.losses:
            return Result(objective=loss, loss=loss.detach(), metrics=metrics)
        auxiliary = torch.stack([extra.float() for extra in signals.losses]).sum()
        metrics["aux_loss"] = float(auxiliary.detach())
        return Result(objective=loss + auxiliary.to(loss.dtype), loss=loss.detach(), metrics=metrics)

    def score(self, model: Model, piece: Piece) -> Tensor:
        """Nats of each target, [B, T] in at least fp32."""
        return model.loss(piece.tokens, piece.targets, documents=piece.documents, per_token=True).float()


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _reduced(name: str, values: list[Tensor]) -> float:
    return float(REDUCTIONS.get(name, torch.mean)(torch.stack([value.float() for value in values])))
