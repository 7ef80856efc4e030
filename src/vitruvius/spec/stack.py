"""From layer lines to layers: repeats written out, stacked lines merged, shared weights and keys found."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import Finding, PatternError, SpecError
from vitruvius.spec.layer import Layer, Stack
from vitruvius.spec.lines import LineError, parse_lines
from vitruvius.spec.model import Architecture, Block
from vitruvius.spec.node import Scope
from vitruvius.spec.reporting import did_you_mean, listed, printable, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.patterns import Pattern
    from vitruvius.spec.lines import LayerItem
    from vitruvius.spec.node import Mixer

__all__ = ["Stack", "line_finding", "mixer_block", "unroll"]

_WHERE = {Stack.MAIN: "layers", Stack.ENCODER: "encoder.layers", Stack.MTP: "mtp.block"}


def unroll(architecture: Architecture, stack: Stack, lines: str | list[str]) -> tuple[Layer, ...]:
    """The layers of one stack.

    Raises SpecError when the lines cannot be read, stacked blocks set the same field, or a block reads keys or values
    that no earlier layer has.
    """
    try:
        rows = parse_lines(lines, architecture.blocks)
    except LineError as error:
        raise SpecError([line_finding(error, _WHERE[stack])]) from None
    scope = Scope(
        width=architecture.width,
        vocab_size=architecture.vocab_size,
        context=architecture.context,
        depth=len(rows),
        init=architecture.init,
        causal=architecture.head.causal and stack is not Stack.ENCODER,
    )
    layers: list[Layer] = []
    first_with: dict[object, int] = {}
    known: dict[str, Block] = {}
    for index, row in enumerate(rows):
        name = "/".join(item.name for item in row)
        block = known.get(name) or known.setdefault(name, _stacked(row, architecture))
        shared = block.weights == "shared" and stack is not Stack.MTP
        key = name if shared else tuple((item.name, item.weights) for item in row)
        layers.append(
            Layer(
                stack=stack,
                index=index,
                name=name,
                weights=first_with.setdefault(key, index),
                scope=replace(scope, layer=index),
                mixer=block.mixer,
                cross=block.cross,
                ffn=block.ffn,
                norm=block.norm or architecture.norm,
                norm_place=block.norm_place or "pre",
                order=block.order or "in-turn",
                residual_scale=block.residual_scale,
            )
        )
    return tuple(_connected(layers, architecture.blocks))


def _connected(layers: list[Layer], blocks: Mapping[str, Block]) -> list[Layer]:
    """The layers, each knowing whose keys and values it reads, and by whom its own are read."""
    placed: dict[str, list[int]] = {name: [] for layer in layers for name in layer.name.split("/")}
    linked: list[Layer] = []
    readers: dict[int, list[Pattern]] = {}
    lent: dict[int, set[Literal["keys", "values"]]] = {}
    for layer in layers:
        changes: dict[str, int] = {}
        mixer = layer.mixer
        if mixer is not None and mixer.keys_of is not None:
            source = _nearest(placed, mixer.keys_of, layer, "kv_from", blocks)
            owner = linked[source].keys_from
            changes["keys_from"] = source = source if owner is None else owner
            lent.setdefault(source, set()).add("keys")
            readers.setdefault(source, []).extend(_patterns(mixer))
        if mixer is not None and mixer.values_of is not None:
            changes["values_from"] = source = _nearest(placed, mixer.values_of, layer, "value_from", blocks)
            lent.setdefault(source, set()).add("values")
        linked.append(replace(layer, **changes) if changes else layer)
        for name in layer.name.split("/"):
            placed[name].append(layer.index)
    for source, what in lent.items():
        layer, distinct = linked[source], tuple(dict.fromkeys(readers.get(source, ())))
        linked[source] = replace(layer, lends=frozenset(what), scope=replace(layer.scope, readers=distinct))
    return linked


def _patterns(mixer: Mixer) -> list[Pattern]:
    """The mixer's pattern, where it has one that can be read; what cannot be read is a finding of the mixer's own."""
    try:
        pattern = mixer.pattern()
    except PatternError:
        return []
    return [] if pattern is None else [pattern]


def _nearest(placed: dict[str, list[int]], wanted: str, layer: Layer, field: str, blocks: Mapping[str, Block]) -> int:
    """The last layer of a block before this one."""
    if placed.get(wanted):
        return placed[wanted][-1]
    name = mixer_block(layer, blocks)
    fix = f"put a layer of {printable(wanted)} before it, or name a block that stands earlier"
    what = f"layer {layer.index} reads from block {quoted(wanted)}, of which no layer stands before it"
    if wanted not in blocks:
        what, fix = f"there is no block {quoted(wanted)}", did_you_mean(wanted, blocks) or f"use {listed(blocks)}"
    elif wanted not in placed:
        what = f"layer {layer.index} reads from block {quoted(wanted)}, of which this stack has no layer"
    raise SpecError([Finding(path=f"blocks.{name}.mixer.{field}", what=what, fix=fix)])


def mixer_block(layer: Layer, blocks: Mapping[str, Block]) -> str:
    """The block that a layer's mixer comes from: one of several where lines are stacked."""
    names = layer.name.split("/")
    return next((name for name in names if blocks[name].mixer is not None), names[0])


def line_finding(error: LineError, where: str = "layers") -> Finding:
    """What is wrong with a layer line, at its path."""
    at = "" if error.position is None else f" (character {error.position + 1})"
    path = where if error.line_index is None else f"{where}.{error.line_index}"
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
