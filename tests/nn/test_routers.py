"""Routers mean what their pages say: who is chosen, what they weigh, what losses and metrics are, what a bias does."""

from __future__ import annotations

import math

import pytest
import torch

from vitruvius.nn import Signals
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory, make_router
from vitruvius.nn.updates import after_step
from vitruvius.spec.ffn.mlp import SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.expert_choice import ExpertChoiceRouter
from vitruvius.spec.routers.hashed import HashRouter
from vitruvius.spec.routers.sigmoid import SigmoidRouter
from vitruvius.spec.routers.softmax import SoftmaxRouter

WIDTH = 16


def _router(spec, *, experts=6, top_k=2, dtype=torch.float64):
    moe = Moe(experts=experts, top_k=top_k, expert=SwiGLU(hidden=8), router=spec)
    router = make_router(moe, WIDTH, Factory(device=torch.device("cpu"), dtype=dtype))
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.5)
    return router


def _x(tokens=20, batch=1, seed=1):
    return torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _place(signals=None, **fields):
    return Place(positions=torch.arange(3), signals=signals, **fields)


# ----------------------------------------------------------------------------------------------------------------------
# Softmax


def test_renormalised_weights_are_a_softmax_over_the_chosen_and_sum_to_one():
    router = _router(SoftmaxRouter(), top_k=3)
    routing = router(_x(), _place())
    scores = _x()[0] @ router.weight.T
    assert torch.allclose(routing.weights_NK, scores.gather(1, routing.chosen_NK).softmax(dim=-1))
    plain = _router(SoftmaxRouter(renormalise=False), top_k=3)(_x(), _place())
    assert torch.allclose(plain.weights_NK, scores.softmax(dim=-1).gather(1, plain.chosen_NK))


def test_top_k_then_softmax_equals_renormalised_softmax_then_top_k_forward_and_backward():
    found = []
    for spec in (SoftmaxRouter(order="top-k-then-softmax"), SoftmaxRouter(order="softmax-then-top-k")):
        router, x, signals = _router(spec, top_k=3), _x().requires_grad_(), Signals()
        routing = router(x, _place(signals))
        total = (routing.weights_NK * torch.arange(1, 4)).sum() + signals.losses[0]
        found.append([routing.chosen_NK, routing.weights_NK, *torch.autograd.grad(total, [x, router.weight])])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_the_losses_are_their_coefficients_when_experts_are_used_and_trusted_evenly():
    router = _router(SoftmaxRouter(balance_loss=0.5, z_loss=0.25))
    with torch.no_grad():
        router.weight.zero_()
    even = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6], dim=1)
    signals = Signals(replay=iter([even]))
    router(_x(6), _place(signals))
    balance, z = signals.losses
    assert balance.item() == pytest.approx(0.5)
    assert z.item() == pytest.approx(0.25 * math.log(6) ** 2)


