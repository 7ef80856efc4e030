"""What routers do between updates is part of a run: gathered over pieces, saved, and the same after a resume."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from halves import StopAfter  # pyright: ignore[reportMissingImports]

from vitruvius.nn.weights import load_model, read_tensors
from vitruvius.runs import RunReader
from vitruvius.runs.checkpoints import MODEL_FILE
from vitruvius.spec.routers.sigmoid import SigmoidRouter
from vitruvius.training import resume

BIAS = "layers.1.ffn.router.bias"


def with_moe(architecture, **fields):
    blocks = dict(architecture.blocks)
    blocks["moe"] = replace(blocks["moe"], ffn=replace(blocks["moe"].ffn, **fields))
    return replace(architecture, blocks=blocks)


@pytest.fixture(scope="module")
def biased(mixture):
    """The mixture of the other tests, balanced by a bias, with little capacity."""
    return with_moe(mixture, router=SigmoidRouter(bias_step=0.01), capacity=1.25)


def weights(run):
    return read_tensors(RunReader(run).checkpoints()[-1].path / MODEL_FILE)


def manifest(run):
    return json.loads(RunReader(run).checkpoints()[-1].path.joinpath("manifest.json").read_text())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_bias_that_follows_the_load_resumes_bit_for_bit(biased, run_of, dtype, accumulate):
    settings = {"dtype": dtype, "accumulate": accumulate, "steps": 6}
    straight = run_of(biased, "straight", **settings)
    listener = StopAfter(3)
    halves = run_of(biased, "halves", listener=listener, stop=listener.stop, **settings)
    assert halves.status == "stopped"
    resume(halves.run)
    assert manifest(halves.run) == manifest(straight.run)
    bias = weights(straight.run)[BIAS]
    assert bias.dtype == torch.float32
    assert 0 < bias.abs().max() <= 0.06 + 1e-6, "at most a step an update"
    steps = bias / 0.01
    assert torch.allclose(steps, steps.round(), atol=1e-4)


def test_the_bias_follows_the_load_of_the_batch_and_not_of_its_last_piece(biased, run_of):
    whole = run_of(biased, "whole", accumulate=1, steps=1, dtype="fp32")
    pieces = run_of(biased, "pieces", accumulate=4, steps=1, dtype="fp32")
    assert torch.equal(weights(whole.run)[BIAS], weights(pieces.run)[BIAS])


def test_the_bias_is_loaded_with_the_model_in_full_precision_and_counts_for_nothing_in_its_format(biased, run_of):
    run = run_of(biased, "run", dtype="bf16").run
    model = load_model(run)
    assert model.dtype == torch.bfloat16, "the format of the weights, not of what is kept beside them"
    assert model.layers[1].ffn.router.bias.dtype == torch.float32
    assert torch.equal(model.layers[1].ffn.router.bias, weights(run)[BIAS])


def test_every_row_says_how_the_experts_are_used(biased, run_of):
    rows = RunReader(run_of(biased, "run").run).metrics()
    for row in rows:
        assert 0 <= row["dropped_fraction"] < 1
        assert row["expert_load_max_over_mean"] >= 1
        assert row["expert_load_cv"] >= 0
        assert 0 <= row["router_entropy"] <= torch.tensor(4.0).log().item() + 1e-6
        assert row["router_logit_norm"] > 0
        assert row["dead_experts"] >= 0
        assert row["router_bias_max"] >= 0
    assert rows[0]["router_bias_max"] == 0 < rows[-1]["router_bias_max"]


def test_without_capacity_no_row_speaks_of_drops(mixture, run_of):
    assert all("dropped_fraction" not in row for row in RunReader(run_of(mixture, "run").run).metrics())
