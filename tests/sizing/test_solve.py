"""Solving: what is returned meets every constraint on the bill, and what is refused says what would do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing import size
from vitruvius.sizing.fit import fit
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.solve import Problem, Style, solve
from vitruvius.sizing.solve.billing import workload_of
from vitruvius.sizing.solve.costing import cost_of, step_parameters
from vitruvius.sizing.solve.evaluating import Evaluator, pareto, score, violations
from vitruvius.sizing.solve.grid import grid_search
from vitruvius.sizing.solve.request import SHORT, TOLERANCE, settled
from vitruvius.sizing.solve.searching import hopeless, search
from vitruvius.sizing.solve.shapes import LAYOUTS, Shape, architecture_of, theta_for
from vitruvius.sizing.solve.styles import style_of
from vitruvius.sizing.speed import speed_of
from vitruvius.sizing.traffic import decode_traffic
from vitruvius.sizing.workload import Workload
from vitruvius.spec import ensure, findings, preset, read_text, to_yaml
from vitruvius.spec.heads import LanguageModelHead
from vitruvius.spec.positions.rope import RotaryPosition

LONG = Style(context=102_400)
CASES = {
    "the document's": Problem(style=LONG, parameters=7e9, memory_bytes=80 * 2**30, decode_slowdown=2.0),
    "tight": Problem(style=LONG, parameters=7e9, memory_bytes=20 * 2**30, decode_slowdown=1.2),
    "a device": Problem(parameters=3e9, device=device_named("rtx-3060-12gb"), experts=(1,), tokens_per_second=45.0),
    "a budget": Problem(train_flops=1e21, device=device_named("rtx-4090"), style=Style(context=4096)),
    "a loss and dollars": Problem(loss=2.5, cost=1000.0, device=device_named("h100-80gb")),
    "experts": Problem(parameters=2e9, experts=(16,), style=Style(context=8192, vocab_size=50_304)),
    "training": Problem(parameters=4e8, mode="train", batch=2, memory_bytes=14e9, style=Style(context=2048)),
    "a small one": Problem(parameters=3e7, style=Style(context=1024, vocab_size=8192)),
}


@cache
def solved(name):
    """A case, solved once."""
    return solve(CASES[name])


# ----------------------------------------------------------------------------------------------------------------------
# What a shape costs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("experts", [1, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_the_quick_cost_of_a_shape_is_the_bill_of_its_architecture(layout, experts, tied) -> None:
    style = Style(context=16_384, vocab_size=5000, head=LanguageModelHead(tied=tied))
    shape = Shape(
        layout=layout,
        width=512,
        depth=2 * LAYOUTS[layout].period,
        head_width=64,
        kv_heads=8 if layout == "latent" else 2,
        hidden=704,
        window=1024,
        experts=experts,
        top_k=min(2, experts),
    )
    problem = Problem(parameters=1e9, style=style)
    evaluate = Evaluator(problem)
    cost, metrics = cost_of(shape, evaluate.setting), evaluate(shape).metrics
    architecture = architecture_of(shape, style, "one")
    graph, bill = ensure(architecture), size(architecture)
    assert cost.parameters == bill.parameters.total
    assert cost.active == bill.parameters.active
    assert cost.cache_bytes == bill.kv_cache_bytes + bill.state_bytes
    assert cost.train_flops == pytest.approx(3 * graph.flops(8192).useful / 8192)
    traffic = decode_traffic(graph, Workload(context=16_384))
    assert cost.read_bytes == traffic.kv_read + traffic.kv_written + traffic.state
    assert 2 * step_parameters(cost, shape, 1) == pytest.approx(traffic.weights, rel=1e-6)
    memory = memory_of(graph, workload_of(problem))
    assert metrics.memory_bytes == memory.weights + memory.kv_cache + memory.state
    assert metrics.memory_bytes <= memory.total


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_makes_a_valid_spec_that_reads_back(layout) -> None:
    shape = Shape(
        layout=layout, width=256, depth=LAYOUTS[layout].period, head_width=32, kv_heads=2, hidden=512, window=64
    )
    architecture = architecture_of(shape, Style(context=512, vocab_size=1000), "one")
    assert [f for f in findings(architecture) if f.severity != "note"] == []
    assert read_text(to_yaml(architecture)).architecture == architecture


@pytest.mark.parametrize(("width", "farthest"), [(64, 1024), (128, 4096), (128, 102_400), (32, 8192)])
def test_the_rotary_base_is_the_least_usual_one_that_prefers_near_keys(width, farthest) -> None:
    theta = theta_for(width, farthest)
    assert RotaryPosition(theta=theta).first_negative(width, farthest) is None
    assert theta == 1e4 or RotaryPosition(theta=1e4).first_negative(width, farthest) is not None


# ----------------------------------------------------------------------------------------------------------------------
# What is found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_candidates_meet_every_constraint_as_size_counts(name) -> None:
    solution = solved(name)
    problem = solution.problem
    assert solution.candidates and not solution.relaxations
    for candidate in solution.candidates:
        architecture = candidate.billed.architecture
        graph = ensure(architecture)
        assert read_text(to_yaml(architecture)).architecture == architecture
        total = size(architecture).parameters.total
        assert abs(total / problem.parameters - 1) <= TOLERANCE + 1e-9
        memory = memory_of(graph, workload_of(problem)).total
        assert problem.memory_bytes is None or memory <= problem.memory_bytes
        assert candidate.billed.point.metrics.memory_bytes == memory
        if problem.device is not None:
            assert fit(architecture, workload_of(problem), problem.device, problem.count).fits
        _assert_fast_enough(graph, problem)
        metrics = candidate.billed.point.metrics
        if problem.loss is not None:
            assert candidate.loss.value <= problem.loss + 1e-9
            assert metrics.cost <= problem.cost
        if problem.train_flops is not None:
            assert metrics.train_flops <= problem.train_flops * (1 + 1e-9)
        assert candidate.loss.low <= candidate.loss.value <= candidate.loss.high


def _assert_fast_enough(graph, problem) -> None:
    device = problem.device or device_named("h100-80gb")

    def seconds(tokens):
        workload = Workload(context=tokens, batch=problem.batch, weights=problem.weights)
        return speed_of(graph, workload, device, problem.count).decode_seconds

    full = seconds(problem.style.context)
    if problem.decode_slowdown is not None:
        assert full / seconds(min(SHORT, problem.style.context)) <= problem.decode_slowdown * (1 + 1e-9)
    if problem.tokens_per_second is not None:
        assert problem.batch / full >= problem.tokens_per_second * (1 - 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_each_choice_has_its_reason_with_a_number(name) -> None:
    for candidate in solved(name).candidates:
        text = "\n".join(candidate.reasons)
        for word in ("layout ", "width ", "heads of ", "inner width" if "experts" not in text else "experts of"):
            assert word in text
        assert all(any(character.isdigit() for character in line) for line in candidate.reasons)


def test_the_document_s_question_has_full_windowed_linear_and_latent_answers() -> None:
    layouts = {each.billed.point.shape.layout for each in solved("the document's").candidates}
    assert {"full", "latent", "longcontext", "linear-3:1"} <= layouts
    full = next(c for c in solved("the document's").candidates if c.billed.point.shape.layout == "full")
    assert full.billed.point.metrics.decode_slowdown < 2


@pytest.mark.slow
def test_no_candidate_is_worse_than_another_in_everything() -> None:
    for name in CASES:
        solution = solved(name)
        points = [candidate.billed.point for candidate in solution.candidates]
        assert len(pareto(points, solution.problem)) == len({point.shape for point in points})


def test_the_same_question_has_the_same_answer() -> None:
    again = solve(CASES["tight"])
    assert [c.billed.architecture for c in again.candidates] == [
        c.billed.architecture for c in solved("tight").candidates
    ]
    assert again.to_dict() == solved("tight").to_dict()


def test_without_parameters_the_law_splits_the_budget() -> None:
    problem = settled(CASES["a budget"])
    assert problem.sized_by == "law"
    assert problem.parameters == pytest.approx(problem.law.split(1e21)[0])


def test_a_style_is_kept() -> None:
    gemma = preset("gemma-2-2b")
    solution = solve(Problem(parameters=1e9, style=style_of(gemma, context=4096), experts=(1,)), most=3)
    for candidate in solution.candidates:
        made = candidate.billed.architecture
        assert (made.norm, made.head, made.embedding, made.vocab_size) == (
            *(gemma.norm, gemma.head, gemma.embedding, gemma.vocab_size),
        )
        assert {block.ffn.kind for block in made.blocks.values()} == {"geglu"}
    with pytest.raises(UsageError, match="no decoder"):
        style_of(preset("seq2seq-small"))


# ----------------------------------------------------------------------------------------------------------------------
# Against a plain grid


@pytest.mark.parametrize("name", ["the document's", "tight", "a device", "a budget", "a loss and dollars"])
def test_a_plain_grid_of_as_many_evaluations_is_never_better(name) -> None:
    problem = settled(CASES[name])
    ours = search(problem)
    grid = grid_search(problem, ours.evaluations)
    assert grid.evaluations == ours.evaluations
    meeting = [[p for p in found.points.values() if not violations(p, problem)] for found in (ours, grid)]
    assert len(meeting[0]) > 3 * len(meeting[1])
    best = [min(score(point, problem) for point in points) for points in meeting if points]
    assert len(best) == 1 or best[0] <= best[1]


# ----------------------------------------------------------------------------------------------------------------------
# Where nothing is found

IMPOSSIBLE = {
    "memory": Problem(style=LONG, parameters=7e9, memory_bytes=13.4e9, decode_slowdown=1.1, experts=(1,)),
    "weights alone": Problem(parameters=70e9, memory_bytes=24e9, experts=(1,), layouts=("full", "sliding-3:1")),
    "slowdown": Problem(
        style=LONG, parameters=1e9, decode_slowdown=1.05, experts=(1,), layouts=("full", "sliding-1:1")
    ),
    "speed": Problem(parameters=7e9, device=device_named("rtx-3090"), tokens_per_second=100.0, experts=(1,)),
    "loss": Problem(parameters=1e9, loss=1.9, experts=(1,), layouts=("full",)),
    "budget": Problem(parameters=3e9, loss=2.3, train_flops=1e20, experts=(1,), layouts=("full", "linear-3:1")),
}


@cache
def refused(name):
    """An impossible request, answered once."""
    return solve(IMPOSSIBLE[name])


SLOW = {"memory"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in IMPOSSIBLE]
)
def test_every_relaxation_is_enough_by_itself(name) -> None:
    solution = refused(name)
    assert not solution.candidates
    assert solution.relaxations
    for relaxation in solution.relaxations:
        relaxed = _with(solution.problem, relaxation.constraint, relaxation.needed)
        witness = relaxation.witness
        ensure(witness.architecture)
        assert not violations(witness.point, relaxed), relaxation.constraint
        assert memory_of(ensure(witness.architecture), workload_of(relaxed)).total <= (
            relaxed.memory_bytes or float("inf")
        )
        tighter = relaxation.needed > relaxation.asked
        assert tighter == (relaxation.constraint in {"memory_bytes", "decode_slowdown", "train_flops", "cost", "loss"})


@pytest.mark.slow
def test_where_no_one_change_is_enough_several_are_together() -> None:
    problem = Problem(parameters=7e9, memory_bytes=12.0 * 2**30, decode_slowdown=1.001, style=Style(context=102_400))
    solution = solve(problem)
    assert not solution.candidates and not solution.relaxations
    assert {each.constraint for each in solution.together} == {"memory_bytes", "decode_slowdown"}
    (witness,) = {each.witness.architecture.name: each.witness for each in solution.together}.values()
    relaxed = solution.problem
    for each in solution.together:
        assert each.needed > each.asked
        relaxed = _with(relaxed, each.constraint, each.needed)
    assert not violations(witness.point, relaxed)
    assert memory_of(ensure(witness.architecture), workload_of(relaxed)).total <= relaxed.memory_bytes


def _with(problem, name, needed):
    if name == "context":
        return replace(problem, style=replace(problem.style, context=int(needed)))
    return replace(problem, **{name: needed * (1 + 1e-9) if name != "tokens_per_second" else needed * (1 - 1e-9)})


@pytest.mark.slow
def test_what_blocks_is_named() -> None:
    assert refused("weights alone").hopeless == ("memory_bytes",)
    assert refused("loss").hopeless == ("loss",)
    assert refused("slowdown").hopeless == ()
    assert refused("slowdown").broken["decode_slowdown"] == refused("slowdown").evaluations
    assert "tokens_per_second" in {each.constraint for each in refused("speed").relaxations}
    assert {"memory_bytes", "parameters"} <= {each.constraint for each in refused("weights alone").relaxations}
    assert {"loss", "train_flops"} <= {each.constraint for each in refused("budget").relaxations}


@pytest.mark.slow
def test_much_less_than_a_relaxation_is_not_enough() -> None:
    (relaxation,) = [each for each in refused("memory").relaxations if each.constraint == "memory_bytes"]
    assert not solve(replace(IMPOSSIBLE["memory"], memory_bytes=relaxation.needed * 0.95)).candidates


def test_hopeless_is_exact_at_its_bound() -> None:
    problem = Problem(parameters=1e9, memory_bytes=2e9 / (1 + TOLERANCE))
    assert hopeless(problem) == ()
    assert hopeless(replace(problem, memory_bytes=problem.memory_bytes * 0.999)) == ("memory_bytes",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameters": None}, "nothing says how large"),
        ({"parameters": 10}, "out of range"),
        ({"parameters": float("nan")}, "out of range"),
        ({"memory_bytes": -1.0}, "out of range"),
        ({"decode_slowdown": 0.5}, "out of range"),
        ({"tokens_per_second": 50.0}, "needs to know the hardware"),
        ({"cost": 100.0}, "needs to know the hardware"),
        ({"parameters": None, "loss": 1.5}, "irreducible"),
        ({"experts": (0,)}, "0 experts"),
        ({"batch": 0}, "counted from 1"),
        ({"style": Style(vocab_size=3)}, "vocabulary of 3"),
        ({"style": Style(context=2)}, "context of 2"),
    ],
)
def test_requests_that_make_no_sense_are_refused_with_a_way_out(changes, says) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        solve(replace(Problem(parameters=1e9), **changes))
    assert raised.value.fix
