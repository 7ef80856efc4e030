"""Muon: against torch's own, against the singular value decomposition, and through the master weights."""

import math

import pytest
import torch
from torch import nn

from vitruvius.nn import build
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.master import AdamWRule, MasterOptimizer, ParameterGroup
from vitruvius.training.muon import SCALES, MuonRule, orthogonal
from vitruvius.training.optim import groups_of, make_optimizer
from vitruvius.training.plan import plan
from vitruvius.training.request import read_request


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def optimiser(weight, *, lr=0.02, weight_decay=0.0, **options):
    rule = MuonRule(**options)
    return MasterOptimizer(
        [ParameterGroup(name="m", parameters={"w": weight}, weight_decay=weight_decay, rule=rule)], lr=lr
    )


def angle(a, b):
    return nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 16), (40, 8), (8, 40), (3, 24, 16)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape, dtype):
    matrices = drawn(*shape, scale=1e-6)
    found = orthogonal(matrices, dtype=dtype)
    assert found.shape == matrices.shape
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() < values.max() < 1.35
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    assert angle(found, u @ vh) > 0.97


def test_each_matrix_of_a_stack_is_made_orthogonal_by_itself():
    stack = drawn(4, 12, 20) * torch.tensor([1.0, 1e3, 1e-3, 1.0]).view(4, 1, 1)
    apart = torch.stack([orthogonal(matrix, dtype=torch.float32) for matrix in stack])
    torch.testing.assert_close(orthogonal(stack, dtype=torch.float32), apart, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_zeros_moves_nothing():
    assert orthogonal(torch.zeros(2, 5, 7)).abs().max() == 0
    weight = nn.Parameter(drawn(6, 4))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    optimiser(weight).step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("kind", ["nesterov", "heavy-ball"])
@pytest.mark.parametrize("scale", ["match-rms-adamw", "original"])
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_steps_are_those_of_torch_muon(shape, scale, kind):
    mine, theirs = nn.Parameter(drawn(*shape)), nn.Parameter(drawn(*shape))
    opt = optimiser(mine, weight_decay=0.1, scale=scale, kind=kind)
    reference = torch.optim.Muon(
        [theirs],
        lr=0.02,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=kind == "nesterov",
        adjust_lr_fn=scale.replace("-", "_") if scale != "original" else scale,
    )
    start = mine.detach().clone()
    for step in range(6):
        mine.grad = drawn(*shape, seed=step)
        theirs.grad = mine.grad.clone()
        opt.step()
        reference.step()
    moved, expected = mine.detach() - start, theirs.detach() - start
    # torch normalises in bf16, we in fp32: the iterations start a rounding apart.
    assert angle(moved, expected) > 0.9995
    assert moved.norm() / expected.norm() == pytest.approx(1, abs=0.01)


def test_matched_updates_are_as_large_as_those_of_adamw():
    for rows, columns in ((64, 64), (256, 64), (64, 256)):
        update = orthogonal(drawn(rows, columns)) * SCALES["match-rms-adamw"](rows, columns)
        assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)


def test_original_updates_stretch_a_vector_by_the_root_of_rows_over_columns():
    update = orthogonal(drawn(256, 64)) * SCALES["original"](256, 64)
    assert torch.linalg.svdvals(update).mean().item() == pytest.approx(2.0, rel=0.2)
    assert SCALES["original"](64, 256) == 1.0


def test_small_updates_reach_bf16_weights_through_the_master():
    weight = nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
    opt = optimiser(weight, lr=1e-4, scale="original")
    gradient = torch.linalg.qr(drawn(8, 8)).Q
    for _ in range(40):
        weight.grad = gradient.to(torch.bfloat16)
        opt.step()
    moved = opt.tensors()["master.w"] - 1
    assert angle(moved, -gradient) > 0.99
    assert torch.equal(weight, opt.tensors()["master.w"].to(torch.bfloat16))
    assert set(opt.tensors()) == {"step", "master.w", "momentum.w"}


def test_clipping_scales_what_the_momentum_averages():
    weight = nn.Parameter(drawn(4, 4))
    opt = optimiser(weight)
    weight.grad = drawn(4, 4, seed=1) * 100
    norm = opt.step(clip=1.0)
    assert opt.tensors()["momentum.w"].norm().item() == pytest.approx(0.05, rel=1e-4)
    assert norm == pytest.approx(weight.grad.norm().item(), rel=1e-5)


def test_a_step_that_is_not_finite_changes_nothing():
    weight = nn.Parameter(drawn(4, 4))
    opt, before = optimiser(weight), weight.detach().clone()
    weight.grad = torch.full_like(weight, math.inf)
    assert not math.isfinite(opt.step())
    assert torch.equal(weight, before)
    assert opt.tensors()["momentum.w"].abs().max() == 0


