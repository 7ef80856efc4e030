"""What `solve` found, for reading: a table of candidates with the reasons for each, or what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.report.tables import columns
from vitruvius.units import format_binary_bytes, format_bytes, format_count, format_money

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vitruvius.sizing.solve import Candidate, Relaxation, Solution
    from vitruvius.sizing.solve.request import Problem

_OBJECTIVES = {
    "memory_bytes": "least memory",
    "step_seconds": "fastest decoding",
    "train_flops": "cheapest to train",
    "loss": "lowest predicted loss",
    "departure": "nearest to common practice",
}


def solution_text(solution: Solution) -> str:
    """The request, then the candidates and what the loss is worth; or the relaxations."""
    parts = [list(_head(solution))]
    if solution.candidates:
        parts += [list(_table(solution)), *(list(_reasons(each)) for each in solution.candidates)]
        parts.append(list(_law(solution)))
    else:
        parts.append(list(_blocked(solution)))
    return "\n\n".join("\n".join(part) for part in parts)


def _head(solution: Solution) -> Iterator[str]:
    problem = solution.problem
    where = "" if problem.device is None else f" on {problem.count} x {problem.device.name}"
    yield f"asked: {', '.join(_asked(problem))}{where}"
    yield (
        f"{solution.evaluations:,} shapes evaluated, {solution.feasible:,} meet every constraint before activations "
        f"are counted; {len(solution.candidates)} shown, each billed as `vitruvius size` does"
    )


def _asked(problem: Problem) -> Iterator[str]:
    yield f"{format_count(problem.parameters or 0)} parameters within 5 %"
    yield f"{problem.style.context:,} tokens"
    for name, limit in problem.limits.items():
        yield f"{_NAMES[name]} {_LEAST.get(name, 'at most')} {_FORMATS[name](limit)}"


_NAMES = {
    "memory_bytes": "memory",
    "decode_slowdown": "slowdown of decoding",
    "tokens_per_second": "decoding",
    "train_flops": "training",
    "cost": "training",
    "loss": "predicted loss",
    "parameters": "parameters",
    "context": "context",
}
_WHY_HOPELESS = {
    "memory_bytes": "the weights (or what training keeps of them) alone take more, whatever the layout",
    "parameters": "the tables of the vocabulary alone have more; lower --vocab",
    "loss": "the law predicts more for that many parameters, however many tokens they are trained on",
}
_LEAST = {"tokens_per_second": "at least"}
_FORMATS: dict[str, Callable[[float], str]] = {
    "memory_bytes": lambda value: f"{format_bytes(value)} ({format_binary_bytes(value)})",
    "decode_slowdown": lambda value: f"{value:.4g}x",
    "tokens_per_second": lambda value: f"{value:.4g} tokens/s",
    "train_flops": lambda value: f"{value:.3g} FLOP",
    "cost": format_money,
    "loss": lambda value: f"{value:.4g} nats a token",
    "parameters": format_count,
    "context": lambda value: f"{int(value):,} tokens",
}


def _table(solution: Solution) -> Iterator[str]:
    money = any(each.billed.point.metrics.cost is not None for each in solution.candidates)
    head: tuple[str, ...] = (
        "",
        "layout",
        "width",
        "layers",
        "heads",
        "inner",
        "parameters",
        "memory",
        "ms/token",
        "slowdown",
    )
    rows: list[tuple[str, ...]] = [(*head, "training", *(("price",) if money else ()), "loss (80 %)")]
    for number, candidate in enumerate(solution.candidates, start=1):
        shape, metrics = candidate.billed.point.shape, candidate.billed.point.metrics
        inner = f"{shape.hidden:,}" if shape.experts == 1 else f"{shape.experts}x{shape.hidden:,}"
        sizes = format_count(metrics.parameters)
        if metrics.active != metrics.parameters:
            sizes = f"{sizes} ({format_count(metrics.active)})"
        rows.append(
            (
                str(number),
                shape.layout + (f" of {shape.window:,}" if shape.window else ""),
                f"{shape.width:,}",
                str(shape.depth),
                f"{shape.heads}:{shape.kv_heads}",
                inner,
                sizes,
                format_bytes(metrics.memory_bytes),
                f"{metrics.step_seconds * 1000:.3g}",
                f"{metrics.decode_slowdown:.3g}x",
                f"{metrics.train_flops:.3g} FLOP",
                *(("?" if metrics.cost is None else format_money(metrics.cost),) if money else ()),
                f"{candidate.loss.value:.3f} ({candidate.loss.low:.3f}-{candidate.loss.high:.3f})",
            )
        )
    yield from columns(rows, align="<<" + ">" * (len(rows[0]) - 2))


def _reasons(candidate: Candidate) -> Iterator[str]:
    best = ", ".join(_OBJECTIVES[name] for name in candidate.best_in)
    yield f"{candidate.billed.architecture.name}{f': {best}' if best else ''}"
    yield from (f"  {line}" for line in candidate.reasons)


def _law(solution: Solution) -> Iterator[str]:
    problem = solution.problem
    tokens = problem.training_tokens_context
    yield (
        f"memory: {problem.mode}, batch {problem.batch}, {problem.weights}; ms/token: a decode step at the full "
        f"context, at 100 % of the bandwidth{'' if problem.device else ' of an H100, as no device was named'}"
    )
    yield f"training: at {tokens:,} tokens a sequence, on {_tokens(problem)}"
    yield (
        f"loss: the law {problem.law.name}, by active parameters and tokens, with 80 % of the uncertainty of its fit; "
        "it knows no architecture and no data, so it tells sizes apart and not layouts"
    )
    if not all(problem.law.covers(each.billed.point.metrics.active) for each in solution.candidates):
        low, high = (format_count(bound) for bound in problem.law.fitted)
        yield f"the law was fitted to models of {low} to {high} parameters: beyond them it is a guess, interval and all"


def _tokens(problem: Problem) -> str:
    if problem.loss is not None:
        return "as many tokens as the loss needs"
    if problem.flops_budget is not None:
        return "as many tokens as the budget buys"
    return "as many tokens as make the active parameters the best use of their FLOPs"


def _blocked(solution: Solution) -> Iterator[str]:
    yield "nothing meets every constraint"
    for name in solution.hopeless:
        yield f"  {_NAMES[name]}: {_WHY_HOPELESS[name]}"
    if solution.broken:
        total = solution.evaluations
        for name, count in sorted(solution.broken.items(), key=lambda pair: -pair[1]):
            yield f"  {_NAMES[name]}: {count:,} of {total:,} shapes break it"
    if solution.together:
        yield "no change of one of them alone is enough; these are, together, with one design that proves it:"
        yield from columns([_relaxation(each) for each in solution.together], align="<<<")
        return
    if not solution.relaxations:
        if "parameters" not in solution.hopeless:
            yield _NO_STACK
        return
    yield "any one of these changes is enough, with a design that proves it:"
    yield from columns([_relaxation(each) for each in solution.relaxations], align="<<<")


_NO_STACK = (
    "  no sensible stack of layers has that many parameters with this vocabulary; change --vocab or --parameters"
)


def _relaxation(each: Relaxation) -> tuple[str, str, str]:
    show = _FORMATS[each.constraint]
    shape = each.witness.point.shape
    change = f"{_NAMES[each.constraint]}: {show(each.needed)} and not {show(each.asked)}"
    times = each.needed / each.asked if each.asked else 0.0
    return (
        f"  {change}",
        f"{times:.3g} times",
        f"{shape.layout}, width {shape.width:,}, {shape.depth} layers, {shape.heads}:{shape.kv_heads} heads",
    )
