"""Points become specs, and are billed again with everything that `vitruvius size` counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from vitruvius.errors import SpecError
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.parameters import count_parameters
from vitruvius.sizing.solve.evaluating import Metrics, Point, violations
from vitruvius.sizing.solve.request import SHORT
from vitruvius.sizing.solve.shapes import architecture_of
from vitruvius.sizing.speed import speed_of
from vitruvius.sizing.workload import Workload
from vitruvius.spec.rules import ensure

if TYPE_CHECKING:
    from vitruvius.sizing.memory import Memory
    from vitruvius.sizing.solve.request import Problem
    from vitruvius.spec.graph import Graph
    from vitruvius.spec.model import Architecture

NOMINAL = "h100-80gb"
"""What times are counted on where no device is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """A point as a complete, valid architecture, with the numbers of its bill."""

    architecture: Architecture
    point: Point
    """Its metrics are those of the bill."""
    memory: Memory


def bill(point: Point, problem: Problem, name: str) -> Billed | None:
    """The point billed, or None where its parts do not fit together."""
    architecture = architecture_of(point.shape, problem.style, name)
    try:
        graph = ensure(architecture)
    except SpecError:
        return None
    counts = count_parameters(graph)
    memory = memory_of(graph, workload_of(problem))
    full, short = (_step(graph, problem, tokens) for tokens in (problem.style.context, SHORT))
    train_context = problem.training_tokens_context
    per_token = 3 * graph.flops(train_context).useful / train_context
    tokens = point.metrics.train_tokens
    if problem.loss is None and problem.flops_budget is not None:
        tokens = problem.flops_budget / per_token
    flops = tokens * per_token
    per_flop = problem.dollars_per_flop
    metrics = Metrics(
        parameters=counts.total,
        active=counts.active,
        memory_bytes=float(memory.total),
        step_seconds=full,
        decode_slowdown=full / short,
        tokens_per_second=problem.batch / full,
        train_tokens=tokens,
        train_flops=flops,
        cost=None if per_flop is None else flops * per_flop,
        loss=inf if tokens == inf else problem.law.loss_at(counts.active, tokens),
        departure=point.metrics.departure,
    )
    return Billed(architecture=architecture, point=Point(shape=point.shape, metrics=metrics), memory=memory)


def workload_of(problem: Problem) -> Workload:
    """What the memory is counted for: decoding at the full context, or one micro-batch of training."""
    if problem.mode == "train":
        tokens = problem.training_tokens_context
        return Workload(context=tokens, batch=problem.batch, mode="train", checkpointing="layers")
    return Workload(context=problem.style.context, batch=problem.batch, weights=problem.weights)


def _step(graph: Graph, problem: Problem, tokens: int) -> float:
    device = problem.device or device_named(NOMINAL)
    tokens = min(tokens, problem.style.context)
    workload = Workload(context=tokens, batch=problem.batch, weights=problem.weights)
    seconds = speed_of(graph, workload, device, problem.count).decode_seconds
    assert seconds is not None
    return seconds


def activation_bytes(billed: Billed, problem: Problem) -> float:
    """What activations and the margin took in a bill, for each token of the batch and channel of the stream."""
    tokens = problem.training_tokens_context if problem.mode == "train" else problem.style.context
    extra = billed.memory.activations + billed.memory.margin
    return extra / (problem.batch * tokens * billed.point.shape.width)


def meets(billed: Billed, problem: Problem) -> bool:
    """Whether the bill meets every constraint."""
    return not violations(billed.point, problem)


def renamed(billed: Billed, name: str) -> Billed:
    """The same under another name."""
    return replace(billed, architecture=replace(billed.architecture, name=name))
