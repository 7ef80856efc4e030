"""Norms, routers, experts and positions of other packages get what the contract promises, or a clear refusal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
import torch
from torch import nn

from vitruvius.checks import check
from vitruvius.errors import SpecError, UsageError
from vitruvius.nn import build, implements, registry
from vitruvius.nn.routers.base import Routing
from vitruvius.sizing import size
from vitruvius.spec import TensorSpec, node, read_text, register
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.node import FeedForward, Norm, Position, PositiveInt, Router, Scope
from vitruvius.spec.norms import RMSNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled(Norm):
    """x * gain, where the gain starts at a half."""

    kind: Literal["scaled"] = "scaled"

    def tensors_of_width(self, width):
        return {"scale": TensorSpec(shape=(width,), role="gain", start=0.5)}


class ScaledModule(nn.Module):
    def __init__(self, spec, width, factory):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width, **factory))

    def forward(self, x):
        return x * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Squashed(Router):
    """The experts of the largest sigmoid(map(x)), with a bias."""

    kind: Literal["squashed"] = "squashed"

    def tensors_for(self, experts, width):
        return {
            "map.weight": TensorSpec(shape=(experts, width), role="router"),
            "map.bias": TensorSpec(shape=(experts,), role="bias"),
        }


class SquashedModule(nn.Module):
    def __init__(self, spec, moe, width, factory):
        super().__init__()
        self.top_k = moe.top_k
        self.map = nn.Linear(width, moe.experts, **factory)

    def forward(self, x_BTD, place):
        scores, signals = self.map(x_BTD.flatten(0, 1)).sigmoid(), place.signals
        chosen = scores.topk(self.top_k, dim=-1).indices
        if signals is not None and signals.replay is not None:
            chosen = next(signals.replay)
        if signals is not None and signals.routing is not None:
            signals.routing.append(chosen)
        return Routing(chosen_NK=chosen, weights_NK=scores.gather(1, chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cubed(FeedForward):
    """down(x^3), a formula that stacked experts do not know."""

    kind: Literal["cubed"] = "cubed"
    hidden: PositiveInt = 16

    @property
    def hidden_width(self):
        return self.hidden

    def tensors(self, scope):
        return {"down.weight": TensorSpec(shape=(scope.width, scope.width), role="output")}


class CubedModule(nn.Module):
    def __init__(self, spec, scope, factory):
        super().__init__()
        self.down = nn.Linear(scope.width, scope.width, bias=False, **factory)

    def forward(self, x_BTD, place):
        assert x_BTD.dim() == 3
        assert place.positions.shape[-1] == x_BTD.shape[1]
        return self.down(x_BTD * x_BTD * x_BTD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd(Position):
    """A position whose module varies from test to test."""

    acts_on: ClassVar = "scores"

    kind: Literal["odd"] = "odd"


KINDS = {Scaled: ScaledModule, Squashed: SquashedModule, Cubed: CubedModule, Odd: None}

MIXTURE = """
name: toy
vocab_size: 61
width: 16
context: 32
norm: NORM
blocks:
  layer:
    mixer: {kind: attention, heads: 2, qk_norm: NORM, position: POSITION}
    ffn: {kind: moe, experts: 3, top_k: 2, expert: EXPERT, router: ROUTER, shared_expert: SHARED}