def test_scores_are_computed_in_fp32_even_in_a_bf16_model_and_under_autocast():
    router = _router(SoftmaxRouter(), dtype=torch.bfloat16)
    x = _x().to(torch.bfloat16)
    expected = x[0].float() @ router.weight.float().T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(x, _place())
    assert routing.weights_NK.dtype == torch.float32
    assert torch.allclose(routing.weights_NK, expected.gather(1, routing.chosen_NK).softmax(dim=-1), atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Sigmoid


def test_a_bias_decides_who_is_chosen_and_not_what_they_weigh():
    router = _router(SigmoidRouter(scale=2.5))
    with torch.no_grad():
        router.bias[4] = 10.0
    routing = router(_x(), _place())
    assert (routing.chosen_NK == 4).any(dim=1).all()
    scores = (_x()[0] @ router.weight.T).sigmoid().gather(1, routing.chosen_NK)
    assert torch.allclose(routing.weights_NK, 2.5 * scores / scores.sum(dim=1, keepdim=True))


def test_scores_that_are_not_renormalised_are_the_weights():
    router = _router(SigmoidRouter(renormalise=False, scale=3.0))
    routing = router(_x(), _place())
    scores = (_x()[0] @ router.weight.T).sigmoid()
    assert torch.allclose(routing.weights_NK, 3 * scores.gather(1, routing.chosen_NK))


@pytest.mark.parametrize(("groups", "top_groups"), [(4, 2), (2, 1), (8, 3), (4, 4)])
def test_a_token_chooses_within_the_groups_of_the_two_best_experts_alone(groups, top_groups):
    router = _router(SigmoidRouter(groups=groups, top_groups=top_groups), experts=8, top_k=2)
    with torch.no_grad():
        router.bias.copy_(torch.randn(8, generator=torch.Generator().manual_seed(5)) * 0.3)
    routing = router(_x(50), _place())
    ranks = (_x(50)[0] @ router.weight.T).sigmoid() + router.bias
    each = 8 // groups
    for token in range(50):
        by_group = [sorted(ranks[token, g * each : (g + 1) * each].tolist(), reverse=True)[:2] for g in range(groups)]
        best = sorted(range(groups), key=lambda g: -sum(by_group[g]))[:top_groups]
        allowed = [e for g in best for e in range(g * each, (g + 1) * each)]
        expected = sorted(allowed, key=lambda e: -ranks[token, e].item())[:2]
        assert routing.chosen_NK[token].tolist() == expected


def test_after_a_step_each_bias_moves_by_the_step_towards_an_even_load():
    router = _router(SigmoidRouter(bias_step=0.125), experts=4, top_k=1).train()
    after_step(router)
    assert (router.bias == 0).all()
    loads = [torch.tensor([[0]] * 5 + [[1]] * 2 + [[2]]), torch.tensor([[0]] * 2 + [[1]] + [[3]] * 2)]
    for chosen in loads:  # two pieces of one update: 7, 3, 1, 2 tokens, of which the mean is 3.25
        router(_x(len(chosen)), _place(Signals(replay=iter([chosen]))))
    after_step(router)
    assert router.bias.tolist() == [-0.125, 0.125, 0.125, 0.125]
    after_step(router)
    assert router.bias.tolist() == [-0.125, 0.125, 0.125, 0.125], "without tokens there is nothing to balance"


def test_validation_and_passes_without_gradients_do_not_move_the_bias():
    router = _router(SigmoidRouter(bias_step=0.125)).train()
    after_step(router)
    with torch.no_grad():
        router(_x(), _place(Signals()))
    router.eval()(_x(), _place(Signals()))
    after_step(router)
    assert (router.bias == 0).all()


def test_biases_even_out_the_load_of_a_lopsided_router():
    router = _router(SigmoidRouter(bias_step=0.02), experts=8, top_k=2).train()
    spreads = []
    after_step(router)
    for _ in range(60):
        signals = Signals()
        router(_x(400) + 0.5, _place(signals))
        spreads.append(signals.metrics["expert_load_max_over_mean"][0].item())
        after_step(router)
    assert spreads[0] > 1.7
    assert spreads[-1] < 1.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_bias_stays_in_fp32_whatever_the_model_is_converted_to(dtype):
    router = _router(SigmoidRouter(), dtype=torch.float32)
    with torch.no_grad():
        router.bias.fill_(1 + 2.0**-20)
    router.to(dtype)
    assert router.weight.dtype == dtype
    assert router.bias.dtype == torch.float32
    assert (router.bias == 1 + 2.0**-20).all()
    assert router.double().bias.dtype == torch.float64
    assert set(router.state_dict()) == {"weight", "bias"}


def test_no_gradient_reaches_the_bias_and_it_is_no_parameter():
    router = _router(SigmoidRouter())
    assert {name for name, _ in router.named_parameters()} == {"weight"}
    assert not router.bias.requires_grad


# ----------------------------------------------------------------------------------------------------------------------
# Hash


def _ids(*rows):
    return torch.tensor(rows)


def test_a_token_id_always_goes_to_the_same_different_experts():
    router = _router(HashRouter(), experts=16, top_k=4)
    tokens = torch.arange(500).view(2, 250)
    chosen = router(_x(250, 2), _place(tokens=tokens)).chosen_NK
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    again = router(_x(500), _place(tokens=order.view(1, 500))).chosen_NK
    assert torch.equal(again, chosen[order])


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (8, 2), (64, 6), (5, 5)])
def test_ids_spread_evenly_over_experts(experts, top_k):
    router = _router(HashRouter(), experts=experts, top_k=top_k)
    chosen = router(_x(32_000), _place(tokens=torch.arange(32_000).view(1, -1))).chosen_NK
    load = torch.bincount(chosen.flatten(), minlength=experts).double()
    mean = 32_000 * top_k / experts
    # Binomial: five standard deviations.
    assert (load - mean).abs().max() <= 5 * math.sqrt(mean * (1 - top_k / experts)) + 1e-9


