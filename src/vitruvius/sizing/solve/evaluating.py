"""Shapes with everything that is asked of them, and how they stand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, log, log2
from typing import TYPE_CHECKING

from vitruvius.sizing.formats import FORMATS, weight_format
from vitruvius.sizing.memory import bytes_per_value
from vitruvius.sizing.solve.costing import Cost, Setting, cost_of, step_parameters
from vitruvius.sizing.solve.request import SHORT, TOLERANCE
from vitruvius.sizing.solve.shapes import LAYOUTS, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vitruvius.sizing.solve.request import Problem

NOMINAL_BANDWIDTH = 3.35e12
"""Bytes per second of an H100, where no device is named: slowdowns and comparisons do not depend on it."""
_TRAIN_BYTES = 16
"""Of each parameter while training: weight, gradient, fp32 master and AdamW's two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a shape comes to under a problem; bounds and lower bounds are what the search may prune by."""

    parameters: int
    active: int
    memory_bytes: float
    """Weights and decode state (or training's states): a lower bound until it is billed with activations."""
    step_seconds: float
    """Of a decode step at the full context, at 100 % of the bandwidth."""
    decode_slowdown: float
    tokens_per_second: float
    train_tokens: float
    train_flops: float
    cost: float | None
    loss: float
    departure: float
    """How far it is from what published models do; 0 is common practice."""

    def value(self, name: str) -> float:
        """A constraint's number; infinity where it is not known."""
        found = getattr(self, name)
        return inf if found is None else float(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A shape and its metrics."""

    shape: Shape
    metrics: Metrics


class Evaluator:
    """Evaluates shapes of one problem, each once, and counts how many."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.setting = Setting(
            style=problem.style,
            short=SHORT,
            train_context=problem.training_tokens_context,
            dtype=weight_format(problem.weights).rest,
        )
        self.points: dict[Shape, Point] = {}

    @property
    def evaluations(self) -> int:
        """Shapes evaluated."""
        return len(self.points)

    def __call__(self, shape: Shape) -> Point:
        """The point of a shape."""
        if shape not in self.points:
            self.points[shape] = Point(shape=shape, metrics=self._metrics(shape))
        return self.points[shape]

    def _metrics(self, shape: Shape) -> Metrics:
        problem, cost = self.problem, cost_of(shape, self.setting)
        weight_bytes = bytes_per_parameter(problem.weights)
        memory = cost.parameters * weight_bytes + problem.batch * cost.cache_bytes
        tokens = problem.style.context
        if problem.mode == "train":
            memory, tokens = _TRAIN_BYTES * cost.parameters, problem.training_tokens_context
        memory += problem.activation_bytes * problem.batch * tokens * shape.width
        bandwidth = (problem.device.bandwidth if problem.device else NOMINAL_BANDWIDTH) * problem.count
        weights = step_parameters(cost, shape, problem.batch) * weight_bytes
        full = (weights + problem.batch * cost.read_bytes) / bandwidth
        short = (weights + problem.batch * cost.short_read_bytes) / bandwidth
        tokens = self._tokens(cost)
        flops = tokens * cost.train_flops
        per_flop = problem.dollars_per_flop
        return Metrics(
            parameters=cost.parameters,
            active=cost.active,
            memory_bytes=memory,
            step_seconds=full,
            decode_slowdown=full / short,
            tokens_per_second=problem.batch / full,
            train_tokens=tokens,
            train_flops=flops,
            cost=None if per_flop is None else flops * per_flop,
            loss=inf if tokens == inf else problem.law.loss_at(cost.active, tokens),
            departure=departure(shape, cost.parameters),
        )

    def _tokens(self, cost: Cost) -> float:
        """Tokens of training: what the loss needs, else what the budget allows, else the law's best for the size."""
        problem = self.problem
        if problem.loss is not None:
            return problem.law.tokens_for_loss(cost.active, problem.loss)
        if problem.flops_budget is not None:
            return problem.flops_budget / cost.train_flops
        return problem.law.best_tokens(cost.active)


@lru_cache(maxsize=64)
def bytes_per_parameter(weights: str) -> float:
    """Of most weights: a lower bound, since some stay in a wider format."""
    form = FORMATS[weights]
    return form.bits / 8 if form.is_quantised else float(bytes_per_value(weights))


