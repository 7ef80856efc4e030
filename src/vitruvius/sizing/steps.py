"""Activations of a workload, asked for once: training steps and forward passes, extended to any number of tokens.

Following a step operation by operation takes time in proportion to the blocks of its attention. Beyond `FOLLOWED`
tokens, or `FOLLOWED_POSITIONS` in all, activations are a straight line (each block of queries, and each sequence, keeps
and reads as much as the one before), so they are read off two smaller steps; what that may be wrong by is stated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from vitruvius.sizing.fragmentation import margin_of
from vitruvius.sizing.workload import Workload

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

FOLLOWED = 2**18
"""Tokens of the longest step that is followed operation by operation."""
FOLLOWED_POSITIONS = 2**19
"""Tokens of all sequences up to which a step is followed."""
_SLACK = 200
"""One part in so many of what is read off a line is its stated error; it was seen to be off by up to one in 1,300."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step or pass takes besides what stays."""

    activations: int
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    margin: int = 0
    unsure: int = 0


class Same:
    """A graph as a key: equal to itself alone."""

    __slots__ = ("graph",)

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __hash__(self) -> int:
        return id(self.graph)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.graph is self.graph


def training_step(graph: Graph, workload: Workload, tokens: int) -> Step:
    """A training step over so many tokens; in the modes lora and qlora without anything of the adapters."""
    return _extended(_trained, graph, workload, tokens)


def forward_pass(graph: Graph, workload: Workload, tokens: int) -> Step:
    """The highest moment of prefill and decoding at so many tokens, a prompt in pieces.

    Exact at any length, but for own patterns, which are followed key by key.
    """
    if _has_own_pattern(graph):
        return _extended(_passed, graph, workload, tokens)
    return _passed(Same(graph), replace(workload, context=tokens))


def _has_own_pattern(graph: Graph) -> bool:
    patterns = (layer.mixer.pattern() for layer in graph.every_layer() if layer.mixer is not None)
    return any(clause.predicates for pattern in patterns if pattern is not None for clause in pattern.clauses)


Ask = Callable[[Same, Workload], Step]


def _extended(ask: Ask, graph: Graph, workload: Workload, tokens: int) -> Step:
    """What is asked at so many tokens, followed or read off a line."""
    same = Same(graph)

    def at(context: int) -> Step:
        return _of_batch(ask, same, replace(workload, context=context), context)

    if tokens <= FOLLOWED or workload.attention == "full":
        return at(tokens)
    return _on_line(at(FOLLOWED // 2), at(FOLLOWED), (FOLLOWED // 2, FOLLOWED, tokens))


def _of_batch(ask: Ask, same: Same, workload: Workload, tokens: int) -> Step:
    most = max(2, FOLLOWED_POSITIONS // tokens)
    if workload.batch <= most or workload.attention == "full":
        return ask(same, workload)
    ends = (most // 2, most)
    short, whole = (ask(same, replace(workload, batch=batch)) for batch in ends)
    return _on_line(short, whole, (*ends, workload.batch))


def _on_line(short: Step, whole: Step, places: tuple[int, int, int]) -> Step:
    """Beyond two steps at the first two places, the one at the third."""
    first, last, wanted = places
    beyond, each = wanted - last, last - first
    activations = whole.activations + (whole.activations - short.activations) * beyond // each
    unsure = whole.unsure + max(0, whole.unsure - short.unsure) * beyond // each + activations // _SLACK
    margin = max(whole.margin, margin_of(activations + whole.gradients))
    return replace(whole, activations=activations, unsure=unsure, margin=margin)


@lru_cache(maxsize=64)
def _trained(same: Same, workload: Workload) -> Step:
    from vitruvius.sizing.training import training_memory

    found = training_memory(same.graph, workload)
    return Step(
        activations=found.activations,
        gradients=found.gradients,
        optimizer=found.optimizer,
        buffers=found.buffers,
        margin=found.margin,
        unsure=found.unsure,
    )


@lru_cache(maxsize=64)
def _passed(same: Same, workload: Workload) -> Step:
    from vitruvius.sizing.inference import inference_activations

    found = inference_activations(same.graph, workload)
    return Step(activations=found.activations, margin=margin_of(found.activations), unsure=found.unsure)
