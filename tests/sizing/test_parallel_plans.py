"""Plans: they divide what they say, agree with the bill of one device, and are refused for stated reasons."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing.communication import network_of
from vitruvius.sizing.hardware import Device, device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.money import prices_of
from vitruvius.sizing.parallel import Degrees, Plans, Schedule, plans
from vitruvius.sizing.parallel.evaluate import Evaluation, Plan
from vitruvius.sizing.parallel.quote import quote
from vitruvius.sizing.parallel.ranks import Shelf, Storing
from vitruvius.sizing.parallel.stages import balanced
from vitruvius.sizing.speed import speed_of
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, read_text, resolve

if TYPE_CHECKING:
    from vitruvius.spec.graph import Graph

TRAIN = Workload(mode="train")


@cache
def graph_of(name: str, *overrides: str) -> Graph:
    return resolve(preset(name, overrides=overrides))


@cache
def planned(name: str, device: str, count: int, batch: int, context: int | None = None) -> Plans:
    workload = replace(TRAIN, context=context)
    return plans(graph_of(name), workload, device_named(device), count, global_batch_tokens=batch)


def why(found: Plans, what: str) -> str:
    return next((refused.why for refused in found.refused if refused.what == what), "")


CASES = [
    ("llama-3-8b", "h100-80gb", 16, 2**21, 4096),
    ("llama-moe", "h100-80gb", 16, 2**20, 4096),
    ("mixtral-8x7b", "h100-80gb", 32, 2**20, 4096),
    ("jamba-like", "h200-141gb", 32, 2**20, 4096),
    ("gpt2", "rtx-4090", 6, 2**18, None),
    ("seq2seq-small", "rtx-4090", 4, 2**16, None),
    ("speedrun", "rtx-4090", 8, 2**18, None),
    ("mamba2", "rtx-4090", 4, 2**18, None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_plan_that_fits_is_one(case: tuple[str, str, int, int, int | None]) -> None:
    name, device, count, batch, _ = case
    found, layers = planned(*case), len(graph_of(name).layers)
    assert found.fitting
    for plan in found.fitting:
        d, s = plan.degrees, plan.schedule
        assert d.devices == count
        assert d.data % d.expert == 0
        assert s.micro_batches >= d.pipeline == len(plan.stages)
        assert plan.stages[0][0] == 0
        assert plan.stages[-1][1] == layers
        assert all(stop > start for start, stop in plan.stages)
        assert all(a[1] == b[0] for a, b in zip(plan.stages, plan.stages[1:], strict=False))
        assert plan.memory.total <= plan.available_bytes == device_named(device).usable_bytes
        assert 0.9 * found.sequences <= s.sequences(d) <= found.sequences <= batch
        assert plan.best_seconds * (1 - 1e-12) <= plan.step_seconds <= plan.worst_seconds * (1 + 1e-12)
        assert 0 < plan.utilisation <= device_named(device).efficiency.compute * (1 + 1e-9)
    steps = [plan.step_seconds / plan.tokens for plan in found.fitting]
    assert all(a <= b * 1.02 for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("name", ["llama-3-8b", "longcontext", "mixtral-8x7b", "gpt2", "seq2seq-small", "mamba2"])
@pytest.mark.parametrize("checkpointing", ["none", "layers"])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_one_device_takes_what_its_bill_says(name: str, checkpointing: str, micro_batches: int) -> None:
    graph, device = graph_of(name), device_named("h100-80gb")
    context = min(1024, graph.scope.context)
    workload = replace(TRAIN, context=context, checkpointing=checkpointing)
    evaluation = Evaluation(graph, workload, device, network_of(device))
    schedule = Schedule(
        tokens=context,
        micro_batch=2,
        micro_batches=micro_batches,
        checkpointing=checkpointing,  # type: ignore[arg-type]
        sequence_parallel="off",
    )
    plan = evaluation.plan(Degrees(), schedule)
    bill = memory_of(graph, replace(workload, batch=2, accumulate=micro_batches))
    assert plan is not None
    assert plan.memory.peak == pytest.approx(bill.peak, rel=1e-3)
    assert plan.memory.optimizer == bill.optimizer
    assert plan.memory.gradients == pytest.approx(bill.gradients, rel=1e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "adamw-bf16", "muon"])
def test_every_optimizer_takes_what_the_bill_says(optimizer: str) -> None:
    graph, device = graph_of("tiny-llama-moe"), device_named("rtx-4090")
    workload = replace(TRAIN, context=128, optimizer=optimizer)
    schedule = Schedule(tokens=128, micro_batch=1, micro_batches=1, checkpointing="none", sequence_parallel="off")
    plan = Evaluation(graph, workload, device, network_of(device)).plan(Degrees(), schedule)
    assert plan is not None
    assert plan.memory.optimizer == memory_of(graph, workload).optimizer


def test_one_device_is_as_fast_as_its_roofline() -> None:
    graph, device = graph_of("llama-3-8b"), device_named("h200-141gb")
    workload = replace(TRAIN, context=4096, batch=1, accumulate=4)
    schedule = Schedule(tokens=4096, micro_batch=1, micro_batches=4, checkpointing="none", sequence_parallel="off")
    plan = Evaluation(graph, workload, device, network_of(device)).plan(Degrees(), schedule)
    expected = speed_of(graph, workload, device).expected_train_step_seconds
    assert plan is not None
    assert plan.step_seconds == pytest.approx(expected, rel=0.01)


def plan_of(degrees: Degrees, schedule: Schedule, name: str = "llama-3-8b", context: int = 4096) -> Plan:
    device = device_named("h100-80gb")
    evaluation = Evaluation(graph_of(name), replace(TRAIN, context=context), device, network_of(device))
    plan = evaluation.plan(degrees, schedule)
    assert plan is not None
    return plan


def schedule_of(**changes: object) -> Schedule:
    fields = {"tokens": 4096, "micro_batch": 1, "micro_batches": 8, "checkpointing": "none", "sequence_parallel": "off"}
    return Schedule(**(fields | changes))  # type: ignore[arg-type]


def test_every_kind_of_sharding_takes_less_memory() -> None:
    totals = [plan_of(Degrees(data=8, zero=zero), schedule_of()).memory for zero in (0, 1, 2, 3)]
    stored = [m.weights + m.gradients + m.optimizer for m in totals]
    assert stored == sorted(stored, reverse=True)
    assert len(set(stored)) == 4


def test_dividing_the_sequence_saves_activations_and_sends_as_much() -> None:
    plain, divided = (
        plan_of(Degrees(tensor=4), schedule_of(sequence_parallel=way, checkpointing="layers")) for way in ("off", "on")
    )
    assert divided.memory.activations < plain.memory.activations
    sent = [sum(m.volume.total for m in plan.traffic if m.what == "activations") for plan in (plain, divided)]
    # A reduce-scatter and a gather are an all-reduce; the backward pass gathers inputs once more.
    assert sent[0] < sent[1] < 1.3 * sent[0]


def test_the_first_stage_keeps_as_many_micro_batches_as_there_are_stages() -> None:
    one = plan_of(Degrees(data=2, zero=2), schedule_of())
    four, few = (plan_of(Degrees(pipeline=4), schedule_of(micro_batches=m)) for m in (8, 4))
    # A quarter of the layers, four times: about the same activations, a quarter of the weights.
    assert 0.8 < four.memory.activations / one.memory.activations < 1.2
    assert four.memory.optimizer < 0.35 * 12 * 8_030_261_248
    assert few.memory.activations == four.memory.activations


def test_a_pipeline_waits_as_long_as_its_formula_says() -> None:
    assert schedule_of(micro_batches=8).bubble(1) == 0
    assert schedule_of(micro_batches=8).bubble(4) == pytest.approx(3 / 11)
    plain, piped = (plan_of(Degrees(pipeline=p), schedule_of(micro_batches=32)) for p in (1, 4))
    assert piped.computing_seconds * 4 / plain.computing_seconds == pytest.approx(35 / 32, rel=0.1)


def test_stages_are_cut_where_the_slowest_is_fastest() -> None:
    costs = [1.0] * 8
    assert [len(cut) for cut in balanced(costs, 4)] == [2, 2, 2, 2]
    assert [len(cut) for cut in balanced(costs, 2, last=4.0)] == [6, 2]
    assert [len(cut) for cut in balanced([9.0, 1, 1, 1], 2)] == [1, 3]
    assert [len(cut) for cut in balanced([1.0, 1, 1, 9], 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("costs", [[3, 1, 4, 1, 5, 9, 2, 6], [1, 1, 1, 1, 1, 10], [7, 1, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_no_other_cut_of_a_stack_is_better(costs: list[int], stages: int) -> None:
    from itertools import combinations

    found = balanced([float(c) for c in costs], stages)
    assert len(found) == stages
    assert [i for cut in found for i in cut] == list(range(len(costs)))

    def worst(ends: tuple[int, ...]) -> int:
        bounds = (0, *ends, len(costs))
        return max(sum(costs[a:b]) for a, b in itertools.pairwise(bounds))

    best = min(worst(ends) for ends in combinations(range(1, len(costs)), stages - 1))
    assert max(sum(costs[i] for i in cut) for cut in found) == best


# --------------------------------------------------------------------------------------------------------- refusals


def test_the_claim_of_training_longcontext_on_one_gpu_is_refused() -> None:
    found = planned("longcontext", "h100-80gb", 1, 2**20)
    assert not found.fitting
    assert found.closest is not None
    kept = found.closest.memory
    assert kept.weights + kept.optimizer == 14 * 5_802_037_248
    assert kept.total > found.closest.available_bytes


def test_heads_that_do_not_divide_close_tensor_parallelism() -> None:
    assert "heads=9 cannot be dealt out" in why(planned("smollm2-135m", "h100-80gb", 8, 2**20), "tensor 2")


def test_tensor_parallel_ranks_stay_on_one_machine() -> None:
    assert "one machine" in why(planned("llama-3-8b", "h100-80gb", 16, 2**21, 4096), "tensor 16")


def test_a_pipeline_has_no_more_stages_than_layers() -> None:
    found = planned("tiny-llama", "rtx-4090", 16, 2**20)
    assert "4 layers" in why(found, "pipeline 8")
    assert all(plan.degrees.pipeline <= 4 for plan in found.fitting)


def test_one_layer_is_planned_without_stages() -> None:
    graph = resolve(preset("tiny-llama", overrides=["layers=layer"]))
    found = plans(graph, TRAIN, device_named("rtx-4090"), 4, global_batch_tokens=2**16)
    assert found.fitting
    assert all(plan.degrees.pipeline == 1 for plan in found.fitting)


def test_decoders_that_read_an_encoder_are_not_cut() -> None:
    assert "encoder" in why(planned("seq2seq-small", "rtx-4090", 4, 2**16), "pipeline")


def test_streams_past_the_layers_are_not_cut() -> None:
    assert "streams" in why(planned("speedrun", "rtx-4090", 8, 2**18), "pipeline")


def test_layers_that_read_one_another_stay_on_one_stage() -> None:
    text = """
