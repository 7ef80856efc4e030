"""Why a candidate is as it is: one line for each choice, with the number that decided it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitruvius.sizing.solve.costing import cost_of
from vitruvius.sizing.solve.evaluating import Evaluator, usual_aspect
from vitruvius.sizing.solve.request import SHORT
from vitruvius.sizing.solve.shapes import LAYOUTS, Shape
from vitruvius.spec.mixers.seeing import Seeing
from vitruvius.spec.positions.rope import RotaryPosition
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.solve.billing import Billed
    from vitruvius.sizing.solve.request import Problem


def reasons(billed: Billed, problem: Problem, evaluate: Evaluator) -> tuple[str, ...]:
    """A line for layout, depth and width, heads, inner width, experts and positions."""
    sources = (_layout, _depth, _heads, _inner, _positions)
    return tuple(line for source in sources for line in source(billed, problem, evaluate))


def _layout(billed: Billed, problem: Problem, evaluate: Evaluator) -> Iterator[str]:
    shape, metrics = billed.point.shape, billed.point.metrics
    layout = LAYOUTS[shape.layout]
    context = problem.style.context
    text = f"layout {billed.architecture.layers}, as in {layout.known_from}"
    if shape.layout == "full" or context <= SHORT:
        yield f"{text}: every layer sees all {context:,} tokens"
        return
    full = replace(shape, layout="full", window=0)
    heads = _usual_groups(shape.heads) if layout.share("latent") else shape.kv_heads
    plain = _compared(replace(full, kv_heads=heads), evaluate)
    cache = cost_of(shape, evaluate.setting).cache_bytes * problem.batch
    yield (
        f"{text}: a cache of {format_bytes(cache)} and not {format_bytes(plain[0])}, a decode step at {context:,} "
        f"{metrics.decode_slowdown:.3g} times one at {SHORT:,} and not {plain[1]:.3g} times, as with full attention "
        f"and {heads} key heads"
    )


def _usual_groups(heads: int) -> int:
    """The divisor nearest to eight."""
    return min((n for n in range(1, heads + 1) if heads % n == 0), key=lambda n: abs(n - 8))


def _compared(shape: Shape, evaluate: Evaluator) -> tuple[float, float]:
    """(cache bytes, slowdown) of a shape that is there for comparing only."""
    other = Evaluator(evaluate.problem)
    cost = cost_of(shape, evaluate.setting)
    return cost.cache_bytes * evaluate.problem.batch, other(shape).metrics.decode_slowdown


def _depth(billed: Billed, problem: Problem, evaluate: Evaluator) -> Iterator[str]:
    del problem, evaluate
    shape = billed.point.shape
    aspect = shape.width / shape.depth
    low, high = usual_aspect(billed.point.metrics.parameters)
    place = "within" if low <= aspect <= high else "outside"
    yield (
        f"width {shape.width:,} to {shape.depth} layers: {aspect:.0f} to one, {place} the {low:.0f} to {high:.0f} of "
        "published models of that size; the loss is flat over wide ranges (Kaplan et al., 2020, figure 5)"
    )


def _heads(billed: Billed, problem: Problem, evaluate: Evaluator) -> Iterator[str]:
    shape = billed.point.shape
    if LAYOUTS[shape.layout].share("latent"):
        width = 4 * shape.head_width + shape.head_width // 2
        yield f"{shape.heads} heads of {shape.head_width}, a latent of {width} numbers for each token and layer"
        return
    all_heads = replace(shape, kv_heads=shape.heads)
    text = f"{shape.heads} heads of {shape.head_width}, {shape.kv_heads} for keys and values"
    if shape.kv_heads == shape.heads:
        yield f"{text}: the cache leaves room for all of them"
        return
    more = cost_of(all_heads, evaluate.setting).cache_bytes * problem.batch
    less = cost_of(shape, evaluate.setting).cache_bytes * problem.batch
    yield f"{text}: a cache of {format_bytes(less)} and not {format_bytes(more)}"


def _inner(billed: Billed, problem: Problem, evaluate: Evaluator) -> Iterator[str]:
    del evaluate
    shape, metrics = billed.point.shape, billed.point.metrics
    assert problem.parameters is not None
    off = metrics.parameters / problem.parameters - 1
    if shape.experts == 1:
        ratio = shape.hidden / shape.width
        yield f"inner width {shape.hidden:,}, {ratio:.3g} times the width: it brings the parameters to {off:+.2%}"
        return
    yield (
        f"{shape.experts} experts of {shape.hidden:,}, {shape.top_k} for each token: "
        f"{format_count(metrics.active)} of {format_count(metrics.parameters)} parameters are active, which the "
        "scaling law counts and a decode step reads"
    )
    yield f"expert width: it brings the parameters to {off:+.2%}"


def _positions(billed: Billed, problem: Problem, evaluate: Evaluator) -> Iterator[str]:
    del evaluate
    found: dict[float, int] = {}
    for block in billed.architecture.blocks.values():
        mixer = block.mixer
        position = mixer.position if isinstance(mixer, Seeing) else None
        if isinstance(mixer, Seeing) and isinstance(position, RotaryPosition):
            windows = [clause.distance_high for clause in mixer.pattern().clauses]
            reach = min(problem.style.context, max(windows, default=0) + 1)
            found[position.theta] = max(found.get(position.theta, 0), reach)
    for theta, reach in sorted(found.items()):
        yield (
            f"rotary theta {theta:g}: the least usual base that prefers near keys at every distance up to {reach:,} "
            "(Men et al., 2024)"
        )
