"""What to give up where nothing meets all: the least change of each constraint, found by search, proved by a bill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError
from vitruvius.sizing.solve.billing import activation_bytes, bill, meets
from vitruvius.sizing.solve.evaluating import Evaluator, pareto, violations
from vitruvius.sizing.solve.request import settled
from vitruvius.sizing.solve.searching import hopeless, search

if TYPE_CHECKING:
    from collections.abc import Callable

    from vitruvius.sizing.solve.billing import Billed
    from vitruvius.sizing.solve.evaluating import Point
    from vitruvius.sizing.solve.request import Problem

_SHARES = (0.8, 0.6, 0.4, 0.2, 0.1, 0.03)
"""Parts of the parameters or tokens that are tried first: fewer parameters make a cache weigh more, so that what is
feasible need not be one interval."""
_STEPS = 4
"""Halvings of the interval that they leave."""
_LESS = (1.0, 0.93, 0.85, 0.7)
_TRIED = 12
"""Points that are billed for the relaxation of a limit."""
_BILLED = 3
"""Points that are billed for one number of parameters or tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One constraint changed so that something meets them all."""

    constraint: str
    """Name in `Problem`: memory_bytes, parameters, context, ..."""
    asked: float
    needed: float
    """Enough, with the witness as proof; the least that the search found."""
    witness: Billed


def relaxations(problem: Problem, evaluate: Evaluator) -> tuple[Relaxation, ...]:
    """For each constraint the least change of it alone that is enough; those for which none is are left out."""
    if "parameters" in hopeless(problem):
        return ()
    if hopeless(problem):
        evaluate = search(replace(problem, memory_bytes=None, loss=None))
        evaluate = _under(problem, evaluate)
    found = [relaxation for name in problem.limits if (relaxation := _limit(problem, name, evaluate)) is not None]
    problem = _calibrated(problem, evaluate)
    for name, change in (("parameters", _with_parameters), ("context", _with_context)):
        relaxation = _bisected(problem, name, change)
        if relaxation is not None:
            found.append(relaxation)
    return tuple(found)


def together(problem: Problem, evaluate: Evaluator) -> tuple[Relaxation, ...]:
    """Limits that are enough when all of them change, by as little as was found in all: one design proves them."""
    if "parameters" in hopeless(problem):
        return ()
    free = replace(
        problem,
        memory_bytes=None if problem.device is None else inf,
        decode_slowdown=None,
        tokens_per_second=None,
        train_flops=None,
        cost=None,
        loss=None,
    )
    shapes = {
        **evaluate.points,
        **search(free).points,
        **search(replace(problem, memory_bytes=free.memory_bytes)).points,
    }
    measured = Evaluator(free)
    points = [point for point in map(measured, shapes) if not violations(point, free)]
    points.sort(key=lambda point: (sum(violations(point, problem).values()), str(point.shape)))
    billed = (bill(point, free, "witness") for point in points[:_TRIED])
    proved = [each for each in billed if each is not None and meets(each, free)]
    if not proved:
        return ()
    witness = min(proved, key=lambda each: sum(violations(each.point, problem).values()))
    return tuple(
        Relaxation(constraint=name, asked=limit, needed=witness.point.metrics.value(name), witness=witness)
        for name, limit in problem.limits.items()
        if name in violations(witness.point, problem)
    )


def _under(problem: Problem, found: Evaluator) -> Evaluator:
    """The same shapes measured under the problem itself."""
    evaluate = Evaluator(problem)
    for shape in found.points:
        evaluate(shape)
    return evaluate


def _limit(problem: Problem, name: str, evaluate: Evaluator) -> Relaxation | None:
    """The least that one limit must become, everything else as it was asked for."""
    without: Problem = replace(problem, **{name: None})  # pyright: ignore[reportArgumentType]
    if problem.sized_by == "law" and name in {"loss", "train_flops", "cost"}:
        # The law chose the parameters by what is left out now: let it choose again.
        try:
            without = settled(replace(without, parameters=None))
        except UsageError:
            return None
        evaluate = search(without)
    elif name == "memory_bytes" and problem.device is not None:
        without = replace(problem, memory_bytes=inf)
    elif name == "loss":
        # The loss sets the tokens, so without it they follow from the budget.
        evaluate = _under(without, evaluate) if evaluate.points else search(without)
    points = [point for point in evaluate.points.values() if not violations(point, without)]
    sign = -1.0 if name == "tokens_per_second" else 1.0
    points.sort(key=lambda point: (sign * point.metrics.value(name), str(point.shape)))
    best: Relaxation | None = None
    for point in points[:_TRIED]:
        billed = bill(point, without, "witness")
        if billed is None or not meets(billed, without):
            continue
        needed = billed.point.metrics.value(name)
        if needed < inf and (best is None or sign * needed < sign * best.needed):
            asked = getattr(problem, name)
            best = Relaxation(constraint=name, asked=asked, needed=needed, witness=billed)
    return best


def _with_parameters(problem: Problem, share: float) -> Problem:
    assert problem.parameters is not None
    return replace(problem, parameters=problem.parameters * share)


def _with_context(problem: Problem, share: float) -> Problem:
    tokens = max(16, int(problem.style.context * share))
    return replace(problem, style=replace(problem.style, context=tokens))


def _bisected(problem: Problem, name: str, change: Callable[[Problem, float], Problem]) -> Relaxation | None:
    """The largest share of the parameters or tokens at which something meets everything else, as far as was tried."""
    high = 1.0
    for low in _SHARES:
        if _meeting(change(problem, low)):
            break
        high = low
    else:
        return None
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _meeting(change(problem, middle)) else (low, middle)
    # What was searched for is an estimate: where its bill says otherwise, a little less will do.
    witness = next((w for share in _LESS if (w := first_feasible(change(problem, low * share))) is not None), None)
    if witness is None:
        return None
    asked = float(problem.style.context) if name == "context" else float(problem.parameters or 0)
    needed = float(witness.architecture.context) if name == "context" else float(witness.point.metrics.parameters)
    return Relaxation(constraint=name, asked=asked, needed=needed, witness=witness)


def _calibrated(problem: Problem, evaluate: Evaluator) -> Problem:
    """The problem with activations as the bill of a point near its limits has them."""
    points = sorted(evaluate.points.values(), key=lambda point: (sum(violations(point, problem).values()), str(point)))
    for point in points[:_TRIED]:
        billed = bill(point, problem, "witness")
        if billed is not None:
            return replace(problem, activation_bytes=activation_bytes(billed, problem))
    return problem


def _meeting(problem: Problem) -> list[Point]:
    """Points that meet a problem before they are billed, the most balanced first."""
    evaluate = search(problem)
    return pareto((point for point in evaluate.points.values() if not violations(point, problem)), problem)


def first_feasible(problem: Problem) -> Billed | None:
    """Something that meets a problem, billed, or None where the search finds nothing."""
    for point in _meeting(problem)[:_BILLED]:
        billed = bill(point, problem, "witness")
        if billed is not None and meets(billed, problem):
            return billed
    return None
