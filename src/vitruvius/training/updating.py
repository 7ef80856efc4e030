"""One update in two halves: gradients of a batch, then the optimizer's step; between them others may look and judge."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from vitruvius.nn.updates import Gathering, after_step, gathered_by, put_back
from vitruvius.runs.shortage import is_out_of_memory
from vitruvius.training.averaging import WeightAverage
from vitruvius.training.clipping import ZClip
from vitruvius.training.companions import Companion
from vitruvius.training.determinism import random_state, restore_random_state
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.pieces import Pieces, Shortage
from vitruvius.training.scaling import LossScaler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        self._halves = _one(Pieces, companions) is not None and config.recovery.out_of_memory == "halve"
        # Routers gather the load of their experts over all processes, in the forward pass.
        routes = self.engine.ranks > 1 and bool(gathered_by(model))
        self._alone = self.engine.computes_alone and not routes

    def gradients(self, batch: Batch, stop: StopRequest) -> Gathered | Shortage | None:
        """Forward and backward over this process's share of a batch, and the sum of all processes' gradients.

        None, with nothing changed, when asked to stop between its pieces; a shortage, with nothing changed, when memory
        ran out in any process. Raises ShortInPassError when it did in a pass that the others compute with this one.
        """
        random_before = random_state() if self.config.accumulate > 1 or self._halves else None
        found = self._gradients(batch, stop)
        if not isinstance(found, Gathered):
            self.discard()
            assert random_before is not None
            restore_random_state(random_before)
        return found

    def _gradients(self, batch: Batch, stop: StopRequest) -> Gathered | Shortage | None:
        self._before = gathered_by(self.model)
        share = self.engine.share(batch, self.config.accumulate)
        found = self.objective.pieces(share, self.config.accumulate, self.device)
        totals = [int(total) for total in self.engine.total([piece.scored for piece in found])]
        # The end of a padded sample that a curriculum cuts may ask for nothing. Where it does so in this process alone,
        # the piece is computed all the same: routers wait for those of the other processes.
        pieces = [(piece, total) for piece, total in zip(found, totals, strict=True) if total]
        scored = sum(total for _, total in pieces)
        scale = 1.0 if self.scaler is None else self.scaler.scale
        results: list[_Computed] = []
        for number, (piece, total) in enumerate(pieces, 1):
            if self.config.accumulate > 1 and self.engine.agree_to_stop(stop):
                return None
            result = self._fitting(partial(self.objective.train, self.model, piece))
            if isinstance(result, Shortage):
                return result
            results.append(_Computed(piece=piece, result=result, total=total))
            if self.engine.anywhere(here=not math.isfinite(float(result.objective.detach()))):
                return self._gathered(results, math.nan)
            weight = piece.scored / scored * scale
            short = self._fitting(partial(self._backward, result, weight, number, len(pieces)))
            if short is not None:
                return short
        norm = self._reduced_norm()
        return norm if isinstance(norm, Shortage) else self._gathered(results, norm / scale)

    def _backward(self, result: Result, weight: float, number: int, count: int) -> None:
        self.engine.backward(result.objective * weight, last=number == count)
        if count > 1:
            self.optimizer.accumulate()

    def _reduced_norm(self) -> float | Shortage:
        """The norm of the gradients, once those of all processes are in it."""

        def reduced() -> float:
            self.engine.reduce(self.optimizer)
            return self.optimizer.grad_norm()

        # Between several processes the messages are under way: the one that fails cannot tell the others.
        return self._fitting(reduced) if self.engine.ranks == 1 else self._alone_or_stop(reduced)

    def _fitting(self, work: Callable[[], _Value]) -> _Value | Shortage:
        """What `work` gives, or a shortage, in all processes, when memory runs out in any of them."""
        if not self._halves:
            return work()
        if not self._alone:
            return self._alone_or_stop(work)
        value: _Value | None = None
        short: Shortage | None = None
        try:
            value = work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            short = Shortage.of(error, process=self.engine.rank)
        # Outside of the block that has caught it: its frames hold the pass.
        if not self.engine.anywhere(here=short is not None):
            return cast("_Value", value)
        told = self.engine.gather(None if short is None else asdict(short))
        return Shortage(**next(each for each in told if each is not None))

    def _alone_or_stop(self, work: Callable[[], _Value]) -> _Value:
        """What `work` gives, which all processes do together. Raises ShortInPassError where memory runs out here."""
        short: Shortage | None = None
        try:
            return work()
        except Exception as error:
            if not (self._halves and is_out_of_memory(error)):
                raise
            short = Shortage.of(error, process=self.engine.rank)
        raise ShortInPassError(short)

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
        parts = [(each.piece.scored / scored, each.result) for each in results]
        named = BY_TARGETS if self.config.z_loss else ()
        loss, objective, *means = self.engine.total(
            [
                math.fsum(float(result.loss) * share for share, result in parts),
                math.fsum(float(result.objective.detach()) * share for share, result in parts),
                *(math.fsum(result.metrics[name] * share for share, result in parts if share) for name in named),
            ]
        )
        return Gathered(
            loss=loss,
            objective=objective,
            grad_norm=norm,
            loss_scale=None if self.scaler is None else self.scaler.scale,
            metrics=_averaged(self.engine.gather(_averaged([each.result.metrics for each in results])))
            | dict(zip(named, means, strict=True))
            | ({} if self.scaler is None else {"loss_scale": self.scaler.scale}),
        )


class ShortInPassError(Exception):
    """Memory ran out in a pass that other processes compute with this one: they wait for it and cannot be told."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(shortage.error)
        self.shortage = shortage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Computed:
    """A piece that is done."""

    piece: Piece
    result: Result
    total: int
    """Targets that count in this piece, over all processes."""


BY_TARGETS = ("z_loss", "lse_mean")
"""Metrics that are means over the targets, as the loss is, so pieces count by how many they have."""
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
_Value = TypeVar("_Value")


def _one(kind: type[_Kind], companions: Sequence[Companion]) -> _Kind | None:
    """The companion of a kind, if there is one."""
    return next((each for each in companions if isinstance(each, kind)), None)