layers: layer*2
"""


def mixture(**parts):
    text = MIXTURE
    usual = {"norm": "rmsnorm", "position": "rope", "expert": "{kind: swiglu, hidden: 8}", "router": "softmax"}
    for name, value in (usual | {"shared": "{kind: mlp, hidden: 8}"} | parts).items():
        text = text.replace(name.upper(), value)
    return read_text(text).architecture


@pytest.fixture(autouse=True)
def _registered():
    """All kinds for one test, as an installed package would register them for good."""
    for kind, module in KINDS.items():
        register(kind)
        if module is not None:
            implements(kind)(module)
    yield
    for kind in KINDS:
        del node._registry[kind.family][kind.__dataclass_fields__["kind"].default]
        registry._modules.pop(kind, None)


def _with_position(*hooks):
    """Let `Odd` be computed by a module with these hooks."""
    methods = {"__init__": lambda self, *_: nn.Module.__init__(self), **dict.fromkeys(hooks, lambda *args: args)}
    implements(Odd)(type("OddModule", (nn.Module,), methods))


# ----------------------------------------------------------------------------------------------------------------------
# Norms


def test_a_norm_is_made_for_a_width_wherever_it_stands():
    architecture = replace(mixture(norm="scaled"), embedding=Embedding(norm=Scaled()))
    model = build(architecture)
    widths = {name: module.scale.numel() for name, module in model.named_modules() if isinstance(module, ScaledModule)}
    assert widths["embedding.norm"] == widths["final_norm"] == widths["layers.1.ffn_norm"] == 16
    assert widths["layers.0.mixer.q_norm"] == 8


def test_a_norm_states_its_tensors_once():
    scope = Scope(width=24, vocab_size=10, context=10, depth=1)
    assert Scaled().tensors(scope) == Scaled().tensors_of_width(24)
    assert RMSNorm().tensors(scope) == RMSNorm().tensors_of_width(24)


def test_a_gain_starts_where_its_kind_says():
    model = build(mixture(norm="scaled"))
    assert torch.equal(model.final_norm.scale, torch.full((16,), 0.5))


@pytest.mark.parametrize(("gain", "start"), [("weight", 1.0), ("1 + weight", 0.0)])
def test_our_own_gains_start_at_one_altogether(gain, start):
    model = build(mixture(norm=f"{{kind: rmsnorm, gain: {gain}}}"))
    assert model.final_norm is not None
    assert (model.final_norm.weight == start).all()
    x = torch.randn(4, 16)
    assert torch.allclose(model.final_norm(x).square().mean(dim=1), torch.ones(4), atol=1e-3)


def test_a_module_with_an_attribute_called_offset_is_not_started_at_zero(monkeypatch):
    monkeypatch.setattr(SquashedModule, "offset", 1.0, raising=False)
    monkeypatch.setattr(ScaledModule, "offset", 1.0, raising=False)
    model = build(mixture(norm="scaled", router="squashed"))
    assert (model.final_norm.scale == 0.5).all()
    assert (model.layers[0].ffn.router.map.weight != 0).any()


# ----------------------------------------------------------------------------------------------------------------------
# Routers and experts


def test_a_router_states_its_own_tensors():
    architecture = mixture(router="squashed", norm="scaled")
    names = dict(build(architecture).named_parameters())
    assert names["layers.1.ffn.router.map.weight"].shape == (3, 16)
    assert (names["layers.1.ffn.router.map.bias"] == 0).all()
    bill = size(architecture, context=32, dtype="fp32")
    assert bill.parameters.total == sum(parameter.numel() for parameter in names.values())
    assert bill.parameters.by_component["routers"] == 2 * (3 * 16 + 3)


def test_a_router_a_norm_and_a_shared_expert_pass_every_probe():
    report = check(mixture(router="squashed", norm="scaled", shared="cubed"))
    assert report.passed, str(report)


def test_a_router_without_a_module_is_refused_when_it_is_built():
    del registry._modules[Squashed]
    with pytest.raises(NotImplementedError, match="Squashed"):
        build(mixture(router="squashed"))


def test_experts_that_cannot_be_stacked_are_a_finding_with_a_way_out():
    with pytest.raises(SpecError) as caught:
        mixture(expert="cubed")
    (finding,) = caught.value.findings
    assert finding.path == "blocks.layer.ffn.expert"
    assert "cubed cannot be computed stacked" in finding.what
    assert "shared_expert" in finding.fix


def test_a_shared_expert_counts_its_own_flops(monkeypatch):
    scope = Scope(width=16, vocab_size=10, context=10, depth=1)
    moe = mixture(shared="cubed").blocks["layer"].ffn
    assert isinstance(moe, Moe)
    before = moe.flops(scope, 4).useful
    monkeypatch.setattr(Cubed, "flops", lambda self, scope, tokens: node.Flops(useful=7, dense=7))
    assert moe.flops(scope, 4).useful == before - 2 * 16 * 16 * 4 + 7


# ----------------------------------------------------------------------------------------------------------------------
# Positions


@pytest.mark.parametrize(
    ("hooks", "says"),
    [((), "none of the hooks"), (("embed",), "none of the hooks"), (("logits",), "none of the hooks")],
)
def test_a_position_that_attention_would_pass_over_is_refused_when_it_is_built(hooks, says):
    _with_position(*hooks)
    with pytest.raises(UsageError, match=says) as caught:
        build(mixture(position="odd"))
    assert caught.value.fix


@pytest.mark.parametrize("hook", ["rotate", "bias"])
def test_a_position_with_a_hook_that_attention_calls_is_built(hook):
    _with_position(hook)
    build(mixture(position="odd"))


# ----------------------------------------------------------------------------------------------------------------------
# Installed packages


def _install(monkeypatch, group, load, package="toys"):
    dist = None if package is None else SimpleNamespace(name=package)
    point = SimpleNamespace(name="toy", value="toys.parts", dist=dist, load=load)
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [point] if group == chosen else [])
    chosen = group


LOADERS = {"vitruvius.components": node.load_kinds, "vitruvius.modules": registry.load_modules}


@pytest.mark.parametrize("group", list(LOADERS))
def test_kinds_and_modules_of_installed_packages_are_loaded_each_from_its_group(group, monkeypatch):
    loaded = []
    _install(monkeypatch, group, lambda: loaded.append(group))
    for load in LOADERS.values():
        load.__wrapped__()
    assert loaded == [group]


@pytest.mark.parametrize("group", list(LOADERS))
@pytest.mark.parametrize("package", ["toys", None])
def test_an_installed_package_that_does_not_load_is_named_with_the_way_out(group, package, monkeypatch):
    def broken():
        raise ImportError("no module named 'gone'")

    _install(monkeypatch, group, broken, package)
    with pytest.raises(UsageError) as caught:
        LOADERS[group].__wrapped__()
    message = str(caught.value)
    assert group in message
    for text in ("toy = toys.parts", "no module named 'gone'", "repair", f"pip uninstall {package or '<its name>'}"):
        assert text in message
