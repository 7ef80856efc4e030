"""The mixture of experts: grouped, padded and looped products agree; routing means what the spec says."""

from __future__ import annotations

import pytest
import torch

from vitruvius.nn import Signals, build
from vitruvius.nn.ffn.moe import MoeModule, grouped, looped
from vitruvius.nn.place import Place
from vitruvius.nn.registry import Factory
from vitruvius.spec import Scope
from vitruvius.spec.ffn.mlp import GeGLU, Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.softmax import SoftmaxRouter

SCOPE = Scope(width=16, vocab_size=10, context=10, depth=1)
EXPERTS = [SwiGLU(hidden=24), GeGLU(hidden=24), Mlp(hidden=24, activation="relu2", bias=True)]


def _module(dtype: torch.dtype, **fields) -> MoeModule:
    spec = Moe(**{"experts": 6, "top_k": 2, "expert": SwiGLU(hidden=24), **fields})
    module = MoeModule(spec, SCOPE, Factory(device=torch.device("cpu"), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def _place(backend="auto", **signals) -> Place:
    return Place(positions=torch.arange(4), backend=backend, signals=Signals(**signals))


def _x(rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, rows, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("expert", EXPERTS, ids=lambda e: e.kind)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.15)])
def test_grouped_products_equal_the_loop_forward_and_backward(expert, dtype, bound) -> None:
    module = _module(dtype, expert=expert, shared_expert=Mlp(hidden=8))
    results = []
    for backend in ("auto", "reference"):
        module.zero_grad()
        x = _x(77, dtype).requires_grad_()
        out = module(x, _place(backend))
        out.float().square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max().clamp_min(1)


@pytest.mark.parametrize("multiply", [grouped, looped])
def test_experts_without_tokens_are_passed_over(multiply) -> None:
    x, weight = torch.randn(5, 16), torch.randn(4, 8, 16)
    out = multiply(torch.tensor([0, 3, 0, 2]))(x, weight, None)
    assert torch.allclose(out, torch.cat([x[:3] @ weight[1].T, x[3:] @ weight[3].T]), atol=1e-5)


def test_each_token_is_the_weighted_sum_of_its_experts_whatever_its_neighbours() -> None:
    module = _module(torch.float64)
    x = _x(9, torch.float64)
    together = module(x, _place())
    alone = torch.cat([module(x[:, i : i + 1], _place()) for i in range(9)], dim=1)
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


def test_renormalised_weights_are_a_softmax_over_the_chosen_and_sum_to_one() -> None:
    module = _module(torch.float64, top_k=3)
    weights, chosen = module.router(_x(20, torch.float64)[0], None)
    scores = _x(20, torch.float64)[0] @ module.router.weight.T
    assert torch.allclose(weights, scores.gather(1, chosen).softmax(dim=-1))
    plain = _module(torch.float64, top_k=3, router=SoftmaxRouter(renormalise=False))
    weights, chosen = plain.router(_x(20, torch.float64)[0], None)
    assert torch.allclose(weights, scores.softmax(dim=-1).gather(1, chosen))


def test_the_balance_loss_is_its_coefficient_when_experts_are_used_and_trusted_evenly() -> None:
    module = _module(torch.float64, router=SoftmaxRouter(balance_loss=0.5, z_loss=0.25))
    with torch.no_grad():
        module.router.weight.zero_()
    even = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6], dim=1)
    signals = Signals(replay=iter([even]))
    module(_x(6, torch.float64), Place(positions=torch.arange(6), signals=signals))
    balance, z = signals.losses
    assert balance.item() == pytest.approx(0.5)
    assert z.item() == pytest.approx(0.25 * torch.tensor(6.0).log().item() ** 2)


def test_routing_can_be_recorded_and_replayed() -> None:
    from vitruvius.spec import preset

    model = build(preset("tiny-mixtral", overrides=["width=32", "vocab_size=50"]), dtype="fp64")
    tokens = torch.randint(0, 50, (1, 20))
    recorded = Signals(routing=[])
    first = model(tokens, signals=recorded)
    assert recorded.routing is not None
    assert [r.shape for r in recorded.routing] == [(20, 2)] * 2
    replayed = model(tokens, signals=Signals(replay=iter(recorded.routing)))
    assert torch.equal(first, replayed)
