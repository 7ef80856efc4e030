"""What the layers of one pipeline stage compute and keep: operations, activations, and where a stack is best cut.

What one device keeps of a stage is read off the same tape as the bill (docs/adr/0014-activation-memory.md). Of that,
tensor parallelism divides what sublayers keep inside; their inputs and the norms' stay whole on each rank unless the
sequence is divided too (Korthikanti et al., 2022). Under 1F1B, stage i of p keeps min(p - i, m) of m micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from vitruvius.sizing.levels import levels_of
from vitruvius.sizing.parallel.sharding import layer_parts, stays_whole
from vitruvius.spec.costs import Work
from vitruvius.spec.tracing.activity import steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.layer import Layer, Stack
    from vitruvius.spec.recomputing import Checkpointing
    from vitruvius.spec.tracing.activity import Stretch

SequenceParallel = Literal["off", "on"]
"""Whether tensor-parallel ranks divide norms and the inputs of sublayers along the sequence."""

_SAMPLE = 1024
"""Tokens at which the share of activations inside sublayers is measured; it hardly depends on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """Operations of a forward pass over one sequence."""

    cut: int
    """Divided among tensor-parallel ranks."""
    whole: int
    """Done by each of them."""

    def of(self, tensor: int) -> float:
        """Those of one rank."""
        return self.cut / tensor + self.whole


class Passing(NamedTuple):
    """One moment of a step of one micro-batch on one device, in bytes."""

    saved: int
    """Kept between forward and backward pass."""
    transient: int
    """What exists besides, without gradients of weights."""
    gradients: int
    """Of weights, as far as they exist."""


class Shares(NamedTuple):
    """What one rank has of what one device would."""

    saved: float
    transient: float
    gradients: float | None
    """None where gradients are all there at every moment, or are divided among data ranks as they come."""


class Held(NamedTuple):
    """What one stage holds on one device."""

    saved: int
    """Kept of each micro-batch at the end of its forward pass."""
    gradients: int
    """Of all its weights."""
    moments: tuple[Passing, ...]

    def at_most(self, in_flight: int, shares: Shares) -> int:
        """The highest moment with `in_flight` micro-batches, above what stays and all gradients."""
        waiting = (in_flight - 1) * self.saved
        rest = shares.gradients or 0.0
        return max(
            int(
                (waiting + m.saved) * shares.saved
                + m.transient * shares.transient
                - (self.gradients - m.gradients) * rest
            )
            for m in self.moments
        )


