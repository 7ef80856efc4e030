"""Every setting of an optimizer does what it says to the very weights that it names."""

from __future__ import annotations

import math

import pytest
import torch

from vitruvius.nn import build
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.optim import OPTIMIZERS, groups_of, make_optimizer

MODEL = preset(
    "tiny-llama-moe",
    overrides=["width=32", "vocab_size=64", "blocks.moe.ffn.shared_expert={kind: mlp, hidden: 16, bias: true}"],
)


def trained(steps=1, gradient=None, architecture=MODEL, **settings):
    """Weights before and after some updates with the same gradients; the optimizer besides."""
    config = TrainConfig(dtype="fp32", **settings)
    model = build(architecture, dtype="fp32", seed=0)
    optimizer = make_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    draw = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(p.shape, generator=draw) for name, p in model.named_parameters()}
    for _ in range(steps):
        for name, parameter in model.named_parameters():
            parameter.grad = drawn[name].clone() if gradient is None else torch.full_like(parameter, gradient)
        optimizer.step(lr=config.lr, clip=config.clip)
        optimizer.zero_grad()
    return before, {name: p.detach() for name, p in model.named_parameters()}, drawn, optimizer


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


DIMENSIONS = {name: p.dim() for name, p in build(MODEL, dtype="fp32").named_parameters()}
TABLES = {"embedding.tokens.weight"}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("decay", ["matrices", "matrices-not-embeddings", "everything", "nothing"])
def test_decay_chooses_the_weights_that_shrink_and_by_how_much(decay, optimizer):
    if "8bit" in optimizer:
        pytest.importorskip("bitsandbytes")
    expected = {
        "matrices": {name for name, dims in DIMENSIONS.items() if dims > 1},
        "matrices-not-embeddings": {name for name, dims in DIMENSIONS.items() if dims > 1} - TABLES,
        "everything": set(DIMENSIONS),
        "nothing": set(),
    }[decay]
    before, after, _, _ = trained(gradient=0.0, decay=decay, weight_decay=0.5, lr=0.1, optimizer=optimizer)
    # Biases begin at 0, which no decay changes.
    assert moved(before, after) == {name for name in expected if before[name].any()}
    for name in expected:
        torch.testing.assert_close(after[name], before[name] * (1 - 0.1 * 0.5), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "overrides", "vectors"),
    [
        ("tiny-llama-moe", ["blocks.moe.ffn.expert={kind: mlp, hidden: 16, bias: true}"], ("up_bias", "down_bias")),
        ("mamba", ["layers=layer"], ("A_log",)),
    ],
)
def test_a_gain_or_bias_of_two_dimensions_does_not_decay_as_a_matrix(name, overrides, vectors):
    model = build(preset(name, overrides=["width=32", "vocab_size=64", *overrides]), dtype="fp32")
    decays = {n: group.weight_decay > 0 for group in groups_of(model, TrainConfig()) for n in group.parameters}
    found = {n: p.dim() for n, p in model.named_parameters() if n.endswith(vectors)}
    assert found and set(found.values()) == {2}
    assert not any(decays[n] for n in found) and any(decays.values())
    everything = groups_of(model, TrainConfig(decay="everything"))
    assert all(group.weight_decay > 0 for group in everything if found.keys() & group.parameters.keys())


def test_no_weight_decay_leaves_a_weight_without_gradient_alone():
    before, after, _, _ = trained(gradient=0.0, weight_decay=0.0, lr=0.1, decay="everything")
    assert moved(before, after) == set()


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.95), 1e-8), ((0.5, 0.9), 1e-8), ((0.0, 0.0), 1e-1)])
def test_betas_and_eps_are_those_of_adam(betas, eps):
    before, after, drawn, _ = trained(3, betas=betas, eps=eps, lr=0.01, weight_decay=0.0, clip=None)
    for name, gradient in drawn.items():
        # Equal gradients: both corrected moments are g and g^2 at every step, whatever the betas.
        step = 0.01 * gradient / (gradient.abs() + eps)
        torch.testing.assert_close(after[name], before[name] - 3 * step, rtol=2e-4, atol=2e-6)


