"""AdamW over fp32 masters: against torch's own, clipping, accumulation, and an exact resume."""

import math

import pytest
import torch
from torch import nn

from vitruvius.errors import RunError, UsageError
from vitruvius.training.master import MasterAdamW, parameter_groups


def model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 5)).to(dtype)


def batches(count, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, 11, (8,), generator=gen), torch.randint(0, 5, (8,), generator=gen)) for _ in range(count)]


def backward(net, batch, scale=1.0):
    tokens, targets = batch
    (nn.functional.cross_entropy(net(tokens).float(), targets) * scale).backward()


def optimiser(net, **options):
    return MasterAdamW(parameter_groups(net.named_parameters(), weight_decay=0.1), lr=0.01, **options)


def weights(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_fp32_updates_equal_torch_adamw_with_clipping():
    mine, theirs = model(), model()
    opt = optimiser(mine, betas=(0.9, 0.95), eps=1e-8)
    split = [[p for p in theirs.parameters() if p.dim() > 1], [p for p in theirs.parameters() if p.dim() < 2]]
    reference = torch.optim.AdamW(
        [{"params": split[0], "weight_decay": 0.1}, {"params": split[1], "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.95),
    )
    for batch in batches(10):
        backward(mine, batch)
        backward(theirs, batch)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        reference.step()
        assert opt.step(clip=0.3) == pytest.approx(float(norm), rel=1e-5)
        opt.zero_grad()
        reference.zero_grad()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_parameter_longer_than_a_chunk_is_updated_whole(monkeypatch):
    whole, parts = model(), model()
    one = optimiser(whole)
    backward(whole, batches(1)[0])
    one.step()
    monkeypatch.setattr("vitruvius.training.master.CHUNK", 7)
    two = optimiser(parts)
    backward(parts, batches(1)[0])
    two.step()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_small_updates_reach_bf16_weights_through_the_master():
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    opt = MasterAdamW(parameter_groups([("w", weight)], weight_decay=0.0), lr=1e-4)
    for _ in range(60):
        weight.grad = torch.ones_like(weight)
        opt.step()
    assert opt.tensors()["master.w"].mean().item() == pytest.approx(1 - 60e-4, rel=1e-4)
    assert weight.mean().item() == pytest.approx(1 - 60e-4, abs=4e-3)
    assert weight.mean().item() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_run_continues_bit_for_bit(dtype):
    straight = model(dtype)
    opt = optimiser(straight)
    all_batches = batches(8)
    for index, batch in enumerate(all_batches):
        if index == 4:
            saved = {name: t.clone() for name, t in opt.tensors().items()}
            saved_weights = weights(straight)
        backward(straight, batch)
        opt.step(lr=0.01 / (index + 1), clip=1.0)
        opt.zero_grad()
    resumed = model(dtype, seed=7)
    second = optimiser(resumed)
    if dtype == torch.float32:
        with torch.no_grad():
            for name, p in resumed.named_parameters():
                p.copy_(saved_weights[name])
    second.load_tensors(saved)
    assert same(weights(resumed), saved_weights)
    for index, batch in enumerate(all_batches[4:], 4):
        backward(resumed, batch)
        second.step(lr=0.01 / (index + 1), clip=1.0)
        second.zero_grad()
    assert same(weights(resumed), weights(straight))
    assert same(opt.tensors(), second.tensors())


def test_a_step_that_is_not_finite_changes_nothing():
    net = model(torch.bfloat16)
    opt = optimiser(net)
    backward(net, batches(1)[0])
    next(net.parameters()).grad[0, 0] = math.inf
    before, state = weights(net), {name: t.clone() for name, t in opt.tensors().items()}
    assert not math.isfinite(opt.step(clip=1.0))
    assert same(weights(net), before)
    assert same(opt.tensors(), state)


def test_accumulated_micro_batches_equal_their_sum_in_fp32():
    net, reference = model(), model()
    opt, other = optimiser(net), optimiser(reference)
    parts = batches(4)
    for batch in parts:
        backward(net, batch, scale=0.25)
        opt.accumulate()
        backward(reference, batch, scale=0.25)
    assert opt.step() == pytest.approx(other.step(), rel=1e-5)
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_bf16_gradients_too_small_to_add_up_in_bf16_are_accumulated_in_fp32():
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    opt = MasterAdamW(parameter_groups([("w", weight)], weight_decay=0.0), lr=1e-3)
    for value in [1.0] + [2.0**-9] * 256:
        weight.grad = torch.full_like(weight, value)
        opt.accumulate()
    assert opt.grad_norm() == pytest.approx(2 * 1.5, rel=1e-6)


@pytest.mark.parametrize(
    ("rule", "decayed"),
    [
        ("matrices", {"0.weight", "1.weight", "3.weight"}),
        ("matrices-not-embeddings", {"1.weight", "3.weight"}),
        ("everything", {name for name, _ in model().named_parameters()}),
        ("nothing", set()),
    ],
)
def test_decay_rules_choose_by_dimensions_and_by_name(rule, decayed):
    named = dict(model().named_parameters())
    groups = parameter_groups(named.items(), weight_decay=0.1, decay=rule, embeddings=frozenset({"0.weight"}))
    assert {name for g in groups if g.weight_decay for name in g.parameters} == decayed
    assert {name for g in groups for name in g.parameters} == set(named)


def test_wrong_state_is_refused_before_anything_changes():
    net = model(torch.bfloat16)
    opt = optimiser(net)
    state = {name: t.clone() + 1 for name, t in opt.tensors().items()}
    before = weights(net)
    state["exp_avg.1.weight"] = torch.zeros(2, 2)
    del state["master.3.bias"]
    with pytest.raises(RunError, match=r"exp_avg\.1\.weight.*master\.3\.bias is missing"):
        opt.load_tensors(state)
    assert same(weights(net), before)
    assert opt.steps == 0


def test_an_unknown_rule_and_a_twice_named_parameter_are_refused():
    net = model()
    with pytest.raises(UsageError, match="decay rule"):
        parameter_groups(net.named_parameters(), weight_decay=0.1, decay="all")
    groups = parameter_groups(net.named_parameters(), weight_decay=0.1)
    with pytest.raises(UsageError, match="two groups"):
        MasterAdamW((groups[0], groups[0]), lr=0.1)
    with pytest.raises(UsageError, match="no fp32 master"):
        optimiser(model(torch.float64))
