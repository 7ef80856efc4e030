"""The small twin of an architecture: same kinds and proportions, small enough to build and probe anywhere."""

from __future__ import annotations

import re
from dataclasses import fields, replace
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
_REPEATS = re.compile(r"([*^])\s*(\d+)")


def shrink(architecture: Architecture) -> Architecture:
    """A twin with the same kinds, layout period, GQA and expert ratios, on which probes run in a second.

    Windows, strides of globals and sinks shrink alike, so that the context is at least three windows long; repeats in
    the layer lines shrink to two; dilation steps stay. An architecture that is already small shrinks no further
    than these dimensions, and one without long windows keeps its pattern.
    """
    graph = resolve(architecture)
    heads = [_heads(layer.mixer) for layer in graph.layers if isinstance(layer.mixer, Attention)]
    width = max((query * _HEAD_WIDTH for query, _ in heads), default=64)
    # One width must serve mixers with different head counts: a common multiple that stays small.
    width = -(-width // 16) * 16
    context = min(architecture.context, _CONTEXT)
    factor = _window_factor(architecture, context)
    small = _Shrinker(width=width, old_width=architecture.width, context=context, factor=factor)
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


def _heads(mixer: Attention) -> tuple[int, int]:
    """Query and key heads of the twin: the same ratio, two groups where there were several."""
    ratio = mixer.heads // mixer.groups
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

    def __init__(self, *, width: int, old_width: int, context: int, factor: float) -> None:
        self.width, self.old_width, self.context, self.factor = width, old_width, context, factor

    def node(self, node: Any) -> Any:
        changes: dict[str, object] = {}
        for f in fields(node):
            value = getattr(node, f.name)
            if isinstance(value, Node):
                changes[f.name] = self.node(value)
            elif f.name == "hidden" and isinstance(value, int):
                changes[f.name] = max(8, round(value * self.width / self.old_width / 8) * 8)
            elif f.name == "original_context" and isinstance(value, int):
                changes[f.name] = max(4, round(value / max(self.factor, 1.0)))
        if isinstance(node, Attention):
            changes |= self._attention(node)
        if isinstance(node, Moe):
            top_k = min(node.top_k, 2)
            changes |= {"top_k": top_k, "experts": max(1, node.experts * top_k // node.top_k)}
        if isinstance(node, LearnedPosition):
            start = None if node.start is None else min(node.start, self.context)
            changes |= {"size": None if node.size is None else self.context, "start": start}
        return replace(node, **changes)

    def _attention(self, node: Attention) -> dict[str, object]:
        heads, groups = _heads(node)

        text = shrink_text(node.sees, self.factor) if self.factor > 1 else node.sees
        return {
            "heads": heads,
            "kv_heads": None if node.kv_heads is None else groups,
            "head_width": _HEAD_WIDTH if node.head_width or self.width != heads * _HEAD_WIDTH else None,
            "sees": text,
        }