def test_betas_are_remembered_from_step_to_step():
    """One gradient, then none: the second update is what beta1 and beta2 have left of the first."""
    weight_of = {}
    for betas in ((0.9, 0.95), (0.5, 0.99)):
        model = build(MODEL, dtype="fp32", seed=0)
        optimizer = make_optimizer(model, TrainConfig(dtype="fp32", betas=betas, weight_decay=0.0))
        name, parameter = next(iter(model.named_parameters()))
        steps = []
        for gradient in (1.0, 0.0):
            before = parameter.detach().clone()
            parameter.grad = torch.full_like(parameter, gradient)
            optimizer.step(lr=0.01)
            steps.append((before - parameter.detach()).mean().item())
        one, two = betas
        second = 0.01 * (one * (1 - one) / (1 - one**2)) / math.sqrt(two * (1 - two) / (1 - two**2))
        assert steps == pytest.approx([0.01, second], rel=1e-3)
        weight_of[betas] = steps[1]
    assert len({round(each, 6) for each in weight_of.values()}) == 2, name


@pytest.mark.parametrize("clip", [None, 0.1, 1e9])
def test_clip_is_the_norm_that_reaches_the_moments(clip):
    _, _, drawn, optimizer = trained(clip=clip, betas=(0.0, 0.0))
    kept = optimizer.tensors()
    norm = math.sqrt(sum(kept[f"exp_avg.{name}"].double().square().sum() for name in drawn))
    whole = math.sqrt(sum(g.double().square().sum() for g in drawn.values()))
    assert norm == pytest.approx(0.1 if clip == 0.1 else whole, rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("muon_momentum", 0.5),
        ("muon_momentum_kind", "heavy-ball"),
        ("muon_iterations", 1),
        ("muon_scale", "original"),
        ("muon_dtype", "fp32"),
        ("muon_lr", 0.05),
    ],
)
def test_each_setting_of_muon_moves_its_matrices_and_nothing_else(setting, value):
    drawn = {"lr": 0.01, "clip": None, "optimizer": "muon"}
    # Gradients that differ from step to step: with one gradient all along no momentum shows.
    found = []
    for settings in (drawn, {**drawn, setting: value}):
        model = build(MODEL, dtype="fp32", seed=0)
        optimizer = make_optimizer(model, TrainConfig(dtype="fp32", **settings))
        draw = torch.Generator().manual_seed(2)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw)
            optimizer.step(lr=0.01)
        found.append({name: p.detach() for name, p in model.named_parameters()})
        of_muon = {n for group in optimizer.groups for n in group.parameters if "Muon" in type(group.rule).__name__}
    assert moved(*found) == of_muon


def test_groups_hold_every_trainable_weight_once_and_frozen_ones_never():
    model = build(MODEL, dtype="bf16")
    frozen = "embedding.tokens.weight"
    dict(model.named_parameters())[frozen].requires_grad_(requires_grad=False)
    for optimizer in OPTIMIZERS:
        names = [name for group in groups_of(model, TrainConfig(optimizer=optimizer)) for name in group.parameters]
        assert sorted(names) == sorted(set(DIMENSIONS) - {frozen})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "cosine", "warmup": 2, "min_lr": 0.5}, lambda p: 0.5 + 0.5 * (1 + math.cos(math.pi * p)) / 2),
        ({"schedule": "wsd", "warmup": 2, "wsd_decay": 0.5, "min_lr": 0.0}, lambda p: 1 - math.sqrt(max(0, 2 * p - 1))),
        ({"schedule": "linear", "warmup": 2, "min_lr": 0.0}, lambda p: 1 - p),
    ],
)
def test_the_rate_of_the_schedule_is_the_one_that_moves_the_weights(settings, expected, dense, run_of):
    """The row says a rate; with equal signs in every gradient Adam's first step is as long as the rate."""
    lr, steps = 1e-2, 8
    run = run_of(dense, steps=steps, lr=lr, eval_every=0, final_eval_batches=1, **settings).run
    rates = [row["lr"] for row in RunReader(run).metrics()]
    rising = [lr * (step + 1) / 2 for step in range(2)]
    falling = [lr * expected((step - 2) / (steps - 3)) for step in range(2, steps)]
    assert rates == pytest.approx(rising + falling, rel=1e-9)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_step_is_as_long_as_its_rate_and_a_rate_of_nearly_zero_moves_nothing(optimizer):
    if "8bit" in optimizer:
        pytest.importorskip("bitsandbytes")
    lengths = []
    for lr in (1e-3, 2e-3, 1e-30):
        before, after, _, _ = trained(lr=lr, weight_decay=0.0, optimizer=optimizer)
        lengths.append(sum((after[name] - before[name]).abs().sum().item() for name in before))
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=1e-3)
    assert lengths[2] < 1e-9
