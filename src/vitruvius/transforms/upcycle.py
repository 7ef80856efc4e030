"""From a dense model to a mixture of experts that computes the same, and can learn to compute more."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from vitruvius.errors import Finding, SpecError
from vitruvius.nn import build
from vitruvius.nn.weights import tables_that_grow, weights_of
from vitruvius.spec import Architecture, Graph, Layer, ensure
from vitruvius.spec.ffn.moe import STACKABLE, Moe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vitruvius.nn import Model

_FREE = frozenset({"name", "description", "claims", "blocks", "layers"})
"""Fields of an architecture that may differ: names and words. Blocks are compared layer by layer."""
_ONLY_FFNS = "upcycling changes feed-forward networks and nothing else: keep the rest as it is in the dense model"


@torch.no_grad()
def upcycle(model: Model, target: Architecture, *, seed: int = 0) -> Model:
    """A model of `target` that computes what `model` computes, its dense networks copied into every expert.

    Wherever `target` has a mixture in place of a dense network, each expert is a copy of that network. The router is
    drawn from `seed`, and does not matter yet: the weights of a token's experts add up to the same number for every
    token, by which the copies are divided when it is not one. A shared expert starts with an output of zero. Everything
    else is copied. In eval mode the function is the same up to rounding; `capacity` drops tokens while training.

    The result has the dtype and device of `model`. Raises SpecError with every reason why a target does not fit.
    Source: Komatsuzaki et al., "Sparse Upcycling", 2022.
    """
    graph = ensure(target)
    found = list(_findings(model.graph, graph))
    if found:
        raise SpecError(found)
    new = build(target, dtype=model.dtype, device=model.device, seed=seed)
    old_weights = weights_of(model)
    for name, table in tables_that_grow(new).items():
        table.grow(old_weights[f"{name}.weight"].shape[0])
    new_weights = weights_of(new)
    for name in old_weights.keys() & new_weights.keys():
        new_weights[name].copy_(old_weights[name])
    for old_layer, new_layer in zip(model.graph.every_layer(), graph.every_layer(), strict=True):
        if old_layer.ffn != new_layer.ffn and new_layer.owns_weights:
            _copy_into_experts(old_layer, new_layer, old_weights, new_weights)
    return new.train(model.training)


def _copy_into_experts(old: Layer, new: Layer, old_weights: dict[str, Tensor], new_weights: dict[str, Tensor]) -> None:
    moe, dense = new.ffn, old.ffn
    assert isinstance(moe, Moe)
    assert dense is not None
    total = moe.router.sum_of_weights(moe.top_k)
    assert total is not None
    tensors = dense.tensors(old.scope)
    last_maps = {name.partition(".")[0] for name, tensor in tensors.items() if tensor.role == "output"}
    for name in tensors:
        source = old_weights[f"{old.path}.ffn.{name}"]
        is_last = name.partition(".")[0] in last_maps
        stacked = new_weights[f"{new.path}.ffn.experts.{name.replace('.', '_')}"]
        stacked.copy_(source / total if is_last and total != 1 else source)
    if moe.shared_expert is not None:
        for name, tensor in moe.shared_expert.tensors(new.scope).items():
            if tensor.role == "output":
                new_weights[f"{new.path}.ffn.shared_expert.{name}"].zero_()


def _findings(old: Graph, new: Graph) -> Iterator[Finding]:
    """Everything that keeps a target from starting where the dense model is."""
    for field in fields(Architecture):
        before, after = getattr(old.architecture, field.name), getattr(new.architecture, field.name)
        if field.name not in _FREE and before != after:
            yield Finding(path=field.name, what=f"it differs from the dense model's ({before})", fix=_ONLY_FFNS)
    old_layers, new_layers = list(old.every_layer()), list(new.every_layer())
    if [layer.path for layer in old_layers] != [layer.path for layer in new_layers]:
        what = f"there are {len(new_layers)} layers, and {len(old_layers)} in the dense model"
        yield Finding(path="layers", what=what, fix=_ONLY_FFNS)
        return
    known: set[tuple[str, str]] = set()
    changed = False
    for before, after in zip(old_layers, new_layers, strict=True):
        changed = changed or before.ffn != after.ffn
        if (before.name, after.name) not in known:
            known.add((before.name, after.name))
            yield from _layer_findings(before, after)
    if not changed:
        what = "there is no mixture of experts where the dense model has a dense network"
        yield Finding(path="blocks", what=what, fix="give a block ffn: {kind: moe, ..., expert: the dense ffn}")


def _layer_findings(old: Layer, new: Layer) -> Iterator[Finding]:
    at = f"blocks.{new.name.rpartition('/')[2]}"
    for field in fields(Layer):
        # `scope` follows from the architecture, which is compared by itself.
        if field.name not in {"name", "ffn", "scope"} and getattr(old, field.name) != getattr(new, field.name):
            what = f"layer {new.index} differs from the dense model's ({getattr(old, field.name)})"
            yield Finding(path=f"{at}.{field.name}", what=what, fix=_ONLY_FFNS)
    if old.ffn == new.ffn:
        return
    if not isinstance(new.ffn, Moe) or old.ffn is None or isinstance(old.ffn, Moe):
        what = f"layer {new.index} has {_kind(old)} in the dense model, and {_kind(new)} here"
        yield Finding(
            path=f"{at}.ffn", what=what, fix="put a mixture in place of a dense network, or keep what is there"
        )
        return
    if new.ffn.expert != old.ffn:
        what = f"an expert is to be a copy of {old.ffn}, and is {new.ffn.expert}"
        yield Finding(path=f"{at}.ffn.expert", what=what, fix="write the dense model's ffn as expert")
    if new.ffn.router.sum_of_weights(new.ffn.top_k) is None:
        what = "the weights of a token's experts do not add up to the same number for every token"
        fix = "use renormalise: true, or a hash router"
        yield Finding(path=f"{at}.ffn.router", what=what, fix=fix)
    if new.ffn.shared_expert is not None and not isinstance(new.ffn.shared_expert, STACKABLE):
        what = f"a shared expert of kind {new.ffn.shared_expert.kind} cannot be made to start with an output of zero"
        yield Finding(path=f"{at}.ffn.shared_expert", what=what, fix="use an mlp, swiglu or geglu, or leave it out")


def _kind(layer: Layer) -> str:
    return "no ffn" if layer.ffn is None else f"ffn {layer.ffn.kind}"
