"""The resolved layers: what the builder, the counts, the cache, the FLOPs and the picture all walk.

    Architecture --resolve--> Graph: embedding, layers (every default filled in), final norm, head

Parameter names here are the names of the built module's parameters, so that a count can be held against the module
tensor by tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.lines import LineError, parse_lines
from vitruvius.spec.model import Architecture, Block, NormPlace
from vitruvius.spec.node import Component, FeedForward, Flops, Mixer, Norm, Scope, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.lines import LayerItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with every default filled in."""

    index: int
    """Place in the stack, from 0."""
    name: str
    """Name of its block; of several stacked lines, joined by `/`. Layers of one name differ in nothing but weights."""
    weights: int
    """Index of the first layer with these weights: its own, unless the spec repeats weights with `^`."""
    mixer: Mixer | None
    ffn: FeedForward | None
    norm: Norm
    norm_place: NormPlace

    @property
    def owns_weights(self) -> bool:
        """Whether this layer's weights appear here first."""
        return self.weights == self.index

    def sublayers(self) -> Iterator[tuple[str, Component]]:
        """(name, component) of what this layer applies, in order."""
        if self.mixer is not None:
            yield "mixer", self.mixer
        if self.ffn is not None:
            yield "ffn", self.ffn

    def tensors(self, scope: Scope) -> dict[str, TensorSpec]:
        """Parameter tensors of the layer, norms included."""
        tensors: dict[str, TensorSpec] = {}
        for name, component in self.sublayers():
            if self.norm_place != "none":
                tensors |= {f"{name}_norm.{gain}": t for gain, t in self.norm.tensors(scope).items()}
            tensors |= {f"{name}.{tensor}": t for tensor, t in component.tensors(scope).items()}
            if self.norm_place == "sandwich":
                tensors |= {f"{name}_out_norm.{gain}": t for gain, t in self.norm.tensors(scope).items()}
        return tensors

    def flops(self, scope: Scope, tokens: int) -> Flops:
        """Forward cost of the layer over one sequence."""
        return sum((component.flops(scope, tokens) for _, component in self.sublayers()), Flops())


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An architecture resolved into its layers."""

    architecture: Architecture
    scope: Scope
    layers: tuple[Layer, ...]

    @property
    def final_norm(self) -> Norm | None:
        """Applied before the head; None after a stack of post-norm blocks, which end normalised, or without norms."""
        last = self.layers[-1]
        return None if last.norm_place in {"post", "none"} else self.architecture.norm

    def tensors(self) -> dict[str, TensorSpec]:
        """Every parameter tensor by its name in the built module; weights that layers share appear once."""
        scope, architecture = self.scope, self.architecture
        tensors = {f"embedding.{name}": t for name, t in architecture.embedding.tensors(scope).items()}
        known: dict[str, dict[str, TensorSpec]] = {}
        for layer in self.layers:
            if layer.owns_weights:
                own = known.get(layer.name) or known.setdefault(layer.name, layer.tensors(scope))
                tensors |= {f"layers.{layer.index}.{name}": t for name, t in own.items()}
        if self.final_norm is not None:
            tensors |= {f"final_norm.{name}": t for name, t in self.final_norm.tensors(scope).items()}
        return tensors | {f"head.{name}": t for name, t in architecture.head.tensors(scope).items()}

    def flops(self, tokens: int) -> Flops:
        """Cost of a forward pass over one sequence of `tokens` tokens, logits of every position included."""
        known: dict[str, Flops] = {}
        total = self.architecture.head.flops(self.scope, tokens)
        for layer in self.layers:
            if layer.name not in known:
                known[layer.name] = layer.flops(self.scope, tokens)
            total += known[layer.name]
        return total

    def cache_shapes(self, capacity: int) -> list[dict[str, tuple[int, ...]]]:
        """Decode state of each layer for one sequence of up to `capacity` tokens, in the model's dtype."""
        known: dict[str, dict[str, tuple[int, ...]]] = {}
        for layer in self.layers:
            if layer.name not in known:
                mixer = layer.mixer
                known[layer.name] = {} if mixer is None else dict(mixer.cache_shapes(self.scope, capacity))
        return [known[layer.name] for layer in self.layers]


def resolve(architecture: Architecture) -> Graph:
    """Fill in every default and unroll the layers.

    Raises SpecError when the layer lines cannot be read or stacked blocks set the same field.
    """
    try:
        rows = parse_lines(architecture.layers, architecture.blocks)
    except LineError as error:
        raise SpecError([line_finding(error)]) from None
    layers: list[Layer] = []
    first_with: dict[tuple[tuple[str, int], ...], int] = {}
    known: dict[str, Block] = {}
    for index, row in enumerate(rows):
        key = tuple((item.name, item.weights) for item in row)
        name = "/".join(item.name for item in row)
        block = known.get(name) or known.setdefault(name, _stacked(row, architecture))
        layers.append(
            Layer(
                index=index,
                name=name,
                weights=first_with.setdefault(key, index),
                mixer=block.mixer,
                ffn=block.ffn,
                norm=block.norm or architecture.norm,
                norm_place=block.norm_place or "pre",
            )
        )
    scope = Scope(
        width=architecture.width,
        vocab_size=architecture.vocab_size,
        context=architecture.context,
        depth=len(layers),
    )
    return Graph(architecture=architecture, scope=scope, layers=tuple(layers))


def line_finding(error: LineError) -> Finding:
    """What is wrong with a layer line, at its path."""
    at = "" if error.position is None else f" (character {error.position + 1})"
    path = "layers" if error.line_index is None else f"layers.{error.line_index}"
    return Finding(what=error.what + at, fix=error.fix, path=path)


def _stacked(row: tuple[LayerItem, ...], architecture: Architecture) -> Block:
    """One block out of the blocks that stacked lines put on one layer."""
    merged: dict[str, object] = {}
    for item in row:
        block = architecture.blocks[item.name]
        values = {f.name: getattr(block, f.name) for f in fields(Block)}
        given = {name: value for name, value in values.items() if value is not None}
        clash = sorted(set(merged) & set(given))
        if clash:
            names = " and ".join(item.name for item in row)
            what = f"stacked blocks {names} both set {', '.join(clash)}"
            raise SpecError([Finding(what=what, path="layers", fix="let each line set different fields")])
        merged |= given
    return Block(**merged)  # pyright: ignore[reportArgumentType]
