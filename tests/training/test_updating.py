"""Numbers of an update in pieces are those of the update, and not of its pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vitruvius.data import TokenShards
from vitruvius.nn import build
from vitruvius.training.config import TrainConfig, batches_of, resolved
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Gathered, Updater


def gathered(architecture, data, accumulate):
    config = TrainConfig(
        steps=10, batch=8, accumulate=accumulate, packing="one-document", z_loss=1e-2, dtype="fp32", device="cpu"
    )
    config = replace(resolved(config, architecture), context=32)
    model = build(architecture, dtype="fp32", seed=3)
    updater = Updater(
        config=config,
        model=model,
        optimizer=make_optimizer(model, config),
        objective=make_objective(config),
        device=torch.device("cpu"),
    )
    batch = batches_of(TokenShards.open(data), config).at(0)
    with torch.no_grad():  # so that tokens differ in their log-sum-exp
        model.embedding.tokens.weight.mul_(torch.linspace(1, 40, len(model.embedding.tokens.weight))[:, None])
    # The last sample asks for a single token: pieces of very different size.
    batch.targets[4:, 1:] = -100
    found = updater.gradients(batch, StopRequest())
    assert isinstance(found, Gathered)
    return found


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_pieces_of_unequal_size_give_the_loss_norm_and_z_loss_of_the_whole(dense, data, accumulate):
    whole, pieces = gathered(dense, data, 1), gathered(dense, data, accumulate)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    for name in ("z_loss", "lse_mean", "lse_max"):
        assert pieces.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-5), name
    assert pieces.objective == pytest.approx(pieces.loss + pieces.metrics["z_loss"], rel=1e-5)
