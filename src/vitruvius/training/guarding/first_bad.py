"""Where the first number that is none came from: a look at weights, then at every module in the order of computing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.updates import gathered_by, put_back
from vitruvius.training.determinism import random_state, restore_random_state

if TYPE_CHECKING:
    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.objectives import Objective, Piece, Result


def first_bad(
    model: Model, objective: Objective, batch: Batch, device: torch.device, *, pieces: int = 1
) -> dict[str, Any]:
    """Which weight or module first holds or gives an infinity or NaN on this batch.

    Returns `where` (`weights`, `output` of a module, `loss`, `gradient` of a parameter, or `nowhere` when the same
    batch is finite this time), and its `name`. Computes the batch once more, in `pieces` as the update was, and sample
    by sample to name the samples; weights, gradients and random state are as they were before.
    """
    for name, parameter in model.named_parameters():
        if not is_finite(parameter.detach()):
            return {"where": "weights", "name": name, "samples": []}
    random_before, gathered_before = random_state(), gathered_by(model)
    try:
        found = _first_of(pieces, model, objective, batch, device)
        if found is None:
            return {"where": "nowhere", "name": None, "samples": []}
        return found | {"samples": _bad_samples(model, objective, batch, device)}
    finally:
        restore_random_state(random_before)
        put_back(gathered_before)


def _first_of(
    pieces: int, model: Model, objective: Objective, batch: Batch, device: torch.device
) -> dict[str, Any] | None:
    """The first bad output of any piece; where there is none, the last bad gradient."""
    known = [piece for piece in objective.pieces(batch, pieces, device) if piece.scored]
    for look in (_first_output, _last_gradient):
        for piece in known:
            found = look(model, objective, piece)
            if found is not None:
                return found
    return None


@torch.no_grad()
def bad_outputs(model: Model, objective: Objective, piece: Piece) -> tuple[tuple[int, str] | None, Result]:
    """The first module whose output is not finite, with its number in the order of computing; and what the pass gave.

    None where every output is.
    """
    bad: list[tuple[int, str]] = []
    calls = 0

    def look(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            nonlocal calls
            del module, inputs
            calls += 1
            if not bad and any(not is_finite(tensor) for tensor in _tensors(output)):
                bad.append((calls, name))

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        result = objective.train(model, piece)
    finally:
        for hook in hooks:
            hook.remove()
    return (bad[0] if bad else None), result


def _first_output(model: Model, objective: Objective, piece: Piece) -> dict[str, Any] | None:
    bad, result = bad_outputs(model, objective, piece)
    if bad is not None:
        return {"where": "output", "name": bad[1]}
    if not is_finite(result.objective):
        return {"where": "loss", "name": None}
    return None


def _last_gradient(model: Model, objective: Objective, piece: Piece) -> dict[str, Any] | None:
    """The parameter nearest to the loss whose gradient is not finite."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    result = objective.train(model, piece)
    gradients = torch.autograd.grad(result.objective, [parameter for _, parameter in named], allow_unused=True)
    bad = [name for (name, _), grad in zip(named, gradients, strict=True) if grad is not None and not is_finite(grad)]
    return {"where": "gradient", "name": bad[-1]} if bad else None


@torch.no_grad()
def _bad_samples(model: Model, objective: Objective, batch: Batch, device: torch.device) -> list[int]:
    """Which samples of a batch give a loss that is not finite by themselves."""
    rows = [
        row
        for row, piece in enumerate(objective.pieces(batch, len(batch.inputs), device))
        if piece.scored and not is_finite(objective.score(model, piece))
    ]
    # A curriculum cuts a sample into several rows.
    return sorted({int(batch.sample_ids[row // batch.rows_per_sample]) for row in rows})


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number of a tensor is infinite or NaN."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
