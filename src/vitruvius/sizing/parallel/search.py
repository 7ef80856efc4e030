"""Training plans: which parallel degrees fit a number of devices, and which of them is fastest.

A plan's memory is counted tensor by tensor for the rank that holds most; its time is the slower of computing and
sending, with what can be known of their overlap told apart:

    computing   = operations of the slowest stage x (m + p - 1) / (peak x efficiency)
    expected    = computing + messages that are waited for + what the others take longer than computing
    at best     = the longer of computing and messages;     at worst = one after the other
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.communication import network_of
from vitruvius.sizing.parallel.degrees import Degrees, Schedule
from vitruvius.sizing.parallel.evaluate import Evaluation, Plan
from vitruvius.sizing.parallel.sharding import problems, stays_whole
from vitruvius.spec.ffn.moe import Moe
from vitruvius.spec.mixers.attention import Attention
from vitruvius.spec.mixers.differential import DifferentialAttention

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.sizing.communication import Network
    from vitruvius.sizing.hardware import Device
    from vitruvius.sizing.parallel.ranks import Zero
    from vitruvius.sizing.parallel.stages import SequenceParallel
    from vitruvius.sizing.workload import Workload
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.recomputing import Checkpointing

MOST_DEVICES = 2**20
MOST_TOKENS = 2**40
"""Of a step."""
MOST_MICRO_BATCH = 16
"""Sequences of one micro-batch up to which plans are counted."""
LEAST_OF_BATCH = 0.9
"""A plan may leave out a tenth of the batch that was asked for, where its ranks do not divide it."""
_ZEROES: tuple[Zero, ...] = (0, 1, 2, 3)
_CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "layers")
CONTEXTS = ("whole", "divided")
"""Whether sequences are divided among ranks: only where nothing fits without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Degrees that were not planned, or did not fit."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """Every arrangement that fits, the fastest first, and why others do not."""

    count: int
    sequences: int
    """Of the batch that was asked for, rounded down to whole sequences."""
    fitting: tuple[Plan, ...]
    """The best schedule of each arrangement of ranks."""
    closest: Plan | None
    """Where nothing fits: the plan that lacks least."""
    refused: tuple[Refused, ...]
    tried: int
    """Plans that were counted."""


def plans(
    graph: Graph,
    workload: Workload,
    device: Device,
    count: int,
    *,
    global_batch_tokens: int,
    network: Network | None = None,
    checkpointing: Sequence[Checkpointing] = _CHECKPOINTING,
    known: Evaluation | None = None,
) -> Plans:
    """The training plans of an architecture on `count` devices with so many tokens in a step.

    The workload's batch is not used: micro-batches are part of the plan. `known` is an evaluation of the same graph,
    workload, device and network, whose counts are used again. Raises UsageError for numbers that no plan can
    have, and for a batch of less than one sequence.
    """
    tokens = workload.context or graph.scope.context
    sequences = checked(workload, count, tokens, global_batch_tokens)
    evaluation = Evaluation(graph, workload, device, network or network_of(device)) if known is None else known
    search = Search(evaluation, count, sequences, tuple(checkpointing))
    found: list[Plan] = []
    fitting: list[Plan] = []
    for contexts in CONTEXTS:
        for degrees in search.degrees(contexts):
            found += search.planned(degrees)
        fitting = _best_of_each([plan for plan in found if plan.fits])
        if fitting:
            break
    short = min(found, key=lambda plan: plan.memory.total, default=None)
    return Plans(
        count=count,
        sequences=sequences,
        fitting=tuple(evaluation.verified(plan) for plan in fitting),
        closest=None if fitting else short,
        refused=(*search.refused, *_too_large(found, fitting)),
        tried=len(found),
    )


def any_fits(
    evaluation: Evaluation, count: int, sequences: int, *, checkpointing: Checkpointing = "layers"
) -> Plan | None:
    """Some plan that fits on `count` devices, or None: the thriftiest arrangements are asked first."""
    search = Search(evaluation, count, sequences, (checkpointing,))
    for contexts in CONTEXTS:
        arranged = sorted(search.degrees(contexts), key=lambda d: (-d.zero, -d.tensor, d.pipeline))
        for degrees in arranged:
            for plan in search.planned(degrees):
                if plan.fits:
                    return plan
    return None


def checked(workload: Workload, count: int, tokens: int, batch_tokens: int) -> int:
    """Whole sequences of the batch."""
    if workload.mode != "train":
        what = f"plans are for training all weights, and the mode is {workload.mode}"
        raise UsageError(what, fix="use --mode train; `vitruvius size` answers for adapters and inference")
    if not 1 <= count <= MOST_DEVICES:
        raise UsageError(f"count={count:,} is out of range", fix=f"use a whole number from 1 to {MOST_DEVICES:,}")
    if batch_tokens > MOST_TOKENS:
        raise UsageError(f"a batch of {batch_tokens:,} tokens is out of range", fix=f"use at most {MOST_TOKENS:,}")
    if batch_tokens < tokens:
        what = f"a batch of {batch_tokens:,} tokens is less than one sequence of {tokens:,}"
        raise UsageError(what, fix=f"use --batch-tokens {tokens} or more, or a shorter --context")
    return batch_tokens // tokens


def _best_of_each(fitting: list[Plan]) -> list[Plan]:
    """The fastest schedule of each arrangement, and the simplest of those that are equally fast."""
    best: dict[Degrees, Plan] = {}
    for plan in fitting:
        known = best.get(plan.degrees)
        if known is None or plan.rank < known.rank:
            best[plan.degrees] = plan
    return sorted(best.values(), key=lambda plan: plan.rank)


def _too_large(found: list[Plan], fitting: list[Plan]) -> Iterator[Refused]:
    """Arrangements of which no schedule fits, by how they divide what is stored."""
    fits = {plan.degrees for plan in fitting}
    least: dict[str, Plan] = {}
    for plan in found:
        if plan.degrees in fits:
            continue
        name = str(plan.degrees)
        if name not in least or plan.memory.total < least[name].memory.total:
            least[name] = plan
    for name, plan in sorted(least.items(), key=lambda item: item[1].memory.total):
        needs, has = plan.memory.total / 1e9, plan.available_bytes / 1e9
        yield Refused(what=name, why=f"needs {needs:,.1f} GB on a rank that has {has:,.1f}")


class Search:
    """The arrangements worth counting, and why others are not."""

    def __init__(
        self, evaluation: Evaluation, count: int, sequences: int, checkpointing: tuple[Checkpointing, ...]
    ) -> None:
        self._evaluation = evaluation
        self._graph, self._network, self._tokens = evaluation.graph, evaluation.network, evaluation.tokens
        self._count, self._sequences = count, sequences
        self._checkpointing = checkpointing
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> tuple[Refused, ...]:
        """Directions that are closed, each with its reason."""
        return tuple(Refused(what=what, why=why) for what, why in self._refused.items())

    def degrees(self, contexts: str) -> Iterator[Degrees]:
        """Every arrangement of the devices; with sequences divided only where nothing else fits."""
        for tensor in self._tensor():
            for pipeline in self._pipeline(self._count // tensor):
                left = self._count // tensor // pipeline
                for context in self._context(left) if contexts == "divided" else [1]:
                    data = left // context
                    for expert in self._expert(data):
                        for zero in _ZEROES if data * context > 1 else (0,):
                            yield Degrees(
                                data=data, zero=zero, tensor=tensor, pipeline=pipeline, expert=expert, context=context
                            )

    def planned(self, degrees: Degrees) -> Iterator[Plan]:
        """The schedules of an arrangement."""
        each = self._sequences // degrees.data
        if each * degrees.data < LEAST_OF_BATCH * self._sequences:
            why = f"{self._sequences:,} sequences cannot be dealt out to so many ranks; a larger --batch-tokens can"
            self._refuse(f"data {degrees.data}", why)
            return
        if each < degrees.pipeline:
            why = f"{each:,} sequences for each data rank are fewer micro-batches than stages"
            self._refuse(f"pipeline {degrees.pipeline} with data {degrees.data}", why)
            return
        batches = [n for n in range(1, MOST_MICRO_BATCH + 1) if each % n == 0 and each // n >= degrees.pipeline]
        for checkpointing in self._checkpointing:
            for sequence in self._sequence_parallel(degrees):
                for size in batches:
                    schedule = Schedule(
                        tokens=self._tokens,
                        micro_batch=size,
                        micro_batches=each // size,
                        checkpointing=checkpointing,
                        sequence_parallel=sequence,
                    )
                    plan = self._evaluation.plan(degrees, schedule)
                    if plan is None:
                        self._refuse(f"pipeline {degrees.pipeline}", "layers that read one another would be parted")
                        return
                    yield plan
                    if not plan.fits:  # a larger micro-batch takes more
                        break

    def _refuse(self, what: str, why: str) -> None:
        self._refused.setdefault(what, why)

    def _tensor(self) -> Iterator[int]:
        whole = {
            component.kind
            for layer in self._graph.every_layer()
            for _, component in layer.sublayers()
            if stays_whole(component)
        }
        for degree in _divisors(self._count):
            if degree > self._network.per_node:
                if degree <= 64:
                    why = f"tensor-parallel ranks stay in one machine, which has {self._network.per_node}"
                    self._refuse(f"tensor {degree}", why)
                continue
            reasons = list(problems(self._graph, tensor=degree))
            if self._network.per_node % degree:
                reasons.append(f"{degree} does not divide the {self._network.per_node} devices of a machine")
            if reasons:
                self._refuse(f"tensor {degree}", "; ".join(reasons[:3]))
                continue
            if degree > 1 and whole:
                self._refuse("tensor parallelism", f"leaves {', '.join(sorted(whole))} whole on each rank")
            yield degree

    def _pipeline(self, left: int) -> Iterator[int]:
        yield 1
        graph = self._graph
        reason = ""
        if graph.encoder:
            reason = "every layer of the decoder reads the encoder, so the stacks are not cut into stages"
        elif graph.architecture.streams.skips != "none" or graph.architecture.streams.embedding != "none":
            reason = "streams run past the layers, so the stack is not cut into stages"
        if reason:
            self._refuse("pipeline", reason)
            return
        for degree in _divisors(left):
            if degree > len(graph.layers):
                self._refuse(f"pipeline {degree}", f"there are {len(graph.layers)} layers")
                return
            if degree > 1:
                yield degree

    def _expert(self, data: int) -> Iterator[int]:
        yield 1
        counts = {layer.ffn.experts for layer in self._graph.every_layer() if isinstance(layer.ffn, Moe)}
        for degree in _divisors(data) if counts else ():
            bad = [experts for experts in counts if experts % degree]
            if bad and degree <= max(counts):
                self._refuse(f"experts {degree}", f"does not divide the {bad[0]} experts")
            if degree > 1 and not bad:
                yield degree

    def _context(self, left: int) -> Iterator[int]:
        passing = {
            layer.mixer.kind
            for layer in self._graph.every_layer()
            if layer.mixer is not None and not isinstance(layer.mixer, Attention | DifferentialAttention)
        }
        if passing or self._graph.encoder:
            kinds = ", ".join(sorted(passing)) or "cross-attention"
            self._refuse("context", f"{kinds}: rings are counted for plain and differential attention alone")
            return
        for degree in _divisors(left):
            if 1 < degree <= 64 and self._tokens % (2 * degree) == 0:
                yield degree

    def _sequence_parallel(self, degrees: Degrees) -> tuple[SequenceParallel, ...]:
        """Off where nothing is divided; on where experts are, since each rank sends its own tokens to them."""
        if degrees.tensor == 1:
            return ("off",)
        return ("on",) if degrees.expert > 1 else ("off", "on")


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]
