"""What a model does with a few rows of its batch: one pass over the readable reference path, without gradients."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.checks.causality import backend
from vitruvius.evals.inspecting.gates import gates_of
from vitruvius.evals.inspecting.listening import Listener
from vitruvius.nn.backends import flex_masks
from vitruvius.nn.backends.packed import forget_batches
from vitruvius.nn.backends.plans import forget_plans
from vitruvius.nn.weights import tables_that_grow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from torch import Tensor

    from vitruvius.data import Batch
    from vitruvius.evals.inspecting.gates import Gate
    from vitruvius.evals.inspecting.listening import Look
    from vitruvius.nn import Model
    from vitruvius.training.objectives import Objective, Piece

NEEDS_READING = frozenset({"attention", "stream", "output", "gates"})
MOST_OUTPUTS = 128
"""Places of a row whose logits are made, the last ones: a vocabulary times a context is large."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Found:
    """Scalars of several passes by key, still on their device."""

    values: dict[str, list[Tensor]] = field(default_factory=dict[str, "list[Tensor]"])

    def add(self, key: str, value: Tensor) -> None:
        """One more value; the mean is what is told in the end."""
        self.values.setdefault(key, []).append(value.detach().double())

    def numbers(self) -> dict[str, float]:
        """Means, in one transfer; what is no number is left out."""
        if not self.values:
            return {}
        means = torch.stack([torch.stack(values).mean() for values in self.values.values()]).tolist()
        return {key: mean for key, mean in zip(self.values, means, strict=True) if math.isfinite(mean)}


def read(
    model: Model, objective: Objective, batch: Batch, *, rows: int, tokens: int, measures: Collection[str]
) -> dict[str, float]:
    """The numbers of `measures` over the first `rows` samples and `tokens` tokens of each, means over both.

    Modules are as they were afterwards, torch's random state included.
    """
    found = _Found()
    with undisturbed(model), torch.no_grad():
        for piece in objective.pieces(batch, len(batch.inputs), model.device)[:rows]:
            if piece.scored:
                _read_piece(model, piece, tokens, measures, found)
    return found.numbers()


def _read_piece(model: Model, piece: Piece, tokens: int, measures: Collection[str], found: _Found) -> None:
    documents = None if piece.documents is None else piece.documents[:, :tokens]
    prefix = None if piece.prefix is None else tuple(min(length, tokens) for length in piece.prefix)
    source = None if piece.source is None else piece.source[:, :tokens]
    gates: list[Gate] = []

    def look(seen: Look) -> None:
        own = documents if seen.part == "mixer" and not seen.path.startswith("encoder.") else None
        for name, value in attention_of(seen.weights_BHTS, own, crossing=seen.part == "cross").items():
            found.add(f"{name}/{seen.path}", value)

    listener = Listener(model, look if "attention" in measures else None)
    with backend(model, "reference"), gates_of(model, gates), listener.listening() as signals:
        h_BTD = model.hidden(
            piece.tokens[:, :tokens], documents=documents, source=source, prefix=prefix, signals=signals
        )
    if "stream" in measures:
        for path, x_BTD in listener.heard.stream.items():
            found.add(f"stream_rms/{path}", x_BTD.float().square().mean().sqrt())
    if "gates" in measures:
        for gate in gates:
            values = gate.values_HT.float()
            place = f"{gate.path}/{gate.name.replace(' ', '-')}"
            found.add(f"gate_mean/{place}", values.mean())
            found.add(f"gate_std/{place}", values.std(correction=0))
    if "output" in measures:
        logits_BTV = model.head(h_BTD[:, -MOST_OUTPUTS:], model.embedding.tokens.weight)
        found.add("output_lse", logits_BTV.float().logsumexp(-1).mean())


def attention_of(weights_BHTS: Tensor | None, documents_BT: Tensor | None, *, crossing: bool) -> dict[str, Tensor]:
    """Entropy (nats), mean distance (tokens) and sink mass of one attention, means over rows, heads and queries.

    Sink mass is the weight on the first token of the query's document, and what a learned sink takes; the first query
    of each document, which has no choice, does not count. Entropy is that of the weights as they are: with a learned
    sink they sum to less than one. Padding (a document below 0) asks nothing. Across two texts there is no distance.
    """
    if weights_BHTS is None:
        return {}
    weights = weights_BHTS.float()
    batch, _, queries, keys = weights.shape
    place_T = torch.arange(queries, device=weights.device)
    first_BT = torch.zeros(batch, queries, dtype=torch.long, device=weights.device)
    asks_BT = torch.ones(batch, queries, dtype=torch.bool, device=weights.device)
    if documents_BT is not None:
        begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
        begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        first_BT = torch.where(begins_BT, place_T, 0).cummax(-1).values
        asks_BT = documents_BT >= 0
    # Products and not indexing: how many queries count is then no question that a GPU has to answer.
    total_BHT = weights.sum(-1)
    asks_BHT = asks_BT.unsqueeze(1).expand_as(total_BHT).float()
    found = {"attention_entropy": _mean(torch.special.entr(weights).sum(-1), asks_BHT)}
    if not crossing:
        far_TS = (place_T.unsqueeze(1) - torch.arange(keys, device=weights.device)).abs().float()
        found["attention_distance"] = _mean((weights * far_TS).sum(-1) / total_BHT.clamp_min(1e-30), asks_BHT)
    index = first_BT[:, None, :, None].expand(-1, weights.shape[1], -1, 1)
    at_first_BHT = weights.gather(-1, index).squeeze(-1)
    later_BHT = asks_BHT * (first_BT != place_T).unsqueeze(1) if not crossing else asks_BHT
    found["sink_mass"] = _mean(at_first_BHT + (1 - total_BHT), later_BHT)
    return found


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of the values that count; NaN where none does."""
    return torch.where(counts > 0, values, 0.0).double().sum() / counts.double().sum()


@contextmanager
def undisturbed(model: Model) -> Iterator[None]:
    """Inside, modules do as in evaluation; afterwards each is as before, tables too, and no generator has moved.

    Masks that attention keeps for later calls are forgotten: those made without gradients can have none.
    """
    before: list[tuple[Any, bool]] = [(module, module.training) for module in model.modules()]
    # A longer text makes a table grow, and its new parameter is none that the optimizer knows.
    tables = [(table, table.weight) for table in tables_that_grow(model).values()]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, training in before:
                module.training = training
            for table, weight in tables:
                table.weight = weight
            forget_plans()
            forget_batches()
            flex_masks.forget_keys()
