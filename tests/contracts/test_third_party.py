"""A kind registered outside this package is read, sized, built, checked, drawn and written like our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, settings
from specs import architectures, components_of
from torch import nn

from vitruvius.checks import check
from vitruvius.errors import SpecError
from vitruvius.nn import build, implements, registry
from vitruvius.report import draw
from vitruvius.sizing import size
from vitruvius.spec import TensorSpec, kinds, node, read_text, register, shrink, to_yaml
from vitruvius.spec.node import FeedForward, Flops, Mixer, PositiveInt, StateSpec

# The first pretends to be another package's code: a causal mean of the last tokens through one map, with its cache.


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingMean(Mixer):
    """out(mean of the last `window` tokens)."""

    kind: Literal["moving_mean"] = "moving_mean"
    window: PositiveInt = 4
    """Tokens that are averaged, the newest included."""

    def tensors(self, scope):
        """One map."""
        return {"out.weight": TensorSpec(shape=(scope.width, scope.width), role="output")}

    def state_tensors(self, scope, capacity):
        """The last tokens."""
        return {"x": StateSpec(shape=(min(self.window, capacity), scope.width))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Squared(FeedForward):
    """down(x * x)."""

    kind: Literal["squared"] = "squared"

    @property
    def hidden_width(self):
        """As wide as the stream, which it never leaves."""
        return 16

    def tensors(self, scope):
        """One map."""
        return {"down.weight": TensorSpec(shape=(scope.width, scope.width), role="output")}

    def flops(self, scope, tokens):
        """The map; the square is no product of matrices."""
        cost = 2 * scope.width * scope.width * tokens
        return Flops(useful=cost, dense=cost)


class MeanState:
    """The last inputs of each row."""

    def __init__(self, x_BSD):
        self.x = x_BSD

    def tensors(self):
        return (self.x,)


class MovingMeanModule(nn.Module):
    def __init__(self, spec, scope, factory):
        super().__init__()
        self.window, self.spec, self.scope = spec.window, spec, scope
        self.out = nn.Linear(scope.width, scope.width, bias=False, **factory)

    def forward(self, x_BTD, place, cache=None):
        positions = place.positions.expand(x_BTD.shape[0], -1)
        if cache is None:
            same = place.documents
            return self.out(self._mean(x_BTD, positions, x_BTD, positions, same, same))
        step, slots = cache.step, cache.x.shape[1]
        starts = torch.tensor(step.starts).unsqueeze(1)
        last = starts - 1
        held = last - (last - torch.arange(slots)) % slots
        keys = torch.cat([cache.x, x_BTD], dim=1)
        at = torch.cat([torch.where(held < 0, -1000, held), positions], dim=1)
        y_BTD = self._mean(x_BTD, positions, keys, at, None, None)
        for row, (start, count) in enumerate(zip(step.starts, step.counts, strict=True)):
            for i in range(count):
                cache.x[row, (start + i) % slots] = x_BTD[row, i]
        return self.out(y_BTD)

    def _mean(self, x_BTD, q_BT, keys_BSD, k_BS, q_documents, k_documents):
        distance = q_BT.unsqueeze(2) - k_BS.unsqueeze(1)
        seen = (distance >= 0) & (distance < self.window)
        if q_documents is not None:
            seen = seen & (q_documents.unsqueeze(2) == k_documents.unsqueeze(1))
        weights = seen.to(x_BTD.dtype)
        weights = weights / weights.sum(dim=2, keepdim=True)
        # A broadcast sum and no matmul, so that torch counts what the spec counts.
        return (weights.unsqueeze(3) * keys_BSD.unsqueeze(1)).sum(dim=2)

    def decode_state(self, batch, capacity, scope):
        shape = self.spec.state_tensors(scope, capacity)["x"].shape
        weight = self.out.weight
        return MeanState(torch.zeros(batch, *shape, dtype=weight.dtype, device=weight.device))


class SquaredModule(nn.Module):
    def __init__(self, spec, scope, factory):
        super().__init__()
        self.down = nn.Linear(scope.width, scope.width, bias=False, **factory)

    def forward(self, x_BTD, place=None):
        return self.down(x_BTD * x_BTD)


SPEC = """
name: toy
vocab_size: 61
width: 16
context: 40
blocks:
  layer:
    mixer: {kind: moving_mean, window: 5}
    ffn: squared
layers: layer*2
"""


@pytest.fixture
def registered():
    """Both kinds for one test, as an installed package would register them for good."""
    register(MovingMean)
    register(Squared)
    implements(MovingMean)(MovingMeanModule)
    implements(Squared)(SquaredModule)
    yield
    for kind in (MovingMean, Squared):
        del node._registry[kind.family][kind.__dataclass_fields__["kind"].default]
        del registry._modules[kind]


pytestmark = pytest.mark.usefixtures("registered")


def test_it_is_read_and_written():
    architecture = read_text(SPEC).architecture
    assert architecture.blocks["layer"].mixer == MovingMean(window=5)
    assert read_text(to_yaml(architecture)).architecture == architecture


def test_its_fields_are_validated():
    with pytest.raises(SpecError, match="did you mean 'window'"):
        read_text(SPEC.replace("window: 5", "windw: 5"))


def test_it_is_sized():
    bill = size(read_text(SPEC).architecture, context=40, dtype="fp32")
    # token table, head, final norm, and per layer two maps and two norms
    assert bill.parameters.total == 2 * 61 * 16 + 16 + 2 * (2 * 256 + 2 * 16)
    assert bill.kv_cache_bytes == 2 * 5 * 16 * 4


def test_it_passes_every_probe():
    report = check(read_text(SPEC).architecture)
    assert report.passed, str(report)


def test_its_mistakes_are_found(monkeypatch):
    honest = MovingMeanModule._mean

    def ahead(self, x, q, keys, k, q_documents, k_documents):
        return honest(self, x, q + 1, keys, k, q_documents, k_documents)

    monkeypatch.setattr(MovingMeanModule, "_mean", ahead)
    assert "future-leak" in {outcome.name for outcome in check(read_text(SPEC).architecture).failures}


def test_it_shrinks_with_its_fields_kept():
    big = read_text(SPEC.replace("width: 16", "width: 4096")).architecture
    assert shrink(big).blocks["layer"].mixer == MovingMean(window=5)


@pytest.mark.parametrize("family", ["mixer", "ffn"])
def test_it_enters_the_random_specs_by_itself(family):
    name = {"mixer": "moving_mean", "ffn": "squared"}[family]
    search = settings(
        max_examples=2000,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    found = find(architectures(), lambda a: any(c.kind == name for c in components_of(a)), settings=search)
    assert name in kinds(family)
    assert name in to_yaml(found)


def test_half_a_component_is_refused_when_it_is_built():
    del registry._modules[Squared]
    try:
        with pytest.raises(NotImplementedError, match="Squared"):
            build(read_text(SPEC).architecture)
    finally:
        registry._modules[Squared] = SquaredModule


def test_a_taken_name_is_refused():
    from vitruvius.spec.ffn.mlp import Mlp

    taken = dataclass(frozen=True, slots=True, kw_only=True)(
        type("Other", (Mlp,), {"__annotations__": {}, "__module__": __name__})
    )
    with pytest.raises(ValueError, match="already registered"):
        register(taken)


def test_it_is_drawn():
    drawing = draw(read_text(SPEC).architecture)
    for text in (str(drawing), drawing.svg):
        assert "moving_mean" in text or "moving mean" in text
        assert "squared" in text