def test_pairs_of_ids_that_share_an_expert_are_as_many_as_chance_makes():
    router = _router(HashRouter(), experts=32, top_k=1)
    first = router(_x(4096), _place(tokens=torch.arange(4096).view(1, -1))).chosen_NK[:, 0]
    shared = (first[1:] == first[:-1]).double().mean().item()
    assert shared == pytest.approx(1 / 32, abs=5 * math.sqrt(1 / 32 / 4096))


def test_another_salt_is_another_assignment():
    tokens = torch.arange(1000).view(1, -1)
    one, two = (_router(HashRouter(salt=s), experts=8, top_k=1)(_x(1000), _place(tokens=tokens)) for s in (0, 1))
    agree = (one.chosen_NK == two.chosen_NK).double().mean().item()
    assert agree == pytest.approx(1 / 8, abs=0.06)


def test_a_hash_router_has_no_parameters_and_equal_weights():
    router = _router(HashRouter(), top_k=3)
    routing = router(_x(5), _place(tokens=_ids([1, 2, 3, 4, 5])))
    assert not list(router.parameters())
    assert (routing.weights_NK == 1 / 3).all()


# ----------------------------------------------------------------------------------------------------------------------
# Expert choice


def _taken_one_by_one(probabilities_TE, top_k):
    """The formula, spelled out for one sequence."""
    length, experts = probabilities_TE.shape
    share = math.ceil(length * top_k / experts)
    taken = torch.zeros(length, experts, dtype=torch.bool)
    for e in range(experts):
        for t in sorted(range(length), key=lambda t: (-probabilities_TE[t, e].item(), t))[:share]:
            taken[t, e] = True
    return taken


@pytest.mark.parametrize("length", [1, 2, 5, 23])
@pytest.mark.parametrize(("experts", "top_k"), [(6, 2), (4, 4), (5, 1), (1, 1)])
def test_each_expert_takes_its_share_of_the_tokens_that_want_it_most(length, experts, top_k):
    router = _router(ExpertChoiceRouter(), experts=experts, top_k=top_k)
    x = _x(length, 3)
    routing = router(x, _place())
    expected = [_taken_one_by_one((row @ router.weight.T).softmax(dim=-1), top_k) for row in x]
    assert torch.equal(routing.kept_NK, torch.cat(expected))
    assert int(routing.kept_NK.sum()) == 3 * router_pairs(length, top_k, experts)


def router_pairs(length, top_k, experts):
    return ExpertChoiceRouter().pairs(length, top_k, experts)


def test_experts_choose_within_each_document_of_a_packed_row():
    router = _router(ExpertChoiceRouter())
    x = _x(20, 2)
    documents = torch.tensor([[0] * 7 + [1] * 13, [5] * 1 + [2] * 4 + [5] * 15])
    packed = router(x, _place(documents=documents)).kept_NK.view(2, 20, 6)
    for row, start, stop in ((0, 0, 7), (0, 7, 20), (1, 0, 1), (1, 1, 5), (1, 5, 20)):
        alone = router(x[row : row + 1, start:stop], _place()).kept_NK
        assert torch.equal(packed[row, start:stop], alone)


