"""The frontier against the bill: the longest context fits, one token more does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing.frontier import BATCHES, MOST_CURVES, curve_of, frontier
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, resolve


def test_each_point_just_fits() -> None:
    graph, device = resolve(preset("llama-3-8b")), device_named("rtx-4090")
    found = frontier(graph, Workload(), [(device, 1)], batches=(1, 4, 16))
    for point in found.curves[0].points:
        here, beyond = (
            memory_of(graph, replace(Workload(), context=context, batch=point.batch)).total
            for context in (point.context, point.context + 1)
        )
        assert here <= device.usable_bytes < beyond
        assert not point.is_capped


def test_larger_batches_leave_shorter_contexts() -> None:
    graph = resolve(preset("longcontext"))
    found = frontier(graph, Workload(), [(device_named("h100-80gb"), 1)], batches=BATCHES)
    contexts = [point.context for point in found.curves[0].points]
    assert contexts == sorted(contexts, reverse=True)


def test_what_does_not_fit_at_all_is_zero() -> None:
    graph = resolve(preset("llama-3-8b"))
    found = frontier(graph, Workload(), [(device_named("rtx-3060-12gb"), 1)], batches=(1, 2))
    assert [point.context for point in found.curves[0].points] == [0, 0]


def test_two_devices_hold_more_than_one() -> None:
    graph, device = resolve(preset("llama-3-8b")), device_named("rtx-4090")
    one, two = frontier(graph, Workload(), [(device, 1), (device, 2)], batches=(8,)).curves
    assert two.points[0].context > 2 * one.points[0].context
    assert (one.name, two.name) == ("rtx-4090", "2 x rtx-4090")


def test_learned_positions_end_the_search() -> None:
    graph = resolve(preset("gpt2"))
    found = frontier(graph, Workload(), [(device_named("rtx-4090"), 1)], batches=(1,))
    point = found.curves[0].points[0]
    assert (point.context, point.is_capped) == (1024, True)
    assert "learned positions" in found.why_limit


@pytest.mark.parametrize("available", [0, 99, 100, 1000, 10**9])
def test_the_search_agrees_with_trying_every_context(available: int) -> None:
    def needed(context: int, batch: int) -> int:
        return 50 + 3 * batch * context + (context // 100) ** 2

    curve = curve_of(needed, device_named("rtx-4090"), 1, available=available, batches=(1, 2, 5), limit=700)
    for point in curve.points:
        every = [c for c in range(1, 701) if needed(c, point.batch) <= available]
        assert point.context == max(every, default=0)
        assert point.is_capped == (point.context == 700)


def test_a_frontier_needs_hardware_and_not_too_much_of_it() -> None:
    graph = resolve(preset("tiny-llama"))
    with pytest.raises(UsageError, match="hardware"):
        frontier(graph, Workload(), [])
    with pytest.raises(UsageError, match="told apart"):
        frontier(graph, Workload(), [(device_named("rtx-4090"), 1)] * (MOST_CURVES + 1))


def test_the_record_has_units_in_its_names() -> None:
    graph = resolve(preset("tiny-llama"))
    record = frontier(graph, Workload(), [(device_named("rtx-4090"), 1)], batches=(1,)).to_dict()
    assert record["schema"] == "vitruvius.frontier/1"
    assert set(record["curves"][0]["points"][0]) == {"batch", "context_tokens", "at_limit"}
