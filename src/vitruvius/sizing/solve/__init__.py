"""From constraints to architectures: shapes and layouts that meet them, with the reason for each choice.

    solution = solve(Problem(parameters=7e9, memory_bytes=80 * 2**30, decode_slowdown=2.0,
                             style=Style(context=102_400)))

Every candidate is a complete spec that was billed with what `vitruvius size` counts and meets every constraint there.
The loss comes from a scaling law, which knows sizes and tokens and no architecture: between candidates of one size it
decides nothing (`vitruvius.sizing.laws`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from vitruvius.sizing.solve.billing import Billed, bill, meets, renamed
from vitruvius.sizing.solve.evaluating import OBJECTIVES, objectives, pareto, score, violations
from vitruvius.sizing.solve.reasons import reasons
from vitruvius.sizing.solve.relaxing import Relaxation, relaxations, together
from vitruvius.sizing.solve.request import Problem, settled
from vitruvius.sizing.solve.searching import hopeless, search
from vitruvius.sizing.solve.shapes import Style
from vitruvius.units import format_count

if TYPE_CHECKING:
    from vitruvius.sizing.laws import Estimate
    from vitruvius.sizing.solve.evaluating import Evaluator, Point
    from vitruvius.sizing.solve.shapes import Shape

__all__ = ["Billed", "Candidate", "Problem", "Relaxation", "Solution", "Style", "solve"]

SCHEMA = "vitruvius.solve/1"
MOST = 8
"""Candidates that are shown."""
_MOST_BILLED = 48
_FAILURES = 4
_WORTH = 0.03
"""A share by which a point must be better than all others in some objective to be on the list for that alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One architecture that meets everything, and why it is on the list."""

    billed: Billed
    loss: Estimate
    """What the scaling law predicts at the tokens of training, with its interval."""
    best_in: tuple[str, ...]
    """Objectives in which no other candidate is better."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What was found, or what stands in the way."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    evaluations: int
    feasible: int
    """Points of the search that met every constraint before they were billed."""
    relaxations: tuple[Relaxation, ...]
    """Where nothing was found: the least change of each constraint that is enough."""
    together: tuple[Relaxation, ...] = ()
    """Where no constraint alone is to blame: changes that are enough together, with one design as proof."""
    broken: dict[str, int]
    """How many of the points that were evaluated break each constraint."""
    hopeless: tuple[str, ...] = ()
    """Constraints that no shape of that many parameters meets, so that nothing was evaluated."""

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable contract `vitruvius.solve/1`."""
        problem = self.problem
        return {
            "schema": SCHEMA,
            "asked": {
                "parameters": problem.parameters,
                "context": problem.style.context,
                "train_context": problem.training_tokens_context,
                "vocab_size": problem.style.vocab_size,
                "mode": problem.mode,
                "batch": problem.batch,
                "weights": problem.weights,
                "device": None if problem.device is None else problem.device.name,
                "count": problem.count,
                "law": problem.law.name,
                **{name: getattr(problem, name) for name in _LIMITS},
            },
            "evaluations": self.evaluations,
            "feasible": self.feasible,
            "candidates": [_candidate(candidate) for candidate in self.candidates],
            "relaxations": [_relaxed(each) for each in self.relaxations],
            "relaxed_together": [_relaxed(each) for each in self.together],
            "broken": self.broken,
            "hopeless": list(self.hopeless),
        }


_LIMITS = ("memory_bytes", "decode_slowdown", "tokens_per_second", "train_flops", "cost", "loss")


def _relaxed(each: Relaxation) -> dict[str, Any]:
    return {"constraint": each.constraint, "asked": each.asked, "needed": each.needed}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    metrics, shape = candidate.billed.point.metrics, candidate.billed.point.shape
    return {
        "name": candidate.billed.architecture.name,
        "layout": shape.layout,
        "layers": candidate.billed.architecture.layers,
        "width": shape.width,
        "depth": shape.depth,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_width": shape.head_width,
        "hidden": shape.hidden,
        "window": shape.window or None,
        "experts": shape.experts,
        "top_k": shape.top_k,
        "parameters": {"total": metrics.parameters, "active": metrics.active},
        "memory_bytes": int(metrics.memory_bytes),
        "decode": {
            "seconds_bound": metrics.step_seconds,
            "tokens_per_second_bound": metrics.tokens_per_second,
            "slowdown": metrics.decode_slowdown,
        },
        "train": {"tokens": metrics.train_tokens, "flops": metrics.train_flops, "dollars": metrics.cost},
        "loss": {"value": candidate.loss.value, "low": candidate.loss.low, "high": candidate.loss.high},
        "departure": metrics.departure,
        "best_in": list(candidate.best_in),
        "reasons": list(candidate.reasons),
    }


def solve(problem: Problem, *, most: int = MOST) -> Solution:
    """Architectures that meet every constraint of a problem, the most balanced first, at most `most` of them.

    Deterministic. Raises UsageError for numbers out of range and where nothing says how large the model is to be.
    """
    problem = settled(problem)
    evaluate = search(problem)
    points = list(evaluate.points.values())
    meeting = [point for point in points if not violations(point, problem)]
    chosen = _chosen(pareto(meeting, problem), problem, most)
    broken: dict[str, int] = {}
    for point in points:
        for name in violations(point, problem):
            broken[name] = broken.get(name, 0) + 1
    alone = () if chosen else relaxations(problem, evaluate)
    return Solution(
        problem=problem,
        candidates=_candidates(chosen, problem, evaluate),
        evaluations=evaluate.evaluations,
        feasible=len(meeting),
        relaxations=alone,
        together=() if chosen or alone else together(problem, evaluate),
        broken=broken,
        hopeless=hopeless(problem),
    )


def _chosen(front: list[Point], problem: Problem, most: int) -> list[Billed]:
    """From a front, the most balanced first: what meets everything when it is billed, no two of a kind.

    The most balanced of each layout with and without experts, then what is better in some objective than all of these.
    """
    bills: dict[Shape, Billed | None] = {}

    def billed(point: Point) -> Billed | None:
        if point.shape not in bills and len(bills) < _MOST_BILLED:
            bills[point.shape] = bill(point, problem, _name(problem))
        found = bills.get(point.shape)
        return found if found is not None and meets(found, problem) else None

    chosen: dict[Shape, Billed] = {}
    kinds: dict[tuple[str, bool], int] = {}
    for point in front:
        kind = (point.shape.layout, point.shape.experts > 1)
        # A kind of which several fail is likely to fail again.
        if kinds.get(kind, 0) >= _FAILURES or any(_kind(other) == kind for other in chosen):
            continue
        found = billed(point)
        kinds[kind] = kinds.get(kind, 0) + 1
        if found is not None:
            chosen[point.shape] = found
    for place in range(1, len(OBJECTIVES) + 1):
        for point in sorted(front, key=lambda point: objectives(point, problem)[place])[:2]:
            known = min((objectives(each.point, problem)[place] for each in chosen.values()), default=inf)
            found = billed(point) if objectives(point, problem)[place] < (1 - _WORTH) * known else None
            if found is not None:
                chosen[point.shape] = found
                break
    # Bills know more than the search did (activations), so that one may now be worse than another in everything.
    left = {point.shape for point in pareto((each.point for each in chosen.values()), problem)}
    kept = [each for each in chosen.values() if each.point.shape in left]
    return sorted(kept, key=lambda each: (score(each.point, problem), str(each.point.shape)))[:most]


def _kind(shape: Shape) -> tuple[str, bool]:
    return shape.layout, shape.experts > 1


def _candidates(chosen: list[Billed], problem: Problem, evaluate: Evaluator) -> tuple[Candidate, ...]:
    made: list[Candidate] = []
    values = [objectives(each.point, problem)[1:] for each in chosen]
    for index, each in enumerate(chosen):
        metrics = each.point.metrics
        best = [
            name
            for place, name in enumerate(OBJECTIVES)
            if len(chosen) > 1
            and values[index][place] == min(row[place] for row in values)
            and len({row[place] for row in values}) > 1
        ]
        made.append(
            Candidate(
                billed=renamed(each, f"{each.architecture.name}-{index + 1}"),
                loss=problem.law.loss(metrics.active, metrics.train_tokens),
                best_in=tuple(best),
                reasons=reasons(each, problem, evaluate),
            )
        )
    return tuple(made)


def _name(problem: Problem) -> str:
    size = format_count(float(f"{problem.parameters or 0:.3g}")).replace(" ", "").lower()
    number, unit = size[:-1], size[-1]
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"solved-{number}{unit}"
