"""A dense model and the mixture made of it are one function; what cannot be is refused with every reason."""

from __future__ import annotations

import pytest
import torch

from vitruvius.errors import SpecError
from vitruvius.nn import build
from vitruvius.spec import read_text
from vitruvius.transforms import upcycle

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = """
name: NAME
vocab_size: 61
width: 16
context: 32
blocks:
  layer:
    mixer: {kind: attention, heads: 2, position: rope}
    ffn: FFN
  other:
    mixer: {kind: attention, heads: 2, position: rope}
    ffn: {kind: geglu, hidden: 24}
layers: LAYERS
"""
SWIGLU = "{kind: swiglu, hidden: 24}"
MLP = "{kind: mlp, hidden: 24, bias: true, activation: relu2}"


def spec(ffn, *, layers="layer other layer", name="dense"):
    return read_text(SPEC.replace("FFN", ffn).replace("LAYERS", layers).replace("NAME", name)).architecture


def mixture(expert=SWIGLU, more="router: softmax", experts=4, top_k=2, **fields):
    ffn = f"{{kind: moe, experts: {experts}, top_k: {top_k}, expert: {expert}, {more}}}"
    return spec(ffn, **{"name": "mixture", **fields})


def trained(architecture, dtype="fp64"):
    """A model with weights and biases away from where they start."""
    model = build(architecture, dtype=dtype, seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1)
    return model


TOKENS = torch.arange(60).view(3, 20)

SAME = {
    "softmax": "router: softmax",
    "top-k then softmax": "router: {kind: softmax, order: top-k-then-softmax}",
    "sigmoid with a scale": "router: {kind: sigmoid, scale: 2.5, groups: 2, top_groups: 1}",
    "hash": "router: hash",
    "shared expert": "shared_expert: {kind: swiglu, hidden: 8}",
    "gated shared expert": "shared_expert: {kind: mlp, hidden: 8, bias: true}, shared_gate: sigmoid",
    "capacity": "capacity: 1.0",
}


@pytest.mark.parametrize("expert", [SWIGLU, MLP], ids=["swiglu", "mlp"])
@pytest.mark.parametrize("name", SAME)
def test_the_mixture_computes_what_the_dense_model_computes(name, expert):
    dense = trained(spec(expert))
    new = upcycle(dense, mixture(expert, SAME[name]), seed=5)
    with torch.no_grad():
        assert (new(TOKENS) - dense(TOKENS)).abs().max() <= 1e-9
    assert new.architecture.name == "mixture"
    assert dense.architecture.name == "dense"


@pytest.mark.parametrize("layers", ["layer*3", "layer^3", "(layer other)^2"])
def test_weights_that_layers_share_are_still_shared(layers):
    dense = trained(spec(SWIGLU, layers=layers))
    new = upcycle(dense, mixture(layers=layers))
    assert (new.layers[2] is new.layers[0]) == (dense.layers[2] is dense.layers[0])
    with torch.no_grad():
        assert (new(TOKENS) - dense(TOKENS)).abs().max() <= 1e-9


def test_some_layers_may_stay_dense():
    dense = trained(spec(SWIGLU, layers="layer*4"))
    text = SPEC.replace("LAYERS", "(layer moe)*2").replace("FFN", SWIGLU).replace("NAME", "every-other")
    moe = "  moe: {extends: layer, ffn: {kind: moe, experts: 3, top_k: 1, expert: " + SWIGLU + "}}\n"
    target = read_text(text.replace("layers:", moe + "layers:")).architecture
    new = upcycle(dense, target)
    with torch.no_grad():
        assert (new(TOKENS) - dense(TOKENS)).abs().max() <= 1e-9


def test_a_grown_table_of_positions_is_copied_whole():
    def learned(ffn):
        text = SPEC.replace("FFN", ffn).replace("LAYERS", "layer").replace(", position: rope", "")
        text += "embedding: {position: {kind: learned, start: 8, size: 32}}\n"
        return read_text(text.replace("NAME", "learned")).architecture

    dense = trained(learned(SWIGLU))
    with torch.no_grad():
        dense(TOKENS)
    new = upcycle(dense, learned("{kind: moe, experts: 3, top_k: 1, expert: " + SWIGLU + "}"))
    with torch.no_grad():
        assert (new(TOKENS) - dense(TOKENS)).abs().max() <= 1e-9


def test_experts_drift_apart_in_training_and_every_new_tensor_but_zeroed_outputs_has_a_gradient():
    dense = trained(spec(SWIGLU))
    new = upcycle(dense, mixture(more="router: {kind: softmax}, shared_expert: {kind: swiglu, hidden: 8}")).train()
    gate = new.layers[0].ffn.experts.gate_weight
    assert torch.equal(gate[0], gate[1])
    new.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    assert not torch.equal(gate.grad[0], gate.grad[1])
    assert (new.layers[0].ffn.shared_expert.down.weight.grad != 0).any()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_format_and_the_mode_of_the_dense_model_are_kept(dtype):
    dense = trained(spec(SWIGLU), dtype=dtype).train()
    new = upcycle(dense, mixture())
    assert new.dtype == dense.dtype
    assert new.training
    assert torch.equal(new.layers[0].ffn.experts.up_weight[2], dense.layers[0].ffn.up.weight)


def test_another_seed_draws_another_router_and_nothing_else():
    dense = trained(spec(SWIGLU))
    one, two = (dict(upcycle(dense, mixture(), seed=seed).named_parameters()) for seed in (0, 1))
    assert {name for name in one if not torch.equal(one[name], two[name])} == {
        "layers.0.ffn.router.weight",
        "layers.2.ffn.router.weight",
    }


REFUSED = {
    "another expert": (mixture("{kind: swiglu, hidden: 16}"), "blocks.layer.ffn.expert", "copy of"),
    "weights of no fixed sum": (
        mixture(more="router: {kind: softmax, renormalise: false}"),
        "blocks.layer.ffn.router",
        "do not add up",
    ),
    "fewer layers": (mixture(layers="layer other"), "layers", "there are 2 layers"),
    "no mixture": (spec(SWIGLU, name="mixture"), "blocks", "no mixture of experts"),
    "another dense network": (spec(MLP, name="mixture"), "blocks.layer.ffn", "ffn swiglu in the dense model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_start_where_the_dense_model_is_is_refused(name):
    target, path, what = REFUSED[name]
    with pytest.raises(SpecError) as caught:
        upcycle(trained(spec(SWIGLU)), target)
    (finding,) = [f for f in caught.value.findings if f.path == path]
    assert what in finding.what
    assert finding.fix


def test_every_reason_is_given_at_once():
    text = SPEC.replace("FFN", "{kind: moe, experts: 2, top_k: 1, expert: {kind: mlp, hidden: 8}}")
    text = (
        text.replace("LAYERS", "layer other layer")
        .replace("NAME", "far-off")
        .replace("vocab_size: 61", "vocab_size: 62")
    )
    text = text.replace(
        "heads: 2, position: rope}\n    ffn: {kind: moe", "heads: 4, position: rope}\n    ffn: {kind: moe"
    )
    with pytest.raises(SpecError) as caught:
        upcycle(trained(spec(SWIGLU)), read_text(text).architecture)
    paths = {finding.path for finding in caught.value.findings}
    assert paths == {"vocab_size", "blocks.layer.mixer", "blocks.layer.ffn.expert"}


def test_a_mixture_cannot_be_upcycled_again():
    new = upcycle(trained(spec(SWIGLU)), mixture())
    with pytest.raises(SpecError, match="in the dense model"):
        upcycle(new, mixture(experts=8))