def test_of_equal_tokens_the_earlier_are_taken():
    router = _router(ExpertChoiceRouter(), experts=4, top_k=1)
    x = _x(1).expand(1, 8, WIDTH)
    taken = router(x, _place()).kept_NK
    assert taken.tolist() == [[True] * 4] * 2 + [[False] * 4] * 6


def test_tokens_that_no_expert_takes_are_counted():
    signals = Signals()
    _router(ExpertChoiceRouter(), experts=4, top_k=1)(_x(1).expand(1, 8, WIDTH), _place(signals))
    assert signals.metrics["unrouted_fraction"] == [pytest.approx(6 / 8)]


# ----------------------------------------------------------------------------------------------------------------------
# Losses and metrics over a whole update


@pytest.mark.parametrize("spec", [SoftmaxRouter(balance_loss=0.5), SigmoidRouter(balance_loss=0.5)])
def test_the_balance_loss_of_a_piece_reads_the_load_of_the_update_up_to_it(spec):
    router = _router(spec, experts=3, top_k=1).train()
    after_step(router)
    pieces = [torch.tensor([[0], [0], [1]]), torch.tensor([[2], [2], [2]])]
    found, means = [], []
    for seed, chosen in enumerate(pieces):
        signals, x = Signals(replay=iter([chosen])), _x(3, seed=seed)
        router(x, _place(signals))
        found.append(signals.losses[0].item())
        scores = x[0] @ router.weight.T
        shares = scores.softmax(1) if isinstance(spec, SoftmaxRouter) else scores.sigmoid()
        means.append((shares / shares.sum(1, keepdim=True)).mean(0))
    first, both = torch.tensor([2 / 3, 1 / 3, 0]).double(), torch.tensor([2 / 6, 1 / 6, 3 / 6]).double()
    assert found[0] == pytest.approx(0.5 * 3 * (first * means[0]).sum().item(), rel=1e-6)
    assert found[1] == pytest.approx(0.5 * 3 * (both * means[1]).sum().item(), rel=1e-6)
    after_step(router)
    signals = Signals(replay=iter([pieces[0]]))
    router(_x(3, seed=0), _place(signals))
    assert signals.losses[0].item() == pytest.approx(found[0], rel=1e-6), "a new update begins from nothing"


def test_without_a_loop_that_tells_of_updates_the_balance_loss_reads_each_pass_by_itself():
    router = _router(SoftmaxRouter()).train()
    losses = []
    for seed in (0, 1, 0):
        signals = Signals()
        router(_x(seed=seed), _place(signals))
        losses.append(signals.losses[0].item())
    assert losses[0] == losses[2] != losses[1]


def test_metrics_say_how_even_the_load_is_and_how_sure_the_router():
    router = _router(SoftmaxRouter(), experts=4, top_k=1)
    chosen = torch.tensor([[0], [0], [0], [1], [1], [2]])
    signals = Signals(replay=iter([chosen]))
    router(_x(6), _place(signals))
    scores = _x(6)[0] @ router.weight.T
    found = {name: values[0].item() for name, values in signals.metrics.items()}
    loads = torch.tensor([3.0, 2, 1, 0])
    assert found["expert_load_max_over_mean"] == pytest.approx(3 / 1.5)
    assert found["expert_load_cv"] == pytest.approx((loads.std(correction=0) / 1.5).item())
    assert found["dead_experts"] == 1
    assert found["router_entropy"] == pytest.approx(
        torch.distributions.Categorical(logits=scores).entropy().mean().item()
    )
    assert found["router_logit_norm"] == pytest.approx(scores.norm(dim=1).mean().item())