def violations(point: Point, problem: Problem, *, but: str = "") -> dict[str, float]:
    """Constraints that a point breaks, each with the logarithm of how far it is over; `but` one of them."""
    found: dict[str, float] = {}
    wanted = problem.parameters
    if wanted is not None and but != "parameters":
        off = abs(log(point.metrics.parameters / wanted))
        if off > log(1 + TOLERANCE):
            found["parameters"] = off - log(1 + TOLERANCE)
    for name, limit in problem.limits.items():
        if name == but:
            continue
        value = point.metrics.value(name)
        over = log(limit / value) if name == "tokens_per_second" else log(value / limit) if value < inf else inf
        if over > 1e-9:
            found[name] = over
    return found


OBJECTIVES = ("memory_bytes", "step_seconds", "train_flops", "loss", "departure")
"""What is to be small; the parameters count through their distance to what was asked for."""


def objectives(point: Point, problem: Problem) -> tuple[float, ...]:
    """The numbers of a point that are to be small, rounded so that noise decides nothing."""
    metrics = point.metrics
    off = 0.0
    if problem.parameters is not None:
        off = max(0.0, abs(log(metrics.parameters / problem.parameters)) - 0.01)
    values = [off, *(metrics.value(name) for name in OBJECTIVES)]
    return tuple(float(f"{value:.3g}") for value in values)


def pareto(points: Iterable[Point], problem: Problem) -> list[Point]:
    """The points that no other beats in everything, the most balanced first."""
    rated = [(objectives(point, problem), point) for point in points]
    rated.sort(key=lambda pair: pair[0])
    front: list[tuple[tuple[float, ...], Point]] = []
    for values, point in rated:
        if not any(_dominates(other, values) for other, _ in front):
            front.append((values, point))
    return sorted((point for _, point in front), key=lambda point: (score(point, problem), str(point.shape)))


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True))


def score(point: Point, problem: Problem) -> float:
    """One number for the balance of everything: lower is better.

    Logarithms, weighed: 30 of the loss, a half each of memory and decode step, a quarter of the training, 10 of the
    parameters' distance to what was asked for; a step of departure counts 1.
    """
    metrics = point.metrics
    off = 0.0 if problem.parameters is None else abs(log(metrics.parameters / problem.parameters))
    total = 0.5 * log(metrics.memory_bytes) + 0.5 * log(metrics.step_seconds) + 10 * off + metrics.departure
    total += 0.25 * log(metrics.train_flops) if metrics.train_flops < inf else 100.0
    return total + (30 * log(metrics.loss) if metrics.loss < inf else 100.0)


# ------------------------------------------------------------------------------------------------------- departures

_WIDEST_ASPECT, _AT = 192.0, 1e9
_FEW_LAYERS = 4
_USUAL_KV_HEADS = 8


def usual_aspect(parameters: float) -> tuple[float, float]:
    """Width to depth of most published models of that size, within a factor of three.

    64 to 192 from 1 B parameters on (Llama 3.2 1B: 128, Llama 3 70B: 102), less for smaller ones, as the cube root of
    the parameters (GPT-2 small: 64, SmolLM2 135M: 19). The loss is flat over such a range (Kaplan et al., 2020).
    """
    widest = _WIDEST_ASPECT * min(1.0, parameters / _AT) ** (1 / 3)
    return widest / 3, widest


def departure(shape: Shape, parameters: float) -> float:
    """Steps away from common practice: a step is a halving of the full attention, of key heads below eight, ...

    No prediction of a loss: it says how much about a shape has to be found out.
    """
    layout = LAYOUTS[shape.layout]
    aspect = shape.width / shape.depth
    low, high = usual_aspect(parameters)
    found = max(0.0, log2(low / aspect), log2(aspect / high)) + max(0.0, log2(_FEW_LAYERS / shape.depth))
    sees_all = layout.share("full") + layout.share("latent")
    found += 0.5 * log2(1 / sees_all)
    found += 0.5 * (layout.share("linear") > 0) + 0.25 * (layout.share("latent") > 0)
    if layout.share("latent") < 1:
        found += max(0.0, log2(min(_USUAL_KV_HEADS, shape.heads) / shape.kv_heads))
    if layout.windows and shape.window < 1024:
        found += 0.5 * log2(1024 / shape.window)
    ratio = shape.hidden * shape.top_k / shape.width
    found += max(0.0, log2(2.0 / ratio), log2(ratio / 5.0))
    return found + 0.5 * (shape.experts > 1)
