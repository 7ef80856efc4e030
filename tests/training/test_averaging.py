"""The average of the weights: its formula over a whole run, its validation, and that nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file

from vitruvius.errors import RunError
from vitruvius.nn.weights import load_model
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.averaging import WeightAverage, warmed_up
from vitruvius.training.optim import make_optimizer
from vitruvius.training.settings import Guard
from vitruvius.training.stopping import StopRequest

EVERY = {"steps": 5, "checkpoint_every": 1, "keep": 9, "eval_every": 2, "eval_batches": 1, "final_eval_batches": 2}


def masters(checkpoint):
    """fp32 weights of a checkpoint, by the names of the model."""
    model = load_file(checkpoint / "model.safetensors")
    kept = load_file(checkpoint / "optimizer.safetensors")
    return {name: kept.get(f"master.{name}", tensor) for name, tensor in model.items()}


def test_the_decay_warms_up_to_the_one_that_is_asked_for():
    assert [warmed_up(0.999, n) for n in (0, 1, 8, 90)] == [0.1, 2 / 11, 0.5, 0.91]
    assert warmed_up(0.999, 10**9) == 0.999
    assert warmed_up(0.05, 0) == 0.05


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp16"])
@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_the_average_is_that_of_the_masters_of_every_update(kind, dtype, request, run_of):
    run = run_of(request.getfixturevalue(kind), ema=0.25, dtype=dtype, **EVERY).run
    checkpoints = [checkpoint.path for checkpoint in RunReader(run).checkpoints()]
    average = load_file(checkpoints[0] / "ema.safetensors")
    for number, checkpoint in enumerate(checkpoints[1:], 1):
        decay = min(0.25, (1 + number) / (10 + number))
        found, now = load_file(checkpoint / "ema.safetensors"), masters(checkpoint)
        assert found.keys() == now.keys() == load_file(checkpoint / "model.safetensors").keys()
        for name, mean in average.items():
            expected = decay * mean.double() + (1 - decay) * now[name].double()
            torch.testing.assert_close(found[name].double(), expected, rtol=1e-6, atol=1e-8)
            assert found[name].dtype == torch.float32
        average = found


def test_a_tenth_of_the_first_weights_is_left_after_the_first_update(dense, run_of):
    run = run_of(dense, ema=0.9999, dtype="fp32", **EVERY).run
    drawn = run_of(dense, "drawn", dtype="fp32", lr=1e-30, weight_decay=0.0, **{**EVERY, "steps": 1}).run
    first = RunReader(run).checkpoints()[0].path
    found, now, before = (
        load_file(first / "ema.safetensors"),
        masters(first),
        masters(RunReader(drawn).checkpoints()[0].path),
    )
    for name, mean in found.items():
        torch.testing.assert_close(mean, 0.1 * before[name] + 0.9 * now[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_its_validation_is_that_of_a_model_with_its_weights(dtype, dense, run_of, data):
    run = run_of(dense, ema=0.9, dtype=dtype, **EVERY).run
    found = rows(run)
    assert (
        ["val_loss_ema" in row for row in found] == ["val_loss" in row for row in found] == [False, True] * 2 + [True]
    )
    from vitruvius.data import TokenShards
    from vitruvius.training.checking import from_plain
    from vitruvius.training.evaluate import Validation
    from vitruvius.training.objectives import make_objective

    config = from_plain(RunReader(run).record()["config"]["train"])
    held_out = TokenShards.open(data, "validation")
    validation = Validation(held_out, config, make_objective(config), torch.device("cpu"))
    last = RunReader(run).checkpoints()[-1].path
    model = load_model(run, dtype=dtype)
    model.load_state_dict(load_file(last / "ema.safetensors"), strict=False)
    score = validation.score(model, 2, StopRequest())
    assert score is not None
    assert score.loss == pytest.approx(found[-1]["val_loss_ema"], rel=1e-9)
    assert found[-1]["val_loss_ema"] != found[-1]["val_loss"]


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp16"])
def test_keeping_and_validating_an_average_changes_no_bit_of_the_run(dtype, mixture, run_of):
    with_average = run_of(mixture, "with", ema=0.9, dtype=dtype, **EVERY).run
    without = run_of(mixture, "without", dtype=dtype, **EVERY).run
    for one, other in zip(RunReader(with_average).checkpoints(), RunReader(without).checkpoints(), strict=True):
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert one.path.joinpath(file).read_bytes() == other.path.joinpath(file).read_bytes()
    assert [{k: v for k, v in row.items() if k != "val_loss_ema"} for row in rows(with_average)] == rows(without)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_within_the_block_the_weights_are_the_average_and_after_an_error_they_are_back(dtype, dense):
    from vitruvius.nn import build

    model = build(dense, dtype=dtype, seed=0)
    optimizer, average = make_optimizer(model, TrainConfig(dtype=dtype)), WeightAverage(0.5)
    average.begin(model, optimizer)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(lr=0.1)
    average.applied(optimizer)
    moved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean = {name: tensor.clone() for name, tensor in average.tensors().items()}

    def fail():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, mean[name].to(tensor.dtype))
            assert not torch.equal(tensor, moved[name])
            assert not torch.equal(tensor, start[name])
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), average.in_place(optimizer):
        fail()
    assert all(torch.equal(tensor, moved[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, mean[name]) for name, tensor in average.tensors().items())


def test_an_update_that_is_not_applied_is_not_averaged(dense, run_of, monkeypatch):
    from vitruvius.nn import Model

    original, passes = Model.loss, {"n": 0}

    def loss(self, *args, **kwargs):
        passes["n"] += not kwargs.get("per_token")
        found = original(self, *args, **kwargs)
        return found * torch.nan if passes["n"] == 3 else found

    monkeypatch.setattr(Model, "loss", loss)
    run = run_of(dense, ema=0.5, guard=Guard(not_finite="skip"), **{**EVERY, "eval_every": 0}).run
    second, third = (RunReader(run).checkpoints()[index].path / "ema.safetensors" for index in (1, 2))
    assert second.read_bytes() == third.read_bytes()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_resumed_run_ends_with_the_same_average(dtype, mixture, run_of):
    settings = {"steps": 6, "ema": 0.9, "dtype": dtype, "eval_every": 2, "final_eval_batches": 1}
    straight, listener = run_of(mixture, "straight", **settings), StopAfter(3)
    halved = run_of(mixture, "halved", stop=listener.stop, listener=listener, **settings)
    assert resume(halved.run).status == "finished"
    assert final_manifest(halved.run) == final_manifest(straight.run)
    assert "ema.safetensors" in final_manifest(straight.run)
    assert rows(halved.run) == rows(straight.run)


def test_a_state_of_another_model_is_refused(dense, mixture):
    from vitruvius.nn import build

    def average_of(architecture):
        model, average = build(architecture, dtype="bf16"), WeightAverage(0.5)
        average.begin(model, make_optimizer(model, TrainConfig()))
        return average

    one, other = average_of(dense), average_of(mixture)
    with pytest.raises(ValueError, match=r"missing|not in this model"):
        one.load_tensors(other.tensors())
    wrong = {name: tensor.bfloat16() for name, tensor in one.tensors().items()}
    with pytest.raises(ValueError, match="bfloat16"):
        one.load_tensors(wrong)
    for state in ({}, {"updates": -1}, {"updates": 1.0}, {"updates": True}):
        with pytest.raises(ValueError, match="updates"):
            one.restore(state)


def test_generate_reads_the_last_weights_or_their_average(dense, run_of, monkeypatch):
    from click.testing import CliRunner

    from vitruvius.cli.generate import command

    run = run_of(dense, ema=0.9, lr=0.05, **EVERY).run
    folder = RunReader(run).checkpoints()[-1].path
    average = load_model(run, weights="ema")
    assert next(average.parameters()).dtype == torch.bfloat16
    for name, tensor in load_file(folder / "ema.safetensors").items():
        assert torch.equal(average.state_dict()[name], tensor.to(torch.bfloat16))
    asked = []
    monkeypatch.setattr(
        "vitruvius.nn.weights.load_model",
        lambda *given, **options: asked.append(options) or load_model(*given, **options),
    )
    for weights in ("last", "ema"):
        for dtype in ("fp32", "fp16"):
            arguments = [str(run), "--prompt", "The", "--max-tokens", "5", "--weights", weights, "--dtype", dtype]
            done = CliRunner().invoke(command, arguments)
            assert (done.exit_code, bool(done.stdout)) == (0, True), done.output
            assert asked.pop() == {"weights": weights, "dtype": dtype}


def test_a_run_without_an_average_says_so(dense, run_of):
    run = run_of(dense, steps=1, eval_every=0, final_eval_batches=1).run
    with pytest.raises(RunError, match="no average of the weights") as refused:
        load_model(run, weights="ema")
    assert "train.ema" in refused.value.fix
