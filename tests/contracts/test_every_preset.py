"""Every preset, through its twin and at full size on paper."""

from __future__ import annotations

import pytest

from vitruvius.checks import check
from vitruvius.nn import build
from vitruvius.sizing import count_parameters, kv_cache_bytes, state_bytes
from vitruvius.spec import preset, preset_names, resolve, shrink


@pytest.mark.parametrize("name", preset_names())
def test_the_twin_passes_every_probe(name):
    report = check(shrink(preset(name)))
    assert report.passed, str(report)


@pytest.mark.parametrize("name", preset_names())
def test_parameters_and_cache_at_full_size_are_what_the_bill_says(name):
    architecture = preset(name)
    graph = resolve(architecture)
    model = build(architecture, device="meta", dtype="bf16")
    counts = count_parameters(graph)
    assert sum(p.numel() for p in model.parameters()) == counts.total + counts.mtp
    for capacity in (1, 4096, architecture.context) if graph.is_causal else ():
        said = kv_cache_bytes(graph, capacity, 2, "bf16") + state_bytes(graph, capacity, 2, "bf16")
        assert model.cache(2, capacity=capacity).nbytes == said


def test_a_big_preset_is_checked_through_its_twin_and_the_report_says_so():
    report = check(preset("llama-moe"), only=["parameters", "cache-bytes", "output-shape"])
    assert report.subject.startswith("twin of llama-moe (width 4,096 -> ")
    assert "27,756,658,688" in report["parameters"].detail or "27.76 B" in report["parameters"].detail
    assert report.passed


def test_a_tiny_preset_is_checked_as_it_is():
    assert "as specified" in check(preset("tiny-llama"), only=["output-shape"]).subject
