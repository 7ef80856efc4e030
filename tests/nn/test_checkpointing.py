"""A model that computes its layers again in the backward pass learns exactly what it would learn otherwise."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import sampled_from
from torch.utils import checkpoint as torch_checkpoint

from vitruvius.nn import Signals, build
from vitruvius.nn.updates import after_step
from vitruvius.spec import preset, preset_names, shrink

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
from specs import architectures  # pyright: ignore[reportMissingImports]


def one_step(architecture, checkpointing, *, dtype="fp64", passes=2, packed=False, replay=None, tokens=24):
    """Losses, auxiliary losses, metrics, routing and gradients of some passes over the same tokens."""
    torch.manual_seed(0)
    model = build(architecture, dtype=dtype)
    model.checkpointing = checkpointing
    model.train()
    after_step(model)
    ids = torch.randint(0, architecture.vocab_size, (2, min(tokens, architecture.context)))
    documents = (torch.arange(ids.shape[1]) // 9).expand(2, -1).contiguous() if packed else None
    source = ids.flip(1) if architecture.encoder is not None else None
    heard = []
    for _ in range(passes):
        signals = Signals(routing=[], replay=None if replay is None else iter(replay))
        loss = model.loss(ids, ids.roll(-1, 1), documents=documents, source=source, signals=signals)
        objective = sum(signals.losses, loss)
        objective.backward()
        metrics = {name: [float(value) for value in values] for name, values in signals.metrics.items()}
        heard.append((float(objective.detach()), len(signals.losses), metrics, signals.routing))
    after_step(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    grads = {name: p.grad for name, p in model.named_parameters()}
    return heard, grads, buffers


def agrees(architecture, *, policy="layers", **kwargs) -> None:
    plain, grads, buffers = one_step(architecture, "none", **kwargs)
    again, twice, moved = one_step(architecture, policy, **kwargs)
    for (loss, count, metrics, routing), (other, others, reported, taken) in zip(plain, again, strict=True):
        assert (loss, count, metrics) == (other, others, reported)
        assert len(routing) == len(taken)
        assert all(map(torch.equal, routing, taken))
    assert buffers.keys() == moved.keys()
    assert all(torch.equal(buffers[name], moved[name]) for name in buffers)
    for name, grad in grads.items():
        assert (grad is None) == (twice[name] is None), name
        if grad is not None:
            scale = float(grad.abs().max()) or 1.0
            assert float((grad - twice[name]).abs().max()) <= 1e-12 * scale, name


@pytest.mark.parametrize("name", preset_names())
def test_gradients_losses_metrics_and_loads_are_those_of_a_plain_step(name):
    agrees(shrink(preset(name)))


@pytest.mark.slow
@settings(max_examples=25)
@given(architectures(), sampled_from(("layers", "layers/2", "layers/3", "layers/4")))
def test_any_valid_spec_learns_the_same(architecture, policy):
    agrees(architecture, policy=policy, tokens=12)


@pytest.mark.parametrize("name", ["tiny-llama", "longcontext", "jamba-like", "deepseek-v3", "speedrun"])
def test_packed_documents_learn_the_same(name):
    agrees(shrink(preset(name)), packed=True)


def test_a_replayed_routing_is_taken_once():
    design = shrink(preset("tiny-mixtral"))
    heard, _, _ = one_step(design, "none", passes=1)
    replayed = [chosen.flip(0) for chosen in heard[0][3]]
    agrees(design, passes=1, replay=replayed)


@pytest.mark.parametrize("policy", ["layers", "layers/2", "layers/3"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_very_bits_are_the_same(dtype, policy):
    design = shrink(preset("tiny-llama-moe"))
    _, plain, _ = one_step(design, "none", dtype=dtype)
    _, again, _ = one_step(design, policy, dtype=dtype)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_a_pass_without_gradients_computes_nothing_twice(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed through a checkpoint")

    monkeypatch.setattr("vitruvius.nn.checkpointing.checkpoint", refuse)
    model = build(preset("tiny-llama"))
    model.checkpointing = "layers"
    with torch.no_grad():
        model(torch.zeros(1, 4, dtype=torch.int64))
        model(torch.zeros(1, 4, dtype=torch.int64), cache=model.cache(1, capacity=4))
    assert torch_checkpoint.checkpoint is not refuse


def test_layers_keep_only_the_stream_between_them():
    design = replace(preset("tiny-llama"), layers="layer*6")
    kept = {}
    for checkpointing in ("none", "layers/2", "layers"):
        model = build(design)
        model.checkpointing = checkpointing
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage()._cdata] = tensor
            return tensor

        ids = torch.zeros(2, 64, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.loss(ids, ids)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        kept[checkpointing] = sum(t.untyped_storage().nbytes() for at, t in sizes.items() if at not in weights)
    assert kept["layers"] < kept["none"] / 4
    assert kept["layers/2"] == pytest.approx((kept["layers"] + kept["none"]) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("policy", "twice"), [("none", ""), ("layers", "01234"), ("layers/2", "024"), ("layers/4", "04")]
)
def test_a_policy_names_layers_of_each_stack(policy, twice, monkeypatch):
    seen = []

    def listen(run, x_BTD, **kwargs):
        seen.append(run.place.layer.index)
        return run(x_BTD)

    monkeypatch.setattr("vitruvius.nn.checkpointing.checkpoint", listen)
    model = build(replace(preset("tiny-llama"), layers="layer*5"))
    model.checkpointing = policy
    ids = torch.zeros(1, 4, dtype=torch.int64)
    model.loss(ids, ids)
    assert seen == [int(index) for index in twice]
