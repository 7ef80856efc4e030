"""What tensor and expert parallelism cut: kinds of components and the numbers that a degree has to divide. No torch.

The other half of tensor parallelism is `vitruvius.training.engines.tensors`, which cuts the modules of the same kinds.
A kind that is in neither is computed whole by every process of a group. That of expert parallelism, which divides the
experts of every mixture, is `vitruvius.training.engines.experts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.errors import Finding
from vitruvius.spec import resolve
from vitruvius.spec.cross import CrossAttention
from vitruvius.spec.ffn.mlp import Gated, Mlp
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec import Architecture, Component, Layer

ROTATIONS = frozenset({"rope"})
"""Positions inside attention that treat every head alike, so that heads may be apart."""


def numbers_of(component: Component | None) -> Mapping[str, int]:
    """Field -> number that is divided among processes; empty for a kind that every process computes whole."""
    match component:
        case Attention() if component.position is None or component.position.kind in ROTATIONS:
            return {"heads": component.heads, "kv_heads": component.groups}
        case CrossAttention():
            return {"heads": component.heads, "kv_heads": component.groups}
        case Mlp() | Gated():
            return {"hidden": component.hidden}
        case Moe():
            found = {f"expert.{name}": number for name, number in numbers_of(component.expert).items()}
            if has_expert_biases(component):
                found = {}
            shared = numbers_of(component.shared_expert)
            return found | {f"shared_expert.{name}": number for name, number in shared.items()}
        case _:
            return {}


def has_expert_biases(component: Moe) -> bool:
    """Whether the experts add a vector after their sum: then they are not cut."""
    return bool(getattr(component.expert, "bias", False))


def parts_of_layer(layer: Layer) -> Iterator[tuple[str, Component]]:
    """The sublayers of a layer that are there."""
    for name in ("mixer", "cross", "ffn"):
        component = getattr(layer, name)
        if component is not None:
            yield name, component


def undivided(architecture: Architecture, degree: int) -> Iterator[Finding]:
    """What a degree does not divide, each number of each kind of layer once."""
    said: set[tuple[str, int]] = set()
    for layer in resolve(architecture).every_layer():
        for name, component in parts_of_layer(layer):
            for field, number in numbers_of(component).items():
                place = f"{layer.name}.{name}.{field}"
                if number % degree and (place, number) not in said:
                    said.add((place, number))
                    yield _undivided("tensor_parallel", degree, number, place)


def undivided_experts(architecture: Architecture, degree: int) -> Iterator[Finding]:
    """Mixtures whose experts a degree does not divide, each number of each kind of layer once; none at all, too."""
    counts = experts_of(architecture)
    if not counts:
        what = f"{degree} processes are to divide the experts, and {architecture.name} has none"
        fix = "leave it out; kind: fsdp2 alone divides every weight"
        yield Finding(path="train.engine.expert_parallel", what=what, fix=fix)
    for place, number in counts.items():
        if number % degree:
            yield _undivided("expert_parallel", degree, number, place)


def experts_of(architecture: Architecture) -> dict[str, int]:
    """The experts of each kind of layer that has a mixture, by their place in the spec, in the order of the model."""
    return {
        f"{layer.name}.{name}.experts": component.experts
        for layer in resolve(architecture).every_layer()
        for name, component in parts_of_layer(layer)
        if isinstance(component, Moe)
    }


def _undivided(setting: str, degree: int, number: int, place: str) -> Finding:
    ways = [str(way) for way in range(1, min(number, 64) + 1) if number % way == 0]
    return Finding(
        path=f"train.engine.{setting}",
        what=f"{degree} does not divide {number:,} ({place})",
        fix=f"use one of {', '.join(ways[:8])}, or change the architecture",
    )


def whole_kinds(architecture: Architecture) -> list[str]:
    """Kinds of components that every process of a group computes whole, in the order of the model."""
    found: dict[str, None] = {}
    for layer in resolve(architecture).every_layer():
        for _, component in parts_of_layer(layer):
            if not numbers_of(component):
                position = getattr(component, "position", None)
                found[component.kind if position is None else f"{component.kind} with {position.kind}"] = None
    return list(found)
