"""What detectors read is what is in the model, and reading leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch

from vitruvius.data import TokenShards
from vitruvius.nn import build
from vitruvius.nn.updates import after_step, gathered_by
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.config import batches_of
from vitruvius.training.determinism import random_state
from vitruvius.training.guarding.detectors import IN_THE_PASS, read_load, read_pass, read_tables
from vitruvius.training.objectives import make_objective
from vitruvius.training.settings.alarms import DETECTORS


@pytest.fixture
def prepared(data, one_thread):
    def make(architecture, **settings):
        config = ensure(TrainConfig(batch=4, threads=1, dtype="fp32", documents="joined", **settings), architecture)
        model = build(architecture, dtype="fp32", seed=1)
        model.train()
        after_step(model)
        return model, make_objective(config), batches_of(TokenShards.open(data), config).at(0)

    return make


def values(readings):
    return {reading.key: reading.value for reading in readings}


def read(model, objective, batch, **settings):
    options = {"rows": 1, "tokens": 512, "detectors": IN_THE_PASS, **settings}
    return read_pass(model, objective, batch, **options)


def test_the_largest_score_is_that_of_queries_and_keys(dense, prepared):
    # Queries and keys of one head at the same position, where rotations cancel: their product is a lower bound, and
    # with all keys alike and no rotation it is exact.
    model, objective, batch = prepared(dense)
    mixer = model.layers[0].mixer
    with torch.no_grad():
        mixer.k.weight.zero_()
    first = values(read(model, objective, batch))["attention_logit_max/layers.0.mixer"]
    assert first == 0.0
    model, objective, batch = prepared(dense)
    plain = values(read(model, objective, batch))["attention_logit_max/layers.0.mixer"]
    with torch.no_grad():
        model.layers[0].mixer.q.weight.mul_(3.0)
    (thrice,) = [r for r in read(model, objective, batch) if r.key == "attention_logit_max/layers.0.mixer"]
    assert thrice.value == pytest.approx(3 * plain, rel=1e-5)
    assert plain > 0


def test_the_head_with_the_largest_score_is_named(dense, prepared):
    model, objective, batch = prepared(dense)
    width = model.layers[1].mixer.head_width
    with torch.no_grad():
        model.layers[1].mixer.q.weight[width:].mul_(1000.0)
    (found,) = [r for r in read(model, objective, batch) if r.key == "attention_logit_max/layers.1.mixer"]
    assert found.place == "layers.1.mixer head 1"


def test_outputs_and_stream_are_those_of_the_model(dense, prepared):
    model, objective, batch = prepared(dense)
    found = values(read(model, objective, batch, rows=2))
    with torch.no_grad():
        model.eval()
        logits = model(torch.from_numpy(batch.inputs[:2]))
        model.train()
    lse = logits.logsumexp(-1)
    assert found["output_lse_max"] == pytest.approx(float(lse.abs().max()), rel=1e-5)
    assert found["output_lse_mean"] == pytest.approx(float(max(row.mean() for row in lse.abs())), rel=1e-4)
    assert {f"stream_rms/{place}" for place in ("embedding", "layers.0", "layers.1")} <= found.keys()


def test_rows_of_the_table_are_named_by_their_token(dense, prepared):
    model, _, _ = prepared(dense)
    with torch.no_grad():
        model.embedding.tokens.weight[17].mul_(100.0)
    largest, mean = read_tables(model, set(DETECTORS))
    norms = model.embedding.tokens.weight.detach().norm(dim=1)
    assert (largest.place, largest.value) == ("embedding token 17", pytest.approx(float(norms.max())))
    assert mean.value == pytest.approx(float(norms.mean()))


def test_the_load_is_that_of_the_whole_update_and_names_the_expert(mixture, prepared):
    model, objective, batch = prepared(mixture)
    (piece,) = objective.pieces(batch, 1, torch.device("cpu"))
    objective.train(model, piece).objective.backward()
    router = model.layers[1].ffn.router
    found = {reading.key: reading for reading in read_load(model, set(DETECTORS))}
    load = router.load_E.double()
    assert load.sum() == batch.inputs.size * 2
    busiest = found["expert_load_max/layers.1.ffn.router"]
    assert busiest.value == pytest.approx(float(load.max() / load.mean()))
    assert busiest.place == f"layers.1.ffn.router expert {int(load.argmax())}"
    assert found["dead_experts/layers.1.ffn.router"].value == int((load == 0).sum())


def test_routers_are_read_by_their_name(mixture, prepared):
    model, objective, batch = prepared(mixture)
    found = values(read(model, objective, batch))
    assert 0 < found["router_entropy/layers.1.ffn.router"] <= math.log(4) + 1e-6
    with torch.no_grad():
        model.layers[1].ffn.router.weight.mul_(10.0)
    grown = values(read(model, objective, batch))
    key = "router_logit_norm/layers.1.ffn.router"
    assert grown[key] == pytest.approx(10 * found[key], rel=1e-4)


def test_reading_leaves_no_trace(mixture, prepared):
    model, objective, batch = prepared(mixture)
    (piece,) = objective.pieces(batch, 1, torch.device("cpu"))
    objective.train(model, piece)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    random, load = random_state(), [known.clone() for _, known in gathered_by(model)]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    read(model, objective, batch)
    read_load(model, set(DETECTORS))
    read_tables(model, set(DETECTORS))
    assert random_state() == random
    assert all(torch.equal(one, other) for one, (_, other) in zip(load, gathered_by(model), strict=True))
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert model.training


def test_a_nan_is_read_as_one_and_named(dense, prepared):
    model, objective, batch = prepared(dense)
    with torch.no_grad():
        model.layers[1].mixer.q.weight[0, 0] = math.nan
    found = values(read(model, objective, batch))
    assert math.isnan(found["attention_logit_max/layers.1.mixer"])
    assert not math.isnan(found["attention_logit_max/layers.0.mixer"])
