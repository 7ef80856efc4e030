"""The baseline that the structured search is held against: a plain grid of the same number of evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.sizing.solve.evaluating import Evaluator
from vitruvius.sizing.solve.shapes import LAYOUTS, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.sizing.solve.request import Problem

_WIDTHS = range(512, 8193, 512)
_DEPTHS = range(8, 97, 8)
_RATIOS = (8 / 3, 7 / 2, 4.0)
_HEADS_TO_A_GROUP = (1, 4, 8)
_WINDOWS = (1024, 4096)


def grid_search(problem: Problem, evaluations: int) -> Evaluator:
    """Evenly spread points of a grid over layouts, experts, widths, depths, inner widths, key heads and windows.

    The same dimensions and steps that people try by hand; nothing is fitted to the parameters that are asked for.
    """
    evaluate = Evaluator(problem)
    points = list(_grid(problem))
    step = max(1.0, len(points) / evaluations)
    for index in range(min(evaluations, len(points))):
        evaluate(points[int(index * step)])
    return evaluate


def _grid(problem: Problem) -> Iterator[Shape]:
    style = problem.style
    for layout in problem.layouts:
        kind = LAYOUTS[layout]
        for experts in problem.experts:
            for width in _WIDTHS:
                for depth in _DEPTHS:
                    if depth % kind.period == 0:
                        for ratio in _RATIOS:
                            for each in (1,) if kind.share("latent") else _HEADS_TO_A_GROUP:
                                windows = _WINDOWS if kind.windows else (0,)
                                for window in windows:
                                    yield _shape(layout, experts, width, depth, ratio, each, min(window, style.context))


def _shape(layout: str, experts: int, width: int, depth: int, ratio: float, each: int, window: int) -> Shape:
    head_width = 128 if width >= 2048 else 64
    heads = width // head_width
    top_k = 1 if experts == 1 else min(experts, 2 if experts <= 16 else 8)
    fine = 1 if experts == 1 or top_k <= 2 else top_k
    return Shape(
        layout=layout,
        width=width,
        depth=depth,
        head_width=head_width,
        kv_heads=max(1, heads // each),
        hidden=max(64, round(width * ratio / fine / 64) * 64),
        window=window,
        experts=experts,
        top_k=top_k,
    )
