"""What a mixture of experts says of itself: findings with a way out, tensors, buffers, costs, a small twin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.errors import SpecError
from vitruvius.spec import Scope, read_text, resolve, shrink
from vitruvius.spec.ffn.mlp import Mlp, SwiGLU
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.routers.expert_choice import ExpertChoiceRouter
from vitruvius.spec.routers.hashed import HashRouter
from vitruvius.spec.routers.sigmoid import SigmoidRouter
from vitruvius.spec.routers.softmax import SoftmaxRouter

SCOPE = Scope(width=32, vocab_size=50, context=64, depth=2)
MOE = Moe(experts=8, top_k=2, expert=SwiGLU(hidden=16))
SPEC = """
name: mixture
vocab_size: 61
width: 32
context: 32
blocks:
  layer:
    mixer: {kind: attention, heads: 2}
    ffn: {kind: moe, experts: 8, top_k: 2, expert: {kind: swiglu, hidden: 16}, MORE}
layers: layer*2
"""


def _findings(**fields):
    return list(replace(MOE, **fields).findings(SCOPE))


ERRORS = {
    "more chosen than there are": ({"top_k": 9}, "top_k", "there are 8", "at most 8"),
    "groups that do not divide": ({"router": SigmoidRouter(groups=3)}, "router.groups", "3 groups", "1, 2, 4, 8"),
    "more open groups than groups": (
        {"router": SigmoidRouter(groups=4, top_groups=5)},
        "router.top_groups",
        "there are 4",
        "at most 4",
    ),
    "open groups that hold too few": (
        {"router": SigmoidRouter(groups=4, top_groups=1), "top_k": 3},
        "router.top_groups",
        "hold 2 experts",
        "top_groups 2",
    ),
    "expert choice in a causal model": (
        {"router": ExpertChoiceRouter()},
        "router",
        "depends on later ones",
        "use a softmax or sigmoid router",
    ),
    "a gate without a shared expert": ({"shared_gate": "sigmoid"}, "shared_gate", "no shared expert", "leave"),
    "a mixture of mixtures": ({"expert": MOE}, "expert", "cannot be a mixture itself", "swiglu"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_found_with_its_place_and_a_way_out(name):
    fields, path, what, fix = ERRORS[name]
    (finding,) = [finding for finding in _findings(**fields) if finding.severity == "error"]
    assert finding.path == path
    assert what in finding.what
    assert fix in finding.fix


WARNINGS = {
    "capacity below an even share": ({"capacity": 0.5}, "capacity", "however even"),
    "a softmax over the chosen that is not renormalised": (
        {"router": SoftmaxRouter(order="top-k-then-softmax", renormalise=False)},
        "router.renormalise",
        "sums to one already",
    ),
    "one expert of weight one": ({"top_k": 1, "router": SigmoidRouter()}, "router.renormalise", "never learns"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_worth_knowing_is_a_warning(name):
    fields, path, what = WARNINGS[name]
    (finding,) = _findings(**fields)
    assert (finding.severity, finding.path) == ("warning", path)
    assert what in finding.what


def test_expert_choice_is_welcome_where_later_tokens_may_be_seen_and_takes_no_capacity():
    both_ways = replace(SCOPE, causal=False)
    assert not list(replace(MOE, router=ExpertChoiceRouter()).findings(both_ways))
    (finding,) = replace(MOE, router=ExpertChoiceRouter(), capacity=1.25).findings(both_ways)
    assert finding.path == "capacity"


BAD_FIELDS = {
    "capacity: 0": "capacity",
    "capacity: -1": "capacity",
    "router: {kind: hash, scale: 2}": "router",
    "router: {kind: softmax, order: random}": "router",
    "router: {kind: sigmoid, groups: 0}": "router",
    "router: {kind: sigmoid, scale: 0}": "router",
    "router: {kind: topk}": "router",
    "router: expert-choice": "router",
    "shared_gate: tanh": "shared_gate",
}


@pytest.mark.parametrize("text", BAD_FIELDS)
def test_a_field_that_cannot_be_is_refused_at_its_line_with_a_way_out(text):
    with pytest.raises(SpecError) as caught:
        read_text(SPEC.replace("MORE", text))
    for finding in caught.value.findings:
        assert finding.path.startswith(f"blocks.layer.ffn.{BAD_FIELDS[text]}")
        assert finding.line == 9
        assert finding.fix


ROUTERS = [SoftmaxRouter(), SigmoidRouter(groups=4, top_groups=2), HashRouter(), ExpertChoiceRouter()]


@pytest.mark.parametrize("router", ROUTERS, ids=lambda r: r.kind)
@pytest.mark.parametrize("shared", [None, Mlp(hidden=8)], ids=["alone", "shared"])
def test_flops_are_those_of_the_maps_that_run(router, shared):
    moe = replace(MOE, router=router, shared_expert=shared, shared_gate="sigmoid" if shared else "none", experts=12)
    tokens, expert = 7, 2 * 3 * 32 * 16
    pairs = 12 * 2 if router.chooses == "tokens" else 7 * 2  # ceil(7 * 2 / 12) = 2 tokens for each expert
    routing = 0 if router.kind == "hash" else 2 * 12 * 32 * tokens
    beside = (2 * 2 * 32 * 8 + 2 * 32) * tokens if shared else 0
    assert moe.flops(SCOPE, tokens).useful == expert * pairs + routing + beside
    assert moe.flops(SCOPE, tokens).dense == moe.flops(SCOPE, tokens).useful


def test_the_balancing_bias_is_a_buffer_and_counted_apart():
    graph = resolve(read_text(SPEC.replace("MORE", "router: sigmoid")).architecture)
    assert {name: tensor.shape for name, tensor in graph.buffers().items()} == {
        "layers.0.ffn.router.bias": (8,),
        "layers.1.ffn.router.bias": (8,),
    }
    assert not graph.buffers().keys() & graph.tensors().keys()


@pytest.mark.parametrize(
    ("experts", "top_k", "groups", "top_groups"), [(256, 8, 8, 4), (64, 6, 1, None), (160, 6, 8, 3), (16, 16, 16, 16)]
)
def test_the_twin_of_a_grouped_mixture_still_fits_together(experts, top_k, groups, top_groups):
    text = SPEC.replace("experts: 8, top_k: 2", f"experts: {experts}, top_k: {top_k}").replace(
        "width: 32", "width: 512"
    )
    router = f"router: {{kind: sigmoid, groups: {groups}, top_groups: {'null' if top_groups is None else top_groups}}}"
    twin = shrink(read_text(text.replace("MORE", router)).architecture)
    moe = twin.blocks["layer"].ffn
    assert not [f for f in moe.findings(SCOPE) if f.severity == "error"]
    assert moe.experts <= experts
    assert moe.router.groups == groups


def test_parameters_without_effect_are_named():
    def silent(**fields):
        return set(replace(MOE, **fields).silent(SCOPE, 24))

    assert silent() == set()
    assert silent(experts=1, top_k=1) == {"router.weight"}
    assert silent(top_k=1) == set()
    assert silent(top_k=1, router=SoftmaxRouter(balance_loss=0.0)) == {"router.weight"}
    assert silent(top_k=1, router=SoftmaxRouter(balance_loss=0.0, renormalise=False)) == set()
    assert silent(top_k=1, router=SigmoidRouter()) == {"router.weight"}
    assert silent(top_k=1, router=SigmoidRouter(renormalise=False)) == set()
    assert silent(experts=1, top_k=1, router=HashRouter()) == set()
