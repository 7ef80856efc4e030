"""Structured search: closed forms narrow width, depth and inner width to the parameters; what is left is refined.

For each layout, number of experts, ratio of heads to key heads and window, every width has one depth at which
feed-forward networks of the usual ratio make the parameters; the inner width then closes what rounding to the layout's
period left open. What no shape of that many parameters can meet (weights beyond the memory, a loss beyond the law) is
known before anything is counted, and prunes the whole. The best points are refined by single steps.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from vitruvius.sizing.solve.costing import frame_parameters, layer_parameters
from vitruvius.sizing.solve.evaluating import Evaluator, Point, bytes_per_parameter, objectives, score, violations
from vitruvius.sizing.solve.request import TOLERANCE
from vitruvius.sizing.solve.shapes import LAYOUTS, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.solve.request import Problem

_ASPECTS = (6.0, 320.0)
"""Widths to depths that are tried."""
_RATIOS = (0.5, 2.0)
"""Inner widths that are tried, as multiples of the usual one."""
_WINDOWS = (1024, 4096)
_ROUNDS = 3
_FEWER = 1 / (1 + 0.9 * TOLERANCE)
"""Share of the parameters that is still well within the tolerance."""
_REFINED = 12
"""Points that each round of refinement starts from."""
_MOST_WIDTHS = 10
_LEAST_WIDTH = 64


def search(problem: Problem) -> Evaluator:
    """Every point that was evaluated, the pruned ones not among them."""
    evaluate = Evaluator(problem)
    assert problem.parameters is not None
    if hopeless(problem):
        return evaluate
    # The number that was asked for first; what the tolerance leaves only where nothing meets everything with it.
    for share in (1.0, _FEWER, 1 / _FEWER):
        aimed = replace(problem, parameters=problem.parameters * share)
        for shape in _starts(aimed, evaluate):
            evaluate(shape)
        for _ in range(_ROUNDS):
            before = evaluate.evaluations
            for point in _best(evaluate, problem):
                for shape in _neighbours(point.shape, aimed, evaluate):
                    evaluate(shape)
            if evaluate.evaluations == before:
                break
        if any(not violations(point, problem) for point in evaluate.points.values()):
            break
    return evaluate


def hopeless(problem: Problem) -> tuple[str, ...]:
    """The constraints that no shape of that many parameters meets, whatever its layout: exact lower bounds.

    Weights take their bytes, tables their parameters at the least width, and no model is better than the law's with all
    parameters active and endless data.
    """
    assert problem.parameters is not None
    fewest, most = problem.parameters / (1 + TOLERANCE), problem.parameters * (1 + TOLERANCE)
    found: list[str] = []
    if frame_parameters(Evaluator(problem).setting, _LEAST_WIDTH) >= most:
        found.append("parameters")
    least_bytes = fewest * (16 if problem.mode == "train" else bytes_per_parameter(problem.weights))
    if problem.memory_bytes is not None and least_bytes > problem.memory_bytes:
        found.append("memory_bytes")
    if problem.loss is not None and problem.law.tokens_for_loss(most, problem.loss) == inf:
        found.append("loss")
    return tuple(found)


def _best(evaluate: Evaluator, problem: Problem) -> list[Point]:
    """The points nearest to meeting everything, then the most balanced; the best in each objective among them."""
    points = list(evaluate.points.values())
    if not points:
        return []
    broken = {point.shape: sum(violations(point, problem).values()) for point in points}
    ranked = sorted(points, key=lambda point: (broken[point.shape], score(point, problem), str(point.shape)))
    chosen = ranked[: _REFINED // 2]
    meeting = [point for point in ranked if not broken[point.shape]]
    for place in range(len(objectives(ranked[0], problem))) if meeting else ():
        chosen.append(min(meeting, key=lambda point: (objectives(point, problem)[place], score(point, problem))))
    return list(dict.fromkeys(chosen))[:_REFINED]


# ------------------------------------------------------------------------------------------------------- narrowing


def _starts(problem: Problem, evaluate: Evaluator) -> Iterator[Shape]:
    for layout in problem.layouts:
        for experts in problem.experts:
            for base in _bases(layout, experts, problem):
                yield from _fitting(base, problem, evaluate)


def _bases(layout: str, experts: int, problem: Problem) -> Iterator[Shape]:
    """One shape for each choice that is no width: its other dimensions are to be filled in."""
    context = problem.style.context
    windows = (0,)
    if LAYOUTS[layout].windows:
        windows = tuple(sorted({min(window, max(16, context // 4)) for window in _WINDOWS}))
        if layout == "longcontext":
            windows = windows[-1:]
    top_k = 1 if experts == 1 else min(experts, 2 if experts <= 16 else 8)
    for window in windows:
        for each in (1, 4, 8):
            if LAYOUTS[layout].share("latent") == 1 and each > 1:
                continue
            # `kv_heads` holds the ratio until the width is known.
            yield Shape(
                layout=layout,
                width=0,
                depth=0,
                head_width=128,
                kv_heads=each,
                hidden=0,
                window=window,
                experts=experts,
                top_k=top_k,
            )


def _fitting(base: Shape, problem: Problem, evaluate: Evaluator) -> Iterator[Shape]:
    """The base at every width whose depth for the parameters makes a sensible stack."""
    found: list[Shape] = []
    for width in _widths(problem):
        each, head_width = base.kv_heads, _head_width(width)
        heads = width // head_width
        if heads % each or (each > 1 and heads // each < 1):
            continue
        shape = replace(base, width=width, head_width=head_width, kv_heads=heads // each)
        shape = closed(shape, problem, evaluate)
        if shape is not None:
            found.append(shape)
    step = max(1, -(-len(found) // _MOST_WIDTHS))
    yield from found[::step]


def _widths(problem: Problem) -> list[int]:
    """Multiples of 128 (of 64 below 1,024, of 512 above 8,192) up to what the parameters allow."""
    assert problem.parameters is not None
    most = int(min(problem.parameters**0.5, 65_536))
    small, usual, large = range(_LEAST_WIDTH, 1024, 64), range(1024, 8192, 128), range(8192, 65_537, 512)
    return [width for width in (*small, *usual, *large) if width <= most]


def _head_width(width: int) -> int:
    return 128 if width >= 2048 else 64 if width >= 256 else 32


def closed(shape: Shape, problem: Problem, evaluate: Evaluator, *, depth: int | None = None) -> Shape | None:
    """The shape with the depth and the inner width that make the parameters, or None where they make no model."""
    assert problem.parameters is not None
    setting, style = evaluate.setting, problem.style
    layout = LAYOUTS[shape.layout]
    left = problem.parameters - frame_parameters(setting, shape.width)
    usual = shape.width * style.usual_ratio / (shape.top_k if shape.experts > 1 else 1)
    if shape.experts > 1 and shape.top_k == 2:
        usual *= 2  # coarse experts are as wide as dense networks; fine-grained ones share that width
    if depth is None:
        wanted = left / layer_parameters(shape, setting, round(usual))
        depth = max(1, round(wanted / layout.period)) * layout.period
    if not _ASPECTS[0] <= shape.width / depth <= _ASPECTS[1]:
        return None
    rest = left / depth - layer_parameters(shape, setting, 0)
    step = 128 if usual >= 1024 else 32 if usual >= 256 else 8
    hidden = round(rest / (style.maps * shape.width * shape.experts) / step) * step
    if not _RATIOS[0] * usual <= hidden <= _RATIOS[1] * usual:
        return None
    return replace(shape, depth=depth, hidden=hidden)


# ------------------------------------------------------------------------------------------------------- refinement


def _neighbours(shape: Shape, problem: Problem, evaluate: Evaluator) -> Iterator[Shape]:
    """Single steps in every dimension, each with the inner width that makes the parameters again."""
    layout = LAYOUTS[shape.layout]
    step = 64 if shape.width < 1024 else 128
    unit = shape.head_width * (shape.heads // shape.kv_heads)
    changed = [
        replace(shape, width=width, kv_heads=width // unit)
        for width in (shape.width - step, shape.width + step)
        if width >= step and width % unit == 0
    ]
    if layout.share("latent") < 1:
        groups = (shape.kv_heads // 2, shape.kv_heads * 2)
        changed += [replace(shape, kv_heads=g) for g in groups if g >= 1 and shape.heads % g == 0]
    if shape.window:
        windows = (shape.window // 2, shape.window * 2)
        changed += [replace(shape, window=w) for w in windows if 128 <= w <= problem.style.context // 2]
    depths = (shape.depth - layout.period, shape.depth, shape.depth + layout.period)
    for candidate in (shape, *changed):
        for depth in depths:
            if depth >= layout.period:
                made = closed(candidate, problem, evaluate, depth=depth)
                if made is not None:
                    yield made
