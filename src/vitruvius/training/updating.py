"""One update in two halves: gradients of a batch, then the optimizer's step; between them others may look and judge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

from vitruvius.nn.updates import Gathering, after_step, gathered_by, put_back
from vitruvius.training.averaging import WeightAverage
from vitruvius.training.clipping import ZClip
from vitruvius.training.companions import Companion
from vitruvius.training.determinism import random_state, restore_random_state
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.scaling import LossScaler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.config import TrainConfig
    from vitruvius.training.engines import Engine
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.objectives import Objective, Piece, Result
    from vitruvius.training.stopping import StopRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The gradients of a batch are at hand, and nothing is changed yet; the same in every process."""

    loss: float
    """Nats per target, over the whole batch; may be infinite or NaN."""
    objective: float
    """What was differentiated: the loss and every auxiliary loss, averaged like it."""
    grad_norm: float
    """L2 norm over all gradients, before clipping; NaN where the loss was not finite and no gradient was made."""
    metrics: dict[str, float]
    """What objective and modules report, averaged over the pieces, and over the processes that report it."""
    loss_scale: float | None = None
    """What the loss was multiplied by in the backward pass; None where it was not scaled. `grad_norm` is without it."""

    @property
    def overflowed(self) -> bool:
        """Whether the loss is fine and a gradient is not, where a smaller loss scale may help."""
        return self.loss_scale is not None and math.isfinite(self.objective) and not math.isfinite(self.grad_norm)

    @property
    def finite(self) -> bool:
        """Whether the update can be applied at all."""
        return math.isfinite(self.objective) and math.isfinite(self.grad_norm)


@final
class Updater:
    """The model, its optimizer and its objective, and the engine whose processes share each batch.

    Of the companions of a run it takes those that have a part in an update: the loss scale, ZClip, the average.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        model: Model,
        optimizer: MasterOptimizer,
        objective: Objective,
        device: torch.device,
        engine: Engine | None = None,
        companions: Sequence[Companion] = (),
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self.engine: Engine = engine or LocalEngine()
        self.scaler = _one(LossScaler, companions)
        self.zclip = _one(ZClip, companions)
        self.average = _one(WeightAverage, companions)
        if self.average is not None:
            self.average.begin(model, optimizer)
        self._before: list[tuple[Gathering, Any]] = []

    def gradients(self, batch: Batch, stop: StopRequest) -> Gathered | None:
        """Forward and backward over this process's share of a batch, and the sum of all processes' gradients.

        None, with nothing changed, when asked to stop between its pieces.
        """
        self._before = gathered_by(self.model)
        random_before = random_state() if self.config.accumulate > 1 else None
        share = self.engine.share(batch, self.config.accumulate)
        found = self.objective.pieces(share, self.config.accumulate, self.device)
        totals = [int(total) for total in self.engine.total([piece.scored for piece in found])]
        # The end of a padded sample that a curriculum cuts may ask for nothing. Where it does so in this process alone,
        # the piece is computed all the same: routers wait for those of the other processes.
        pieces = [(piece, total) for piece, total in zip(found, totals, strict=True) if total]
        scored = sum(total for _, total in pieces)
        scale = 1.0 if self.scaler is None else self.scaler.scale
        results: list[_Computed] = []
        for piece, total in pieces:
            if random_before is not None and self.engine.agree_to_stop(stop):
                self.discard()
                restore_random_state(random_before)
                return None
            result = self.objective.train(self.model, piece)
            results.append(_Computed(piece=piece, result=result, total=total))
            if self.engine.anywhere(here=not math.isfinite(float(result.objective.detach()))):
                return self._gathered(results, math.nan)
            (result.objective * (piece.scored / scored * scale)).backward()
            if len(pieces) > 1:
                self.optimizer.accumulate()
        self.engine.reduce(self.optimizer)
        return self._gathered(results, self.optimizer.grad_norm() / scale)

    def apply(self, gathered: Gathered, *, lr: float, clip: float | None) -> dict[str, float]:
        """The optimizer's step, and what modules and companions do after one; numbers for its row of metrics."""
        assert gathered.finite
        norm, found = gathered.grad_norm, dict[str, float]()
        limits = [clip, None if self.zclip is None else self.zclip.limit(norm)]
        limit = min((each for each in limits if each is not None), default=None)
        if limit is not None and norm > limit:
            found["clipped_to"] = limit
        self.optimizer.apply(norm, lr=lr, clip=limit, loss_scale=gathered.loss_scale or 1.0)
        self.optimizer.zero_grad()
        after_step(self.model)
        if self.zclip is not None:
            self.zclip.applied(norm)
        if self.scaler is not None:
            self.scaler.applied()
        if self.average is not None:
            self.average.applied(self.optimizer)
        return found

    def discard(self) -> None:
        """Drop the gradients, and what modules have gathered for them."""
        self.optimizer.zero_grad()
        put_back(self._before)

    def _gathered(self, results: Sequence[_Computed], norm: float) -> Gathered:
        scored = sum(each.total for each in results)
        loss, objective = self.engine.total(
            [
                math.fsum(float(each.result.loss) * each.piece.scored / scored for each in results),
                math.fsum(float(each.result.objective.detach()) * each.piece.scored / scored for each in results),
            ]
        )
        return Gathered(
            loss=loss,
            objective=objective,
            grad_norm=norm,
            loss_scale=None if self.scaler is None else self.scaler.scale,
            metrics=_averaged(self.engine.gather(_averaged([each.result.metrics for each in results])))
            | ({} if self.scaler is None else {"loss_scale": self.scaler.scale}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Computed:
    """A piece that is done."""

    piece: Piece
    result: Result
    total: int
    """Targets that count in this piece, over all processes."""


LARGEST = frozenset({"lse_max"})
"""Metrics of which the largest counts, and not the mean."""


def _averaged(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over those that report it (of `LARGEST`, the most), in the order of the first ones."""
    names = dict.fromkeys(name for each in found for name in each)
    values = {name: [each[name] for each in found if name in each] for name in names}
    return {
        name: max(numbers) if name in LARGEST else math.fsum(numbers) / len(numbers) for name, numbers in values.items()
    }


_Kind = TypeVar("_Kind", bound=Companion)


def _one(kind: type[_Kind], companions: Sequence[Companion]) -> _Kind | None:
    """The companion of a kind, if there is one."""
    return next((each for each in companions if isinstance(each, kind)), None)