name: borrowing
vocab_size: 1000
width: 256
context: 128
blocks:
  own: {mixer: {kind: attention, heads: 4}, ffn: {kind: swiglu, hidden: 512}}
  borrow: {mixer: {kind: attention, heads: 4, kv_from: own}, ffn: {kind: swiglu, hidden: 512}}
layers: own borrow*7
"""
    graph = resolve(read_text(text).architecture)
    found = plans(graph, TRAIN, device_named("rtx-4090"), 2, global_batch_tokens=2**14)
    assert all(plan.degrees.pipeline == 1 for plan in found.fitting)
    assert "parted" in why(found, "pipeline 2")


def test_weights_shared_by_all_layers_are_copied_to_each_stage() -> None:
    text = """
name: shared
vocab_size: 1000
width: 256
context: 128
blocks:
  layer: {mixer: {kind: attention, heads: 4}, ffn: {kind: swiglu, hidden: 512}}
layers: layer^8
"""
    graph = resolve(read_text(text).architecture)
    device = device_named("rtx-4090")
    evaluation = Evaluation(graph, TRAIN, device, network_of(device))
    schedule = schedule_of(tokens=128)
    one, two = (evaluation.plan(Degrees(pipeline=p), schedule) for p in (1, 2))
    assert one is not None
    assert two is not None
    layer = 16 * sum(t.count for t in graph.layers[0].tensors().values())
    stored = [p.memory.weights + p.memory.gradients + p.memory.optimizer for p in (one, two)]
    assert stored[1] > layer
    assert stored[1] <= stored[0]


def test_multi_token_prediction_stands_on_the_last_stage() -> None:
    graph = resolve(preset("tiny-llama", overrides=["mtp={block: layer, depth: 1}"]))
    how = Storing(dense=1, experts=1, zero=0, optimizer="adamw", value_bytes=2, sums="none")
    shelf = Shelf(graph, how, (), tensor=1, expert=1)
    first = shelf.stage(graph.layers[:2], is_first=True, is_last=False)
    last = shelf.stage([*graph.layers[2:], *graph.mtp], is_first=False, is_last=True)
    table = graph.scope.vocab_size * graph.scope.width
    # The table is read at the start, as the head, and for the tokens that prediction has in hand.
    assert first.parameters + last.parameters == sum(t.count for t in graph.tensors().values()) + table
    found = plans(graph, TRAIN, device_named("rtx-4090"), 2, global_batch_tokens=2**14)
    assert any(plan.degrees.pipeline == 2 for plan in found.fitting)


def test_experts_that_do_not_divide_are_told() -> None:
    found = planned("llama-moe", "h100-80gb", 48, 2**21, 4096)
    assert "does not divide the 8 experts" in why(found, "experts 3")


@pytest.mark.parametrize("count", [3, 6, 7, 12])
def test_counts_that_are_no_power_of_two_are_planned(count: int) -> None:
    found = planned("tiny-llama", "rtx-4090", count, 2**18)
    assert found.fitting
    assert all(plan.degrees.devices == count for plan in found.fitting)


def test_a_batch_with_fewer_sequences_than_ranks_is_dealt_out_otherwise() -> None:
    found = planned("llama-3-8b", "h100-80gb", 16, 4 * 4096, 4096)
    assert found.fitting
    assert all(plan.degrees.data <= 4 for plan in found.fitting)
    assert "sequences" in why(found, "data 16")


def test_a_single_long_sequence_is_divided_among_ranks() -> None:
    found = planned("llama-3-8b", "h100-80gb", 16, 2**20, 2**20)
    assert all(plan.degrees.data == 1 for plan in found.fitting)
    assert any(plan.degrees.context > 1 for plan in found.fitting)


def test_recurrent_mixers_are_not_divided_along_the_sequence() -> None:
    graph = resolve(preset("jamba-like"))
    found = plans(graph, TRAIN, device_named("rtx-4090"), 2, global_batch_tokens=graph.scope.context)
    assert "mamba" in why(found, "context")


@pytest.mark.parametrize(
    ("count", "batch", "mode", "message"),
    [
        (0, 2**20, "train", "count"),
        (-1, 2**20, "train", "count"),
        (2**21, 2**20, "train", "count"),
        (8, 100, "train", "less than one sequence"),
        (8, 0, "train", "less than one sequence"),
        (8, 2**20, "inference", "plans are for training"),
        (8, 2**20, "qlora", "plans are for training"),
    ],
)
def test_numbers_that_no_plan_can_have_are_refused(count: int, batch: int, mode: str, message: str) -> None:
    graph, workload = graph_of("tiny-llama"), Workload(mode=mode)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        plans(graph, workload, device_named("rtx-4090"), count, global_batch_tokens=batch)


def test_quantised_weights_are_not_planned() -> None:
    with pytest.raises(UsageError, match="not trained"):
        plans(
            graph_of("tiny-llama"),
            replace(TRAIN, weights="nf4"),
            device_named("rtx-4090"),
            1,
            global_batch_tokens=2**16,
        )


# ------------------------------------------------------------------------------------------------------------ quotes


def quoted(name: str, device: Device, count: int, **changes: object):
    fields = {"batch_tokens": 2**20, "tokens": 10**10, "prices": prices_of(device)} | changes
    return quote(graph_of(name), replace(TRAIN, context=4096), device, count, **fields)  # type: ignore[arg-type]


def test_the_fewest_devices_are_found_and_do_hold_it() -> None:
    device = device_named("h100-80gb")
    found = quoted("llama-3-8b", device, 16)
    least = found.smallest_count
    assert least is not None
    assert planned("llama-3-8b", "h100-80gb", least, 2**20, 4096).fitting
    assert least == 1 or not planned("llama-3-8b", "h100-80gb", least // 2, 2**20, 4096).fitting


def test_where_nothing_fits_each_advice_does() -> None:
    device = device_named("rtx-4090")
    found = quoted("llama-3-8b", device, 2)
    assert not found.priced
    assert found.smallest_count is not None
    assert found.smallest_count > 2
    assert found.advice
    for advice in found.advice:
        assert advice.plan.fits, advice.what


def test_a_run_takes_its_tokens_at_the_speed_of_its_plan() -> None:
    device = device_named("h100-80gb")
    best = quoted("llama-3-8b", device, 16).priced[0]
    assert best.cost is not None
    assert best.cost.computing_seconds == pytest.approx(10**10 / best.plan.tokens_per_second)
    assert best.cost.seconds == pytest.approx(best.cost.computing_seconds * (1 + best.overhead.total))


def test_without_tokens_there_is_no_cost() -> None:
    found = quoted("llama-3-8b", device_named("h100-80gb"), 16, tokens=None)
    assert all(priced.cost is None for priced in found.priced)
