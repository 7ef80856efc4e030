"""The small twin of an architecture: same kinds and proportions, small enough to build and probe anywhere."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from vitruvius.patterns import shrink_text
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.graph import resolve
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.node import Node
from vitruvius.spec.positions.tables import LearnedPosition

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture

_HEAD_WIDTH = 8
_CONTEXT = 96
_VOCAB = 97
_MOST_RATIOS = (128, 32, 8, 4, 2)
"""Query heads to a key head, experts to a chosen one, hidden width to width: the greatest that a twin keeps."""
_MOST_PARAMETERS = 2**27
_REPEATS = re.compile(r"([*^])\s*(\d+)")


def shrink(architecture: Architecture) -> Architecture:
    """A twin with the same kinds, layout period, GQA and expert ratios, on which probes run in a second.

    Windows, strides of globals and sinks shrink alike, so that the context is at least three windows long; repeats in
    the layer lines shrink to two; dilation steps stay. An architecture that is already small shrinks no further
    than these dimensions, and one without long windows keeps its pattern. Ratios so extreme that even the twin would
    not fit give way, step by step.
    """
    *gentle, smallest = _MOST_RATIOS
    for most in gentle:
        twin = _twin(architecture, most)
        if sum(tensor.count for tensor in resolve(twin).tensors().values()) <= _MOST_PARAMETERS:
            return twin
    return _twin(architecture, smallest)


def _twin(architecture: Architecture, most: int) -> Architecture:
    """The twin in which no ratio of heads, experts or widths is above `most`."""
    graph = resolve(architecture)
    heads = [_heads(layer.mixer, most) for layer in graph.layers if isinstance(layer.mixer, Attention)]
    width = max((query * _HEAD_WIDTH for query, _ in heads), default=64)
    # One width must serve mixers with different head counts: a common multiple that stays small.
    width = -(-width // 16) * 16
    context = min(architecture.context, _CONTEXT)
    factor = _window_factor(architecture, context)
    small = _Shrinker(width=width, old_width=architecture.width, context=context, factor=factor, most=most)
    layers = architecture.layers
    lines = [layers] if isinstance(layers, str) else layers
    shorter = [_REPEATS.sub(lambda m: m[1] + str(min(int(m[2]), 2)), line) for line in lines]
    stacked = len({len(resolve(replace(architecture, layers=line)).layers) for line in shorter}) == 1
    return replace(
        architecture,
        vocab_size=min(architecture.vocab_size, _VOCAB),
        width=width,
        context=context,
        blocks={name: small.node(block) for name, block in architecture.blocks.items()},
        layers=layers if not stacked else shorter[0] if isinstance(layers, str) else shorter,
        embedding=small.node(architecture.embedding),
        claims=[],
    )


def _heads(mixer: Attention, most: int) -> tuple[int, int]:
    """Query and key heads of the twin: the same ratio, two groups where there were several."""
    ratio = min(mixer.heads // mixer.groups, most)
    groups = min(mixer.groups, 2)
    return ratio * groups, groups


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

    def __init__(self, *, width: int, old_width: int, context: int, factor: float, most: int) -> None:
        self.width, self.old_width, self.context, self.factor = width, old_width, context, factor
        self.most = most

    def node(self, node: Any) -> Any:
        changes: dict[str, object] = {}
        for f in fields(node):
            value = getattr(node, f.name)
            if isinstance(value, Node):
                changes[f.name] = self.node(value)
            elif f.name == "hidden" and isinstance(value, int):
                ratio = min(value / self.old_width, self.most)
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
        text = shrink_text(node.sees, self.factor) if self.factor > 1 else node.sees
        return {
            "heads": heads,
            "kv_heads": None if node.kv_heads is None else groups,
            "head_width": _HEAD_WIDTH if node.head_width or self.width != heads * _HEAD_WIDTH else None,
            "sees": text,
        }
