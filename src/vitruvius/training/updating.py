"""One update in two halves: gradients of a batch, then the optimizer's step; between them others may look and judge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from vitruvius.nn.updates import Gathering, after_step, gathered_by, put_back
from vitruvius.training.determinism import random_state, restore_random_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.objectives import Objective, Piece, Result
    from vitruvius.training.stopping import StopRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The gradients of a batch are at hand, and nothing is changed yet."""

    loss: float
    """Nats per target, over the whole batch; may be infinite or NaN."""
    objective: float
    """What was differentiated: the loss and every auxiliary loss, averaged like it."""
    grad_norm: float
    """L2 norm over all gradients, before clipping; NaN where the loss was not finite and no gradient was made."""
    metrics: dict[str, float]
    """What objective and modules report, averaged over the pieces."""

    @property
    def finite(self) -> bool:
        """Whether the update can be applied at all."""
        return math.isfinite(self.objective) and math.isfinite(self.grad_norm)


@final
class Updater:
    """The model, its optimizer and its objective, as one process computes them."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        model: Model,
        optimizer: MasterOptimizer,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self._before: list[tuple[Gathering, Any]] = []

    def gradients(self, batch: Batch, stop: StopRequest) -> Gathered | None:
        """Forward and backward over one batch; None, with nothing changed, when asked to stop between its pieces."""
        self._before = gathered_by(self.model)
        random_before = random_state() if self.config.accumulate > 1 else None
        pieces = self.objective.pieces(batch, self.config.accumulate, self.device)
        # The end of a padded sample that a curriculum cuts may ask for nothing.
        pieces = [piece for piece in pieces if piece.scored]
        scored = sum(piece.scored for piece in pieces)
        results: list[tuple[Piece, Result]] = []
        for piece in pieces:
            if stop.asked and random_before is not None:
                self.discard()
                restore_random_state(random_before)
                return None
            result = self.objective.train(self.model, piece)
            results.append((piece, result))
            if not math.isfinite(float(result.objective.detach())):
                return self._gathered(results, math.nan)
            (result.objective * (piece.scored / scored)).backward()
            if len(pieces) > 1:
                self.optimizer.accumulate()
        return self._gathered(results, self.optimizer.grad_norm())

    def apply(self, gathered: Gathered, *, lr: float, clip: float | None) -> None:
        """The optimizer's step, and what modules do after one."""
        assert gathered.finite
        self.optimizer.apply(gathered.grad_norm, lr=lr, clip=clip)
        self.optimizer.zero_grad()
        after_step(self.model)

    def discard(self) -> None:
        """Drop the gradients, and what modules have gathered for them."""
        self.optimizer.zero_grad()
        put_back(self._before)

    @staticmethod
    def _gathered(results: Sequence[tuple[Piece, Result]], norm: float) -> Gathered:
        scored = sum(piece.scored for piece, _ in results)
        return Gathered(
            loss=math.fsum(float(result.loss) * piece.scored / scored for piece, result in results),
            objective=math.fsum(float(result.objective.detach()) * piece.scored / scored for piece, result in results),
            grad_norm=norm,
            metrics=_averaged([result for _, result in results]),
        )


def _averaged(results: Sequence[Result]) -> dict[str, float]:
    names = results[0].metrics.keys()
    return {name: math.fsum(result.metrics[name] for result in results) / len(results) for name in names}
