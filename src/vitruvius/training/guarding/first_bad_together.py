"""Where the first number that is none came from, where no process has the whole model: all look, and tell each other.

Each computes its share of the batch again, in the pieces it was computed in, as passes that all enter together. What is
found is what one process finds that has everything: the earliest module of the earliest piece in any process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.updates import gathered_by, put_back
from vitruvius.training.determinism import random_state, restore_random_state
from vitruvius.training.guarding.first_bad import bad_outputs, is_finite

if TYPE_CHECKING:
    from vitruvius.data import Batch
    from vitruvius.training.loop import Trainer
    from vitruvius.training.objectives import Piece


def first_bad_together(trainer: Trainer, batch: Batch) -> dict[str, Any]:
    """As `first_bad`, the same in every process; all of them call this, with no gradients at hand."""
    model = trainer.model
    named = list(model.named_parameters())
    bad = [index for index, each in enumerate(named) if not is_finite(trainer.engine.part_of(*each))]
    everyones = [index for indices in trainer.engine.gather(bad[:1]) for index in indices]
    if everyones:
        return {"where": "weights", "name": named[min(everyones)][0], "samples": []}
    random_before, gathered_before = random_state(), gathered_by(model)
    try:
        found = _first_of(trainer, batch)
        if found is None:
            return {"where": "nowhere", "name": None, "samples": []}
        return found | {"samples": _bad_samples(trainer, batch)}
    finally:
        trainer.optimizer.zero_grad()
        restore_random_state(random_before)
        put_back(gathered_before)


def _first_of(trainer: Trainer, batch: Batch) -> dict[str, Any] | None:
    engine, pieces = trainer.engine, trainer.config.accumulate
    mine = trainer.objective.pieces(engine.share(batch, pieces), pieces, trainer.device)
    totals = engine.total([piece.scored for piece in mine])
    known = [piece for piece, total in zip(mine, totals, strict=True) if total]
    for look in (_first_output, _last_gradient):
        for piece in known:
            found = look(trainer, piece)
            if found is not None:
                return found
    return None


@torch.no_grad()
def _first_output(trainer: Trainer, piece: Piece) -> dict[str, Any] | None:
    bad, result = bad_outputs(trainer.model, trainer.objective, piece)
    told = trainer.engine.gather([bad, is_finite(result.objective)])
    modules = [each for each, _ in told if each is not None]
    if modules:
        return {"where": "output", "name": min(modules)[1]}
    return None if all(finite for _, finite in told) else {"where": "loss", "name": None}


def _last_gradient(trainer: Trainer, piece: Piece) -> dict[str, Any] | None:
    """The parameter nearest to the loss whose gradient is not finite in any process."""
    engine, optimizer = trainer.engine, trainer.optimizer
    result = trainer.objective.train(trainer.model, piece)
    engine.backward(result.objective, last=True)
    engine.reduce(optimizer)
    gradients = optimizer.gradients()
    names = [name for name, _ in trainer.model.named_parameters()]
    bad = [i for i, name in enumerate(names) if name in gradients and not is_finite(gradients[name])]
    optimizer.zero_grad()
    everyones = [index for indices in engine.gather(bad[-1:]) for index in indices]
    return {"where": "gradient", "name": names[max(everyones)]} if everyones else None


@torch.no_grad()
def _bad_samples(trainer: Trainer, batch: Batch) -> list[int]:
    """Which samples of a batch give a loss that is not finite by themselves; each process computes its share."""
    engine, accumulate = trainer.engine, trainer.config.accumulate
    share, places = engine.share(batch, accumulate), engine.places(len(batch.sample_ids), accumulate)
    bad: set[int] = set()
    for row, piece in enumerate(trainer.objective.pieces(share, len(share.inputs), trainer.device)):
        # All compute each row, whether it counts here or not.
        finite = is_finite(trainer.objective.score(trainer.model, piece))
        if piece.scored and not finite:
            bad.add(int(batch.sample_ids[places[row // batch.rows_per_sample]]))
    return sorted({sample for samples in engine.gather(sorted(bad)) for sample in samples})
