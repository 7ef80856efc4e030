"""Where the first number that is none came from: a look at weights, then at every module in the order of computing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vitruvius.nn.updates import gathered_by, put_back
from vitruvius.training.determinism import random_state, restore_random_state

if TYPE_CHECKING:
    from vitruvius.data import Batch
    from vitruvius.nn import Model
    from vitruvius.training.objectives import Objective


def first_bad(model: Model, objective: Objective, batch: Batch, device: torch.device) -> dict[str, Any]:
    """Which weight or module first holds or gives an infinity or NaN on this batch.

    Returns `where` (`weights`, `output` of a module, `loss`, `gradient` of a parameter, or `nowhere` when the same
    batch is finite this time), and its `name`. Computes the batch once more, sample by sample where that is needed to
    name the samples; weights, gradients and random state are as they were before.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter.detach()):
            return {"where": "weights", "name": name, "samples": []}
    random_before, gathered_before = random_state(), gathered_by(model)
    try:
        found = _first_output(model, objective, batch, device) or _last_gradient(model, objective, batch, device)
        if found is None:
            return {"where": "nowhere", "name": None, "samples": []}
        return found | {"samples": _bad_samples(model, objective, batch, device)}
    finally:
        restore_random_state(random_before)
        put_back(gathered_before)


@torch.no_grad()
def _first_output(model: Model, objective: Objective, batch: Batch, device: torch.device) -> dict[str, Any] | None:
    bad: list[str] = []

    def look(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            if not bad and any(not _finite(tensor) for tensor in _tensors(output)):
                bad.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        (piece,) = objective.pieces(batch, 1, device)
        result = objective.train(model, piece)
    finally:
        for hook in hooks:
            hook.remove()
    if bad:
        return {"where": "output", "name": bad[0]}
    if not _finite(result.objective):
        return {"where": "loss", "name": None}
    return None


def _last_gradient(model: Model, objective: Objective, batch: Batch, device: torch.device) -> dict[str, Any] | None:
    """The parameter nearest to the loss whose gradient is not finite."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    (piece,) = objective.pieces(batch, 1, device)
    result = objective.train(model, piece)
    gradients = torch.autograd.grad(result.objective, [parameter for _, parameter in named], allow_unused=True)
    bad = [name for (name, _), grad in zip(named, gradients, strict=True) if grad is not None and not _finite(grad)]
    return {"where": "gradient", "name": bad[-1]} if bad else None


@torch.no_grad()
def _bad_samples(model: Model, objective: Objective, batch: Batch, device: torch.device) -> list[int]:
    """Which samples of a batch give a loss that is not finite by themselves."""
    (piece,) = objective.pieces(batch, 1, device)
    losses_BT = objective.score(model, piece)
    rows = (~torch.isfinite(losses_BT)).any(dim=-1).nonzero().squeeze(-1).tolist()
    # A curriculum cuts a sample into several rows.
    cut = len(losses_BT) // len(batch.sample_ids)
    return sorted({int(batch.sample_ids[row // cut]) for row in rows})


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