# ----------------------------------------------------------------------------------------------------------------------
# Which weights

MODEL = preset(
    "tiny-llama-moe",
    overrides=["width=32", "vocab_size=64", "blocks.moe.ffn.shared_expert={kind: mlp, hidden: 16, bias: true}"],
)


def rules(architecture, **settings):
    model = build(architecture)
    return {name: group.rule for group in groups_of(model, TrainConfig(**settings)) for name in group.parameters}


def test_muon_takes_the_matrices_inside_layers_and_adamw_all_the_rest():
    found = rules(MODEL, optimizer="muon")
    by_muon = {name for name, rule in found.items() if isinstance(rule, MuonRule)}
    expected = {
        name
        for name, parameter in build(MODEL).named_parameters()
        if name.startswith("layers.") and parameter.dim() > 1 and "router" not in name
    }
    assert by_muon == expected
    assert any("experts" in name for name in by_muon)
    assert all(isinstance(rule, AdamWRule) for name, rule in found.items() if name not in expected)
    assert {"embedding.tokens.weight", "final_norm.weight", "layers.1.ffn.router.weight"} <= found.keys() - by_muon


def test_a_tied_head_and_an_untied_one_follow_adamw():
    for tied in ("true", "false"):
        found = rules(preset("tiny-llama", overrides=[f"head.tied={tied}"]), optimizer="muon")
        outside = {name for name in found if not name.startswith("layers.")}
        assert all(isinstance(found[name], AdamWRule) for name in outside)
        assert ("head.weight" in outside) == (tied == "false")


def test_muon_has_a_learning_rate_of_its_own_on_the_same_schedule():
    model = build(MODEL)
    opt = make_optimizer(model, TrainConfig(optimizer="muon", lr=1e-3, muon_lr=0.02, muon_scale="original"))
    factors = {isinstance(group.rule, MuonRule): group.lr_factor for group in opt.groups}
    assert factors == {True: pytest.approx(20.0), False: 1.0}


def test_the_plan_counts_one_moment_where_muon_keeps_one(data, tmp_path):
    """What is planned is what weights, gradients and optimizer take, byte for byte."""
    overrides = ["width=32", "vocab_size=512", "train.optimizer=muon", "layers=dense moe"]
    request = read_request("tiny-llama-moe", data=str(data), out=str(tmp_path / "run"), settings=overrides)
    model = build(request.reading.architecture, dtype="bf16")
    kept = sum(t.nbytes for name, t in make_optimizer(model, request.config).tensors().items() if name != "step")
    weights_and_gradients = 2 * sum(parameter.nbytes for parameter in model.parameters())
    assert plan(request).weights_and_optimizer_bytes == weights_and_gradients + kept


# ----------------------------------------------------------------------------------------------------------------------
# With a parametrisation


def factors(architecture, **settings):
    model = build(architecture)
    return {
        name: (group.lr_factor, group.weight_decay, group.rule)
        for group in groups_of(model, TrainConfig(weight_decay=0.1, **settings))
        for name in group.parameters
    }


COMPLETE = ["init={kind: completep, base_width: 32, base_depth: 2}"]
"""tiny-llama is four times as wide and twice as deep."""


def test_adamw_groups_follow_the_init():
    found = factors(preset("tiny-llama", overrides=COMPLETE), eps=1e-8)
    assert found["layers.0.mixer.q.weight"] == (0.25, pytest.approx(0.4), AdamWRule(eps=1e-8 / 8))
    assert found["layers.0.mixer_norm.weight"] == (1.0, 0.0, AdamWRule(eps=1e-8 / 8))
    assert found["embedding.tokens.weight"] == (1.0, 0.1, AdamWRule(eps=1e-8 / 4))


@pytest.mark.parametrize(("scale", "factor"), [("match-rms-adamw", 0.5), ("original", 1.0)])
def test_muon_needs_the_root_of_adams_factor_or_none(scale, factor):
    found = factors(preset("tiny-llama", overrides=COMPLETE), optimizer="muon", muon_scale=scale)
    lr_factor, decay, rule = found["layers.0.mixer.q.weight"]
    assert isinstance(rule, MuonRule)
    assert lr_factor == pytest.approx(factor)
    assert lr_factor * decay == pytest.approx(0.1)
    assert found["embedding.tokens.weight"][0] == 1.0


def test_without_a_parametrisation_there_are_two_groups():
    groups = groups_of(build(preset("tiny-llama")), TrainConfig())
    assert [(group.name, group.lr_factor, group.weight_decay) for group in groups] == [
        ("decayed", 1.0, 0.1),
        ("undecayed", 1.0, 0.0),
    ]
