"""What detectors read in a model: one pass without gradients over a few rows, its tables, and its routers' load.

The same readers as those of `vitruvius.training.watching`; here each reading also says where in a layer it was taken.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.causality import backend
from vitruvius.evals.inspecting.listening import Listener
from vitruvius.nn.routers.base import RouterModule, over_ranks
from vitruvius.training.engines.local import LocalEngine
from vitruvius.training.watching.reading import MOST_OUTPUTS, undisturbed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import Tensor, nn

    from vitruvius.data import Batch
    from vitruvius.evals.inspecting.listening import Look
    from vitruvius.nn import Model
    from vitruvius.nn.place import Signals
    from vitruvius.training.engines import Engine
    from vitruvius.training.objectives import Objective, Piece
    from vitruvius.training.settings.alarms import Detector

IN_THE_PASS = frozenset[str]({"attention-logit", "output-lse", "stream-rms", "router-logit", "router-entropy"})
"""Detectors that need a pass over the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number of one place in the model; the largest of what was read, or the mean where the name says so."""

    detector: Detector
    key: str
    """What it is called in a row of metrics: `attention_logit_max/layers.3.mixer`."""
    value: float
    """May be infinite or NaN."""
    place: str
    """Where in the model: `layers.3.mixer head 2`."""


@dataclass(slots=True, eq=False)
class _Taken:
    """A value still on its device, and the index that is named with it."""

    detector: Detector
    key: str
    place: str
    value: Tensor
    index: Tensor | None
    index_name: str


class Taking:
    """Readings as they are taken, brought over from the device in one transfer."""

    def __init__(self) -> None:
        self.taken: list[_Taken] = []

    def largest(
        self, detector: Detector, key: str, place: str, values: Tensor, *, index_name: str, start: int = 0
    ) -> None:
        """The largest of a vector, with its index, of which the first is `start`."""
        value, index = values.detach().double().flatten().max(dim=0)
        self.taken.append(_Taken(detector, _named(key, place), place, value, index + start, index_name))

    def total(self, detector: Detector, key: str, place: str, values: Tensor, *, index_name: str) -> None:
        """The sum of a vector, with the index of its largest."""
        values = values.detach().double().flatten()
        self.taken.append(_Taken(detector, _named(key, place), place, values.sum(), values.argmax(), index_name))

    def single(self, detector: Detector, key: str, place: str, value: Tensor) -> None:
        """A number that has no index."""
        self.taken.append(_Taken(detector, _named(key, place), place, value.detach().double(), None, ""))

    def readings(self) -> list[Reading]:
        """The furthest of each key."""
        if not self.taken:
            return []
        values = torch.stack([each.value for each in self.taken]).tolist()
        nothing = torch.zeros((), dtype=torch.int64, device=self.taken[0].value.device)
        indices = torch.stack([nothing if each.index is None else each.index for each in self.taken]).tolist()
        found: dict[str, Reading] = {}
        for each, value, index in zip(self.taken, values, indices, strict=True):
            where = f"{each.place} {each.index_name} {index}" if each.index_name else each.place
            reading = Reading(detector=each.detector, key=each.key, value=value, place=where.strip())
            before = found.get(each.key)
            if before is None or is_further(reading, before):
                found[each.key] = reading
        return list(found.values())


@torch.no_grad()
def read_pass(
    model: Model, objective: Objective, batch: Batch, *, rows: int, tokens: int, detectors: Collection[Detector]
) -> list[Reading]:
    """What one pass over the first rows of a batch shows: largest scores, outputs, stream, routers.

    Modules are as they were afterwards, torch's random state included.
    """
    taking = Taking()
    with undisturbed(model):
        for piece in objective.pieces(batch, len(batch.inputs), model.device)[:rows]:
            if piece.scored:
                _read_piece(model, piece, tokens, detectors, taking)
    return taking.readings()


@torch.no_grad()
def read_tables(model: Model, detectors: Collection[Detector], engine: Engine | None = None) -> list[Reading]:
    """The rows of the embedding table; of several processes that share it, all call this."""
    taking = Taking()
    if "embedding-norm" in detectors:
        norms_V = (engine or LocalEngine()).row_norms("embedding.tokens.weight", model.embedding.tokens.weight)
        taking.largest("embedding-norm", "embedding_norm_max", "embedding", norms_V, index_name="token")
        taking.single("embedding-norm", "embedding_norm_mean", "embedding", norms_V.mean())
    return taking.readings()


@torch.no_grad()
def read_load(model: Model, detectors: Collection[Detector]) -> list[Reading]:
    """The load of experts over the update whose gradients are at hand, on all processes; they all call this."""
    taking = Taking()
    for path, router in _routers(model):
        if router.load_E is None or not {"expert-load", "dead-experts"} & set(detectors):
            continue
        load_E = over_ranks(router.load_E).double()
        if "expert-load" in detectors:
            over_mean_E = load_E / load_E.mean().clamp_min(1e-30)
            taking.largest("expert-load", "expert_load_max", path, over_mean_E, index_name="expert")
        if "dead-experts" in detectors:
            idle_E = (load_E == 0).double()
            taking.total("dead-experts", "dead_experts", path, idle_E, index_name="first expert")
    return taking.readings()


def _read_piece(model: Model, piece: Piece, tokens: int, detectors: Collection[Detector], taking: Taking) -> None:
    documents = None if piece.documents is None else piece.documents[:, :tokens]
    prefix = None if piece.prefix is None else tuple(min(length, tokens) for length in piece.prefix)
    source = None if piece.source is None else piece.source[:, :tokens]
    scores: list[Tensor] = []

    def look(seen: Look) -> None:
        for scores_BH in scores:
            largest_H = scores_BH.amax(dim=0)
            # Where heads are divided among processes, those of this one begin somewhere.
            first = getattr(seen.module, "first_head", 0)
            taking.largest(
                "attention-logit", "attention_logit_max", seen.path, largest_H, index_name="head", start=first
            )
        scores.clear()

    listener = Listener(model, look)
    listener.signals.attention = None  # nobody looks at maps here
    listener.signals.largest_scores = scores if "attention-logit" in detectors else None
    with (
        backend(model, "reference"),
        listener.listening() as signals,
        _routers_heard(model, signals, detectors, taking),
    ):
        h_BTD = model.hidden(
            piece.tokens[:, :tokens], documents=documents, source=source, prefix=prefix, signals=signals
        )
    if "stream-rms" in detectors:
        for path, x_BTD in listener.heard.stream.items():
            taking.single("stream-rms", "stream_rms", path, x_BTD.float().square().mean().sqrt())
    if "output-lse" in detectors:
        logits_BTV = model.head(h_BTD[:, -MOST_OUTPUTS:], model.embedding.tokens.weight)
        lse_BT = logits_BTV.float().logsumexp(-1)
        taking.largest("output-lse", "output_lse_max", "", lse_BT.abs(), index_name="position")
        taking.single("output-lse", "output_lse_mean", "", lse_BT.mean().abs())


_ROUTER_METRICS: dict[Detector, str] = {"router-logit": "router_logit_norm", "router-entropy": "router_entropy"}


@contextmanager
def _routers_heard(model: Model, signals: Signals, detectors: Collection[Detector], taking: Taking) -> Iterator[None]:
    """Inside, what a router reports is taken with the router's name as soon as it is done."""
    handles: list[Any] = []

    def heard(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
            for detector, metric in _ROUTER_METRICS.items():
                values = signals.metrics.pop(metric, [])
                if detector in detectors and values:
                    taking.single(detector, metric, path, values[-1])

        return hook

    for path, router in _routers(model):
        handles.append(router.register_forward_hook(heard(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _routers(model: Model) -> Iterator[tuple[str, RouterModule]]:
    for path, module in model.named_modules():
        if isinstance(module, RouterModule):
            yield path, module


def _named(key: str, place: str) -> str:
    return f"{key}/{place}" if place else key


def is_further(reading: Reading, before: Reading) -> bool:
    """Whether a reading is worse than another of its key: larger, or less where small is bad; NaN before all."""
    if math.isnan(before.value) or math.isnan(reading.value):
        return not math.isnan(before.value)
    least = reading.detector == "router-entropy"
    return reading.value < before.value if least else reading.value > before.value