class Layers:
    """Costs of the layers of one graph at one length, each kind of layer computed once."""

    def __init__(self, graph: Graph, workload: Workload, *, context_ranks: int = 1, value_bytes: int = 2) -> None:
        self._graph, self._workload = graph, workload
        self._tokens = workload.context or graph.scope.context
        self._local = -(-self._tokens // context_ranks)
        self._context_ranks = context_ranks
        self._value_bytes = value_bytes
        self._stretches: dict[int, list[Stretch]] = {}
        self._held: dict[tuple[object, ...], Held] = {}
        self._inside: dict[tuple[Stack, str], float] = {}
        self._computing: dict[tuple[Stack, str], Computing] = {}

    def computing(self, layer: Layer) -> Computing:
        """What a layer computes of one sequence."""
        key = (layer.stack, layer.name)
        if key not in self._computing:
            self._computing[key] = _computing(layer, self._tokens)
        return self._computing[key]

    def forward(self, layers: Sequence[Layer], tensor: int, *, is_first: bool, is_last: bool) -> float:
        """Operations of one rank of a stage, forward over one sequence."""
        total = sum(self.computing(layer).of(tensor) for layer in layers)
        architecture, scope = self._graph.architecture, self._graph.scope
        if is_first:
            texts = 2 if self._graph.encoder else 1
            total += texts * architecture.embedding.flops(scope, self._tokens).useful
        if is_last:
            rounded = -(-scope.vocab_size // tensor) * tensor / scope.vocab_size
            logits = architecture.head.flops(scope, self._tokens).useful
            total += logits * (1 + len(self._graph.mtp)) * rounded / tensor
            total += 4 * scope.width**2 * self._tokens * len(self._graph.mtp)
        return total / self._context_ranks

    def held(self, cut: range, batch: int, checkpointing: Checkpointing) -> Held:
        """What the layers of a stage hold for `batch` sequences, and what stands before and after all layers."""
        key = (cut, batch, checkpointing)
        if key not in self._held:
            stretches = self._of_stage(cut, batch)
            levels = levels_of(stretches, checkpointing=checkpointing)
            own = [0] * len(stretches) + [stretch.replay.weights for stretch in reversed(stretches)]
            moments = tuple(
                Passing(moment.saved, max(0, moment.transient - mine), moment.gradients + mine)
                for moment, mine in zip(levels.moments, own, strict=True)
            )
            self._held[key] = Held(saved=levels.saved, gradients=levels.gradients, moments=moments)
        return self._held[key]

    def unsure(self, batch: int) -> int:
        """How far what a whole model saves may be off, for kinds without an account of their own."""
        return sum(stretch.unsure for stretch in self._all(batch))

    def _of_stage(self, cut: range, batch: int) -> list[Stretch]:
        everything = self._all(batch)
        first = next(i for i, stretch in enumerate(everything) if stretch.name == "layer 0")
        start = 0 if cut.start == 0 else first + cut.start
        stop = len(everything) if cut.stop == len(self._graph.layers) else first + cut.stop
        return everything[start:stop]

    def _all(self, batch: int) -> list[Stretch]:
        if batch not in self._stretches:
            work = Work(
                batch=batch,
                tokens=self._local,
                value_bytes=self._value_bytes,
                attention=self._workload.attention,
                z_loss=self._workload.z_loss,
            )
            self._stretches[batch] = steps(self._graph, work, loss=self._workload.loss)
        return self._stretches[batch]

    def shares(
        self, layers: Sequence[Layer], tensor: int, sequence: SequenceParallel, checkpointing: Checkpointing
    ) -> tuple[float, float]:
        """Shares of what one device saves, and of what passes, that one tensor-parallel rank has."""
        if tensor == 1:
            return 1.0, 1.0
        inside = sum(self._share_inside(layer) for layer in layers) / len(layers)
        outside = (1 - inside) / tensor if sequence == "on" else 1 - inside
        passing = inside / tensor + outside
        if checkpointing == "layers":  # what is kept is the stream
            return (1 / tensor if sequence == "on" else 1.0), passing
        return passing, passing

    def _share_inside(self, layer: Layer) -> float:
        """Share of what a layer keeps that lies inside sublayers which tensor parallelism divides."""
        key = (layer.stack, layer.name)
        if key not in self._inside:
            work = Work(batch=1, tokens=min(self._local, _SAMPLE), value_bytes=self._value_bytes)
            self._inside[key] = _share_inside(layer, work)
        return self._inside[key]


def _share_inside(layer: Layer, work: Work) -> float:
    stream = work.positions * layer.scope.width * work.value_bytes
    cut = whole = 0
    for name, component in layer.sublayers():
        own = component.activations(layer.scope, work).saved
        inside = 0 if stays_whole(component) else max(own - stream, 0)
        cut += inside
        whole += own - inside
        norms = layer.has_norm(name) + (layer.norm_place == "sandwich")
        whole += norms * layer.norm.activations(layer.scope, work).saved
    return cut / (cut + whole) if cut + whole else 0.0


def _computing(layer: Layer, tokens: int) -> Computing:
    cut = whole = 0
    for name, component in layer.sublayers():
        flops = component.flops(layer.scope, tokens).useful
        if stays_whole(component):
            whole += flops
        else:
            copied = _copied(layer, name) * tokens
            cut += flops - copied
            whole += copied
    return Computing(cut=cut, whole=whole)


def _copied(layer: Layer, name: str) -> int:
    """Operations for each token of the maps that every tensor-parallel rank has whole, such as routers."""
    parts = layer_parts(layer, tensor=1, expert=1)
    mine = (part for at, part in parts.items() if at.startswith(f"{name}.") and part.is_whole)
    return sum(2 * part.spec.active for part in mine if part.spec.is_linear)


# ------------------------------------------------------------------------------------------------------------ cutting


def balanced(costs: Sequence[float], stages: int, *, first: float = 0.0, last: float = 0.0) -> list[range]:
    """Where to cut a stack into stages of at least one layer each so that the most expensive costs least.

    `first` and `last` are what stands before the first layer and after the last.
    """
    assert 1 <= stages <= len(costs)
    costs = [*costs]
    costs[0] += first
    costs[-1] += last
    low, high = max(costs), sum(costs)
    for _ in range(60):
        middle = (low + high) / 2
        if len(_filled(costs, middle, stages)) <= stages:
            high = middle
        else:
            low = middle
        if high - low <= 1e-9 * high:
            break
    return _filled(costs, high * (1 + 1e-12), stages)


def _filled(costs: Sequence[float], most: float, stages: int) -> list[range]:
    """Stages filled from the front up to `most`, leaving at least one layer for each that is still to come."""
    cuts: list[range] = []
    start, total = 0, 0.0
    for index, cost in enumerate(costs):
        left = len(costs) - index
        full = index > start and (total + cost > most or left <= stages - len(cuts) - 1)
        if full:
            cuts.append(range(start, index))
            start, total = index, 0.0
        total += cost
    cuts.append(range(start, len(costs)))
    return cuts


def crossing(layers: Sequence[Layer], cuts: Sequence[range]) -> str:
    """Why a stack cannot be cut there: a layer that reads the keys or values of one in another stage; or empty."""
    stage = {index: number for number, cut in enumerate(cuts) for index in cut}
    for position, layer in enumerate(layers):
        for what, source in layer.loans():
            if stage[position] != stage[source]:
                return f"layer {position} reads the {what} of layer {source}, and a cut would part them"
    return ""
