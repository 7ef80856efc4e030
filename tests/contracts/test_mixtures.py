"""Mixtures of experts, whatever their sizes: grouped products where torch has them, the loop elsewhere."""

from __future__ import annotations

import pytest
import torch

from vitruvius.checks import check
from vitruvius.checks.learning import forced_routing
from vitruvius.nn import Signals, build
from vitruvius.spec import read_text, resolve

SPEC = """
name: mixture
vocab_size: 61
width: 16
context: 32
blocks:
  layer:
    mixer: {kind: attention, heads: 2}
    ffn: {kind: moe, experts: EXPERTS, top_k: TOP, expert: {kind: EXPERT, hidden: HIDDEN}}
layers: layer*2
"""


def mixture(*, experts: int = 5, top_k: int = 2, expert: str = "swiglu", hidden: int = 16):
    text = SPEC.replace("EXPERTS", str(experts)).replace("TOP", str(top_k)).replace("HIDDEN", str(hidden))
    return read_text(text.replace("kind: EXPERT", f"kind: {expert}")).architecture


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("hidden", [1, 4, 5, 12, 16])
def test_experts_of_any_width_train_in_every_format(hidden, dtype):
    """Torch's grouped product wants rows of a multiple of 16 bytes; others take the loop."""
    model = build(mixture(hidden=hidden), dtype=dtype)
    tokens = torch.arange(20).view(2, 10)
    model.loss(tokens, tokens).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("expert", ["swiglu", "geglu", "mlp, bias: true"])
@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (2, 2), (7, 1), (7, 3), (40, 2)])
def test_grouped_products_equal_the_loop(experts, top_k, expert):
    report = check(mixture(experts=experts, top_k=top_k, expert=expert), only=["experts", "gradients", "flops"])
    assert report.passed, str(report)
    assert report["experts"].applies


def test_forced_routing_reaches_every_expert_unevenly():
    (first, second) = forced_routing(resolve(mixture(experts=40)), 96, torch.device("cpu"))
    for chosen in (first, second):
        load = torch.bincount(chosen.flatten(), minlength=40)
        assert load.min() > 0
        assert load.max() > load.min()
        assert all(len(set(row.tolist())) == 2 for row in chosen)


def test_replayed_routing_gives_the_same_logits():
    model = build(mixture(), dtype="fp64")
    tokens, heard = torch.arange(20).view(1, 20), []
    with torch.no_grad():
        free = model(tokens, signals=Signals(routing=heard))
        assert torch.equal(model(tokens, signals=Signals(replay=iter(heard))), free)
        moved = [(chosen + 1) % 5 for chosen in heard]
        assert not torch.equal(model(tokens, signals=Signals(replay=iter(moved))), free)


FRAME = """
name: mixture
vocab_size: 61
width: 16
context: 32
blocks:
  layer:
    mixer: {kind: attention, heads: 2, sees: SEES}
    ffn: {kind: moe, experts: 6, top_k: 2, expert: {kind: swiglu, hidden: 16}, MORE}
layers: layer*2
"""
WHOLE = {
    "top-k then softmax": ("router: {kind: softmax, order: top-k-then-softmax, z_loss: 1e-3}", ""),
    "groups and a bias": ("router: {kind: sigmoid, groups: 3, top_groups: 2, scale: 2.5, balance_loss: 1e-3}", ""),
    "hash": ("router: {kind: hash, salt: 3}", ""),
    "capacity and a gated shared expert": (
        "capacity: 1.0, shared_expert: {kind: mlp, hidden: 8, bias: true}, shared_gate: sigmoid",
        "",
    ),
    "experts that choose": ("router: expert-choice", "head: mlm"),
    "hash in multi-token prediction": ("router: hash", "mtp: {block: layer, depth: 2}"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_router_keeps_every_contract(name):
    more, rest = WHOLE[name]
    sees = "everything" if rest == "head: mlm" else "causal"
    report = check(read_text(FRAME.replace("MORE", more).replace("SEES", sees) + rest).architecture)
    assert report.passed, str(report)
    assert report["experts"].applies
