"""Random valid specs can be planned, priced, varied and drawn, whatever kinds they are made of."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from specs import architectures

from vitruvius.report.plan import plan_text
from vitruvius.sizing.communication import network_of
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.money import prices_of
from vitruvius.sizing.parallel import Degrees, Schedule
from vitruvius.sizing.parallel.evaluate import Evaluation
from vitruvius.sizing.parallel.quote import quote
from vitruvius.sizing.parallel.record import to_dict
from vitruvius.sizing.parallel.sharding import layer_parts, outside, problems
from vitruvius.sizing.sensitivity import sensitivity
from vitruvius.sizing.workload import Workload
from vitruvius.spec.rules import ensure

TRAIN = Workload(mode="train")
DEVICE = device_named("rtx-4090")


@given(architectures())
@settings(max_examples=10)
def test_every_spec_is_planned_on_four_devices(architecture) -> None:
    graph = ensure(architecture)
    tokens = 8 * graph.scope.context
    found = quote(graph, TRAIN, DEVICE, 4, batch_tokens=tokens, tokens=10**9, prices=prices_of(DEVICE), most=3)
    json.dumps(to_dict(found), allow_nan=False)
    assert plan_text(found)
    for priced in found.priced:
        assert priced.plan.fits
        assert priced.plan.degrees.devices == 4
        assert priced.cost is not None
        assert priced.cost.seconds > 0


@given(architectures())
@settings(max_examples=10)
def test_one_device_takes_what_its_bill_says(architecture) -> None:
    graph = ensure(architecture)
    schedule = Schedule(
        tokens=graph.scope.context, micro_batch=1, micro_batches=1, checkpointing="none", sequence_parallel="off"
    )
    plan = Evaluation(graph, TRAIN, DEVICE, network_of(DEVICE)).plan(Degrees(), schedule)
    bill = memory_of(graph, replace(TRAIN, batch=1))
    assert plan is not None
    assert plan.memory.optimizer == bill.optimizer
    assert plan.memory.weights == bill.weights + bill.buffers
    assert plan.memory.activations == bill.activations


@given(architectures())
@settings(max_examples=10)
def test_tensor_parallel_parts_add_up(architecture) -> None:
    graph = ensure(architecture)
    assert set(outside(graph)) <= set(graph.tensors())
    for tensor in (2, 4):
        if list(problems(graph, tensor=tensor)):
            continue
        for layer in graph.every_layer():
            for name, part in layer_parts(layer, tensor=tensor, expert=1).items():
                assert part.count <= part.spec.count <= part.count * tensor, name


@given(architectures())
@settings(max_examples=4)
def test_every_field_of_a_spec_is_varied(architecture) -> None:
    found = sensitivity(architecture, Workload())
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.effects
    assert found.effects[0].strength == pytest.approx(max(effect.strength for effect in found.effects))
