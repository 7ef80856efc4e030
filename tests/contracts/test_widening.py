"""What a parametrisation stands on: every architecture can be made wider and deeper, and still fits together."""

from __future__ import annotations

from hypothesis import given
from specs import architectures

from vitruvius.spec import ensure, resolve
from vitruvius.spec.widen import deepen, weights, widen


@given(architectures())
def test_twice_as_wide_is_an_architecture_with_the_same_tensors_each_as_large_or_larger(architecture):
    narrow, wide = resolve(architecture).tensors(), ensure(widen(architecture, 2)).tensors()
    assert narrow.keys() == wide.keys()
    for name, tensor in narrow.items():
        grown = [after / before for before, after in zip(tensor.shape, wide[name].shape, strict=True)]
        assert all(1 <= factor <= 2 for factor in grown), name


@given(architectures())
def test_twice_as_deep_is_an_architecture_of_twice_the_layers(architecture):
    assert len(ensure(deepen(architecture, 2)).layers) == 2 * len(resolve(architecture).layers)


@given(architectures())
def test_every_tensor_has_its_place(architecture):
    graph = resolve(architecture)
    placed = weights(graph)
    assert placed.keys() == graph.tensors().keys()
    assert placed["embedding.tokens.weight"].part == "embedding"
    for name, weight in placed.items():
        assert (weight.part == "head") == name.startswith("head."), name
