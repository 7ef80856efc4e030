"""The small twin of an architecture: same kinds and proportions, small enough to build and probe anywhere."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any

from vitruvius.errors import SpecError
from vitruvius.spec.graph import resolve
from vitruvius.spec.line_writing import counts, with_counts
from vitruvius.spec.node import Component, Node, Twin
from vitruvius.spec.validating import checked_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.spec.model import Architecture, Encoder

_HEAD_WIDTH = 8
_CONTEXT = 96
_VOCAB = 97
_MOST_RATIOS = (128, 32, 8, 4, 2)
"""Query heads to a key head, experts to a chosen one, hidden width to width: the greatest that a twin keeps."""
_MOST_PARAMETERS = 2**27
_MOST_LAYERS = 24
"""A twin with more layers gives up the counts inside its parentheses too."""
_LEAST_WIDTH = 16
_ONE_GROUP = re.compile(r"\s*(\([^()]*(?:\([^()]*\)[^()]*)*\)|[^\s()*^]+)\s*([*^])\s*(\d+)\s*")
"""A line that is one group or one block, repeated: `(dense moe)*16`; groups nest at most twice."""


def shrink(architecture: Architecture) -> Architecture:
    """A twin with the same kinds, layout period, GQA, expert and head width ratios, on which probes run in a second.

    Windows, strides of globals and sinks shrink alike, so that the context is at least three windows long; outermost
    repeats in the layer lines shrink to two, `(local*5 global)*5` to `(local*5 global)*2`, and those inside them only
    where there would be more than 24 layers; dilation steps stay. An architecture that is already small shrinks no
    further than these dimensions, and one without long windows keeps its pattern. Ratios so extreme that even the
    twin would not fit give way, step by step.
    """
    architecture = checked_types(architecture)
    *gentle, smallest = _MOST_RATIOS
    for most in gentle:
        twin = _twin(architecture, most)
        if sum(tensor.count for tensor in resolve(twin).tensors().values()) <= _MOST_PARAMETERS:
            return twin
    return _twin(architecture, smallest)


def _twin(architecture: Architecture, most: int) -> Architecture:
    """The twin in which no ratio of heads, experts or widths is above `most`."""
    graph = resolve(architecture)
    context = min(architecture.context, _CONTEXT)
    factor = _window_factor(architecture, context)
    ratios = [layer.mixer.stream_per_channel(layer.scope, most) for layer in graph.every_layer() if layer.mixer]
    width = _width([ratio for ratio in ratios if ratio is not None])
    small = Twin(width=width, context=context, old=graph.scope, factor=factor, most=most)
    return replace(
        architecture,
        vocab_size=min(architecture.vocab_size, _VOCAB),
        width=width,
        context=context,
        blocks={name: _shrunk(block, small) for name, block in architecture.blocks.items()},
        layers=_layers(architecture),
        encoder=_encoder(architecture),
        embedding=_shrunk(architecture.embedding, small),
        claims=[],
    )


def _width(per_channel: Sequence[Fraction]) -> int:
    """The least even width that has the ratio of the widest mixer, given how wide it is for each channel of a head.

    Where no narrow head makes it a whole number, it is rounded up.
    """
    widest = max(per_channel, default=Fraction(8))
    for head_width in range(_HEAD_WIDTH, _HEAD_WIDTH**2 + 1, 2):
        width = widest * head_width
        if width % 2 == 0 and width >= _LEAST_WIDTH:
            return int(width)
    return max(_LEAST_WIDTH, int(-(-widest * _HEAD_WIDTH // 16) * 16))


def _layers(architecture: Architecture) -> str | list[str]:
    """The layer lines with fewer repeats, in which every combination of blocks is still there."""
    layers = architecture.layers
    lines = [layers] if isinstance(layers, str) else layers
    whole = resolve(architecture).layers
    fitting = [(len(whole), lines)]
    for shorter in _shorter(lines, architecture):
        try:
            twin = resolve(replace(architecture, layers=shorter)).layers
        except SpecError:
            continue  # stacked lines of different lengths
        if {layer.name for layer in twin} == {layer.name for layer in whole}:
            fitting.append((len(twin), shorter))
            if len(twin) <= _MOST_LAYERS:
                break
    shortest = min(fitting, key=lambda fit: fit[0])[1]
    return shortest[0] if isinstance(layers, str) else shortest


def _encoder(architecture: Architecture) -> Encoder | None:
    encoder = architecture.encoder
    if encoder is None:
        return None
    alone = replace(architecture, layers=encoder.layers, encoder=None, mtp=None)
    return replace(encoder, layers=_layers(alone))


def _shorter(lines: list[str], architecture: Architecture) -> Iterator[list[str]]:
    """Ways to write fewer layers, from the one that keeps most of the layout."""
    deepest = max((depth for line in lines for depth, _ in counts(line)), default=0)
    yield [_cut(line, 0) for line in lines]
    yield from _common_rounds(lines, architecture)
    for depth in range(1, deepest + 1):
        yield [_cut(line, depth) for line in lines]


def _cut(line: str, deepest: int) -> str:
    """The line with two rounds where there were more, inside at most `deepest` parentheses."""
    return with_counts(line, lambda depth, rounds: rounds if depth > deepest else min(rounds, 2))


def _common_rounds(lines: list[str], architecture: Architecture) -> Iterator[list[str]]:
    """Stacked lines that each repeat one group, cut to twice the length at which all of them start again."""
    groups = [_ONE_GROUP.fullmatch(line) for line in lines]
    found = [group for group in groups if group is not None]
    if len(lines) < 2 or len(found) < len(lines):
        return
    periods = [len(resolve(replace(architecture, layers=group[1])).layers) for group in found]
    full = periods[0] * int(found[0][3])
    length = min(2 * lcm(*periods), full)
    yield [f"{group[1]}{group[2]}{length // period}" for group, period in zip(found, periods, strict=True)]


def _window_factor(architecture: Architecture, context: int) -> float:
    """How much windows shrink so that three of the longest fit into the context."""
    widest = 1
    for block in architecture.blocks.values():
        pattern = block.mixer.pattern() if block.mixer is not None else None
        if pattern is not None:
            widest = max(widest, pattern.widest_window or 1)
    return max(1.0, 3 * widest / context)


def _shrunk(node: Any, twin: Twin) -> Any:
    """The node with what it says of itself, and everything inside it shrunk; what nobody mentions is kept."""
    changes: dict[str, object] = {}
    own: dict[str, object] = dict(node.shrunk(twin)) if isinstance(node, Component) else {}
    for f in fields(node):
        value = own.get(f.name, getattr(node, f.name))
        if isinstance(value, Node):
            changes[f.name] = _shrunk(value, twin)
        elif f.name in own:
            changes[f.name] = value
        elif f.name == "hidden" and isinstance(value, int):
            changes[f.name] = twin.in_width(value)
        elif f.name == "original_context" and isinstance(value, int):
            changes[f.name] = twin.in_time(value, least=4)
    return replace(node, **changes)
