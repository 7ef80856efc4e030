"""The same architecture, wider or deeper: what a parametrisation is to carry a learning rate across."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from vitruvius.spec.graph import resolve
from vitruvius.spec.node import Component, Node
from vitruvius.spec.weight import Part, Weight

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

AnyNode = TypeVar("AnyNode", bound=Node)

_PARTS: dict[str, Part] = {"embedding": "embedding", "final_norm": "final_norm", "head": "head"}


def widen(architecture: Architecture, factor: int) -> Architecture:
    """The architecture `factor` times as wide: more heads of the same width, wider hidden layers, all in proportion.

    Numbers of layers, experts, states and taps stay. What a component changes is its `widened`.
    """
    assert factor >= 1
    blocks = {name: _widened(block, factor) for name, block in architecture.blocks.items()}
    changes: dict[str, object] = {}
    for f in fields(architecture):
        value = getattr(architecture, f.name)
        if isinstance(value, Node):
            changes[f.name] = _widened(value, factor)
    return replace(architecture, **{**changes, "width": architecture.width * factor, "blocks": blocks, "claims": []})  # pyright: ignore[reportArgumentType]


def deepen(architecture: Architecture, factor: int) -> Architecture:
    """The architecture with its stacks repeated `factor` times, each repeat with weights of its own."""
    assert factor >= 1
    encoder = architecture.encoder
    if encoder is not None:
        encoder = replace(encoder, layers=_repeated(encoder.layers, factor))
    return replace(architecture, layers=_repeated(architecture.layers, factor), encoder=encoder, claims=[])


def weights(graph: Graph) -> dict[str, Weight]:
    """Every parameter tensor by name, with the part of the model it stands in and which of its axes grow."""
    wide = resolve(widen(graph.architecture, 2)).tensors()
    found: dict[str, Weight] = {}
    for name, tensor in graph.tensors().items():
        grows = tuple(a != b for a, b in zip(tensor.shape, wide[name].shape, strict=True))
        found[name] = Weight(tensor=tensor, part=_PARTS.get(name.partition(".")[0], "layer"), grows=grows)
    return found


def _repeated(lines: str | list[str], factor: int) -> str | list[str]:
    if factor == 1:
        return lines
    return f"({lines})*{factor}" if isinstance(lines, str) else [f"({line})*{factor}" for line in lines]


def _widened(node: AnyNode, factor: int) -> AnyNode:
    changes: dict[str, object] = {}
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, Node):
            changes[f.name] = _widened(value, factor)
    if isinstance(node, Component):
        changes |= node.widened(factor)
    return replace(node, **changes)  # pyright: ignore[reportArgumentType]
