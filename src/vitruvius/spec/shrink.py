"""The small twin of an architecture: same kinds and proportions, small enough to build and probe anywhere."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any

from vitruvius.errors import SpecError
from vitruvius.patterns import shrink_text
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.graph import resolve
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.node import Node
from vitruvius.spec.positions.tables import LearnedPosition
from vitruvius.spec.validating import checked_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.spec.model import Architecture
    from vitruvius.spec.node import Scope

_HEAD_WIDTH = 8
_CONTEXT = 96
_VOCAB = 97
_MOST_RATIOS = (128, 32, 8, 4, 2)
"""Query heads to a key head, experts to a chosen one, hidden width to width: the greatest that a twin keeps."""
_MOST_PARAMETERS = 2**27
_MOST_LAYERS = 24
"""A twin with more layers gives up the counts inside its parentheses too."""
_LEAST_WIDTH = 16
_WIDEST_HEAD = 256
_MARKS = re.compile(r"([()])|([*^])\s*(\d+)")
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
    mixers = [layer.mixer for layer in graph.layers if isinstance(layer.mixer, Attention)]
    width = _width([_heads(mixer, most)[0] * _ratio(mixer, graph.scope, most) for mixer in mixers])
    context = min(architecture.context, _CONTEXT)
    factor = _window_factor(architecture, context)
    small = _Shrinker(width=width, old=graph.scope, context=context, factor=factor, most=most)
    return replace(
        architecture,
        vocab_size=min(architecture.vocab_size, _VOCAB),
        width=width,
        context=context,
        blocks={name: small.node(block) for name, block in architecture.blocks.items()},
        layers=_layers(architecture),
        embedding=small.node(architecture.embedding),
        claims=[],
    )


def _heads(mixer: Attention, most: int) -> tuple[int, int]:
    """Query and key heads of the twin: the same ratio, two groups where there were several."""
    ratio = min(mixer.heads // mixer.groups, most)
    groups = min(mixer.groups, 2)
    return ratio * groups, groups


def _ratio(mixer: Attention, scope: Scope, most: int) -> Fraction:
    """Width of the stream to the width of all heads together: one, unless the spec gives a head width."""
    if mixer.head_width is None:
        return Fraction(1)
    return min(max(Fraction(scope.width, mixer.heads * mixer.head_width), Fraction(1, most)), Fraction(most))


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


def _shorter(lines: list[str], architecture: Architecture) -> Iterator[list[str]]:
    """Ways to write fewer layers, from the one that keeps most of the layout."""
    deepest = max((depth for line in lines for depth, _ in _repeats(line)), default=0)
    yield [_cut(line, 0) for line in lines]
    yield from _common_rounds(lines, architecture)
    for depth in range(1, deepest + 1):
        yield [_cut(line, depth) for line in lines]


def _repeats(line: str) -> Iterator[tuple[int, re.Match[str]]]:
    """(parentheses around it, match) of every count."""
    depth = 0
    for mark in _MARKS.finditer(line):
        if mark[1]:
            depth += 1 if mark[1] == "(" else -1
        else:
            yield depth, mark


def _cut(line: str, deepest: int) -> str:
    """The line with two rounds where there were more, inside at most `deepest` parentheses."""
    pieces: list[str] = []
    end = 0
    for depth, mark in _repeats(line):
        times = int(mark[3]) if depth > deepest else min(int(mark[3]), 2)
        pieces += [line[end : mark.start()], f"{mark[2]}{times}"]
        end = mark.end()
    return "".join([*pieces, line[end:]])


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


class _Shrinker:
    """Walks a node and scales what it knows; everything else, third-party fields included, is kept."""

    def __init__(self, *, width: int, old: Scope, context: int, factor: float, most: int) -> None:
        self.width, self.old, self.context, self.factor = width, old, context, factor
        self.most = most

    def node(self, node: Any) -> Any:
        changes: dict[str, object] = {}
        for f in fields(node):
            value = getattr(node, f.name)
            if isinstance(value, Node):
                changes[f.name] = self.node(value)
            elif f.name == "hidden" and isinstance(value, int):
                ratio = min(value / self.old.width, self.most)
                changes[f.name] = max(8, round(ratio * self.width / 8) * 8)
            elif f.name == "original_context" and isinstance(value, int):
                changes[f.name] = max(4, round(value / max(self.factor, 1.0)))
        if isinstance(node, Attention):
            changes |= self._attention(node)
        if isinstance(node, Moe):
            top_k = min(node.top_k, 2)
            ratio = min(Fraction(node.experts, node.top_k), Fraction(self.most))
            changes |= {"top_k": top_k, "experts": int(ratio * top_k)}
        if isinstance(node, LearnedPosition):
            start = None if node.start is None else min(node.start, self.context)
            changes |= {"size": None if node.size is None else self.context, "start": start}
        return replace(node, **changes)

    def _attention(self, node: Attention) -> dict[str, object]:
        heads, groups = _heads(node, self.most)
        # Even, because rotations turn channels in pairs.
        even = round(self.width / (heads * _ratio(node, self.old, self.most)) / 2) * 2
        head_width = min(max(even, _HEAD_WIDTH), _WIDEST_HEAD)
        text = shrink_text(node.sees, self.factor) if self.factor > 1 else node.sees
        return {
            "heads": heads,
            "kv_heads": None if node.kv_heads is None else groups,
            "head_width": head_width if node.head_width or self.width != heads * head_width else None,
            "sees": text,
        }
