"""What the loop asks of an objective, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from vitruvius.nn import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.nn import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A slice of a batch as tensors on the device: what one forward and backward pass sees."""

    tokens: Tensor
    """Inputs, int64 [B, T]."""
    targets: Tensor
    """What to predict, int64 [B, T]; -100 counts nothing."""
    documents: Tensor | None = None
    """Document of each input, int64 [B, T]; None when samples are one text each."""
    source: Tensor | None = None
    """What an encoder reads, int64 [B, S]."""
    source_lengths: tuple[int, ...] | None = None
    """How many tokens of each source are real; None when all are."""
    prefix: tuple[int, ...] | None = None
    """How many of the first tokens of each row are read in both directions."""
    scored: int
    """Targets that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one forward pass over a piece came to."""

    objective: Tensor
    """The scalar to differentiate: the loss and every auxiliary loss."""
    loss: Tensor
    """The loss by itself, detached; what metrics report."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further numbers of this pass, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A piece of held-out samples, looked at closely."""

    nats_BT: Tensor
    """Loss of every target by itself, in at least fp32, without auxiliary losses; 0 where nothing is scored."""
    means: Mapping[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    """Further metrics by name, each a mean: what is added up, and over how many."""


class Objective(Protocol):
    """Turns batches into pieces, and pieces into losses."""

    @property
    def judges(self) -> tuple[str, ...]:
        """The names of the means in what `judge` gives."""
        ...

    def pieces(self, batch: Batch, count: int, device: torch.device) -> list[Piece]:
        """The batch in `count` slices of equal size."""
        ...

    def train(self, model: Model, piece: Piece) -> Result:
        """One forward pass with everything that training adds."""
        ...

    def score(self, model: Model, piece: Piece) -> Tensor:
        """Loss of every target by itself, fp32 [B, T], without auxiliary losses; 0 where nothing is scored."""
        ...

    def judge(self, model: Model, piece: Piece) -> Judged:
        """As `score`, with whatever else is worth knowing of held-out samples; what validation calls."""
        ...


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dead_experts": torch.sum,
    "expert_load_max_over_mean": torch.max,
    "router_bias_max": torch.max,
}
"""How a metric that several layers report becomes one number; the mean where nothing is said."""


class TokenObjective:
    """Mean cross-entropy in nats over the targets of a piece, plus what the modules ask for (`aux_loss`)."""

    z_loss: float = 0.0
    """Coefficient of the mean squared log-sum-exp of the logits, which is part of what is differentiated."""

    judges: tuple[str, ...] = ()
    """The names of the means in what `judge` gives."""

    def train(self, model: Model, piece: Piece) -> Result:
        """Cross-entropy and auxiliary losses; metrics are `aux_loss` and what modules report."""
        signals = Signals(z_loss=self.z_loss)
        objective = self._loss(model, piece, signals)
        loss = objective.detach() if signals.cross_entropy is None else signals.cross_entropy
        metrics = {name: _reduced(name, values) for name, values in signals.metrics.items()}
        if not signals.losses:
            return Result(objective=objective, loss=loss, metrics=metrics)
        auxiliary = torch.stack([extra.float() for extra in signals.losses]).sum()
        metrics["aux_loss"] = float(auxiliary.detach())
        return Result(objective=objective + auxiliary.to(objective.dtype), loss=loss, metrics=metrics)

    def score(self, model: Model, piece: Piece) -> Tensor:
        """Nats of each target, [B, T] in at least fp32; 0 where nothing is scored."""
        return self._loss(model, piece, None, per_token=True).float()

    def judge(self, model: Model, piece: Piece) -> Judged:
        """The score alone."""
        return Judged(nats_BT=self.score(model, piece))

    @staticmethod
    def _loss(model: Model, piece: Piece, signals: Signals | None, *, per_token: bool = False) -> Tensor:
        return model.loss(
            piece.tokens,
            piece.targets,
            documents=piece.documents,
            source=piece.source,
            source_lengths=piece.source_lengths,
            prefix=piece.prefix,
            signals=signals,
            per_token=per_token,
        )


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _reduced(name: str, values: list[Tensor]) -> float:
    return float(REDUCTIONS.get(name, torch.mean)(torch.stack([value.float() for value in values])))
