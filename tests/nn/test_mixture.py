"""The mixture of experts: its paths agree, capacity drops what it says, shared experts and gates add what they say."""

from __future__ import annotations

import math

import pytest
import torch

from vitruvius.nn import Signals, build
from vitruvius.nn.ffn.moe import MoeModule
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory
from vitruvius.spec import Scope
from vitruvius.spec.ffn.mlp import GeGLU, Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.expert_choice import ExpertChoiceRouter
from vitruvius.spec.routers.hashed import HashRouter
from vitruvius.spec.routers.sigmoid import SigmoidRouter
from vitruvius.spec.routers.softmax import SoftmaxRouter

SCOPE = Scope(width=16, vocab_size=50, context=10, depth=1)
EXPERTS = [SwiGLU(hidden=24), GeGLU(hidden=24), Mlp(hidden=24, activation="relu2", bias=True), SwiGLU(hidden=5)]
ROUTERS = [SoftmaxRouter(), SigmoidRouter(scale=2.5), HashRouter(), ExpertChoiceRouter()]


def _module(dtype: torch.dtype, **fields) -> MoeModule:
    spec = Moe(**{"experts": 6, "top_k": 2, "expert": SwiGLU(hidden=24), **fields})
    module = MoeModule(spec, SCOPE, Factory(device=torch.device("cpu"), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def _place(x, backend="auto", **signals) -> Place:
    tokens = torch.arange(x.shape[0] * x.shape[1]).view(x.shape[:2]) % 50
    return Place(positions=torch.arange(x.shape[1]), tokens=tokens, backend=backend, signals=Signals(**signals))


def _x(rows: int, dtype: torch.dtype, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, rows, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("router", ROUTERS, ids=lambda r: r.kind)
@pytest.mark.parametrize("expert", EXPERTS, ids=lambda e: f"{e.kind}-{e.hidden}")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_the_fast_path_equals_the_loop_forward_and_backward(expert, dtype, bound, router) -> None:
    module = _module(dtype, expert=expert, router=router, shared_expert=Mlp(hidden=8), shared_gate="sigmoid")
    results = []
    for backend in ("auto", "reference"):
        module.zero_grad()
        x = _x(77, dtype).requires_grad_()
        out = module(x, _place(x, backend))
        out.float().square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max().clamp_min(1)


@pytest.mark.parametrize("router", ROUTERS[:3], ids=lambda r: r.kind)
def test_each_token_is_the_weighted_sum_of_its_experts_whatever_its_neighbours(router) -> None:
    module = _module(torch.float64, router=router)
    x = _x(9, torch.float64)
    together = module(x, _place(x))
    tokens = _place(x).tokens
    alone = [module(x[:, i : i + 1], Place(positions=torch.arange(1), tokens=tokens[:, i : i + 1])) for i in range(9)]
    assert torch.allclose(together, torch.cat(alone, dim=1), rtol=0, atol=1e-12)


def test_the_shared_expert_adds_its_output_and_its_gate_scales_it() -> None:
    x = _x(9, torch.float64)
    plain = _module(torch.float64)
    for gate in ("none", "sigmoid"):
        shared = _module(torch.float64, shared_expert=SwiGLU(hidden=8), shared_gate=gate)
        shared.load_state_dict(plain.state_dict(), strict=False)
        added = shared(x, _place(x)) - plain(x, _place(x))
        assert shared.shared_expert is not None
        expected = shared.shared_expert(x)
        if gate == "sigmoid":
            expected = expected * (x @ shared.shared_gate.weight.T).sigmoid()
        assert torch.allclose(added, expected, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------
# Capacity


def _crowded(**fields) -> MoeModule:
    """Every token wants expert 0 most."""
    module = _module(torch.float64, router=SoftmaxRouter(renormalise=False, balance_loss=0.0), **fields)
    with torch.no_grad():
        module.router.weight.zero_()
        module.router.weight[0] = 1.0
    return module


def test_an_expert_over_capacity_serves_earlier_tokens_and_drops_later_ones() -> None:
    module = _crowded(top_k=1, capacity=1.5)
    x = _x(12, torch.float64).abs()
    free = module.eval()(x, _place(x))
    capped = module.train()(x, _place(x))
    most = math.ceil(1.5 * 12 / 6)
    assert torch.allclose(capped[:, :most], free[:, :most], rtol=0, atol=1e-14)
    assert (capped[:, most:] == 0).all()
    assert (free[:, most:] != 0).all()


def test_dropped_pairs_are_counted_and_only_while_training() -> None:
    module = _crowded(top_k=1, capacity=1.5)
    x = _x(12, torch.float64).abs()
    place = _place(x)
    module.train()(x, place)
    assert place.signals.metrics["dropped_fraction"] == [pytest.approx(1 - 3 / 12)]
    place = _place(x)
    module.eval()(x, place)
    assert "dropped_fraction" not in place.signals.metrics


def test_no_token_is_dropped_for_the_sake_of_a_later_one() -> None:
    module = _module(torch.float64, top_k=3, capacity=1.0).train()
    x = _x(24, torch.float64)
    before = module(x, _place(x))
    y = x.clone()
    y[:, 15:] = _x(9, torch.float64).flip(1) * 3
    # The same number of tokens, so the same capacity: what stands later changes nothing earlier.
    assert torch.allclose(module(y, _place(y))[:, :15], before[:, :15], rtol=0, atol=1e-12)


def test_enough_capacity_drops_nothing() -> None:
    x = _x(40, torch.float64)
    module, capped = _module(torch.float64), _module(torch.float64, capacity=6.0)
    place = _place(x)
    assert torch.allclose(capped.train()(x, place), module(x, _place(x)), rtol=0, atol=1e-12)
    assert place.signals.metrics["dropped_fraction"] == [0]


def test_gradients_pass_through_what_is_kept_alone() -> None:
    module = _crowded(top_k=1, capacity=1.5).train()
    x = _x(12, torch.float64).abs().requires_grad_()
    module(x, _place(x)).sum().backward()
    assert (x.grad[:, 3:] == 0).all()
    assert (x.grad[:, :3] != 0).any()
    assert (module.experts.gate_weight.grad[1:] == 0).all()


# ----------------------------------------------------------------------------------------------------------------------
# In a model


@pytest.mark.parametrize("name", ["tiny-mixtral", "tiny-qwen3-moe"])
def test_routing_can_be_recorded_and_replayed(name) -> None:
    from vitruvius.spec import preset

    model = build(preset(name, overrides=["width=32", "vocab_size=50"]), dtype="fp64")
    tokens = torch.randint(0, 50, (1, 20))
    recorded = Signals(routing=[])
    first = model(tokens, signals=recorded)
    assert recorded.routing is not None
    assert {r.shape[0] for r in recorded.routing} == {20}
    replayed = model(tokens, signals=Signals(replay=iter(recorded.routing)))
    assert torch.equal(first, replayed)
