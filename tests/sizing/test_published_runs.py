"""Our FLOPs and prices against training runs that others published; docs/plan.md tells how far off and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.parameters import count_parameters
from vitruvius.spec import preset, resolve
from vitruvius.spec.graph import Graph  # noqa: TC001 (a type in signatures of helpers that pytest collects)


def llama(width: int, heads: int, kv_heads: int, hidden: int, layers: int, vocab_size: int, context: int) -> Graph:
    settings = {
        "width": width,
        "vocab_size": vocab_size,
        "context": context,
        "layers": f"layer*{layers}",
        "blocks.layer.mixer.heads": heads,
        "blocks.layer.mixer.kv_heads": kv_heads,
        "blocks.layer.ffn.hidden": hidden,
    }
    return resolve(preset("llama-3-8b", overrides=[f"{path}={value}" for path, value in settings.items()]))


def flops_per_token(graph: Graph, context: int) -> float:
    return 3 * graph.flops(context).useful / context


def utilisation(graph: Graph, context: int, tokens: float, device_hours: float, device: str) -> float:
    """Share of the peak that a published number of device-hours means."""
    return flops_per_token(graph, context) * tokens / (device_hours * 3600 * device_named(device).peak("bf16"))


LLAMA_2 = {
    "7B": (llama(4096, 32, 32, 11_008, 32, 32_000, 4096), 6_738_415_616, 184_320),
    "13B": (llama(5120, 40, 40, 13_824, 40, 32_000, 4096), 13_015_864_320, 368_640),
    "70B": (llama(8192, 64, 8, 28_672, 80, 32_000, 4096), 68_976_648_192, 1_720_320),
}
"""Size -> (spec, parameters, A100-80GB hours for 2.0T tokens), table 2 of Llama 2 (Touvron et al., 2023)."""


@pytest.mark.parametrize("size", LLAMA_2)
def test_the_hours_of_llama_2_mean_a_usual_utilisation(size: str) -> None:
    graph, parameters, hours = LLAMA_2[size]
    assert count_parameters(graph).total == parameters
    assert 0.39 < utilisation(graph, 4096, 2.0e12, hours, "a100-80gb") < 0.45


@pytest.mark.parametrize("size", LLAMA_2)
def test_with_the_efficiency_of_the_catalogue_llama_2_is_within_a_quarter(size: str) -> None:
    graph, _, hours = LLAMA_2[size]
    device = device_named("a100-80gb")
    predicted = flops_per_token(graph, 4096) * 2.0e12 / (device.peak("bf16") * device.efficiency.compute * 3600)
    assert 0.75 < predicted / hours < 1.1


def test_smollm3_reached_the_utilisation_it_reports() -> None:
    """14 thousand tokens a second and H100, which its authors call 29.4 % (both rounded)."""
    found = utilisation(resolve(preset("smollm3-3b")), 4096, 14_000 * 3600, 1, "h100-80gb")
    assert found == pytest.approx(0.294, rel=0.04)


def test_the_largest_llama_3_is_within_an_eighth_of_its_hours() -> None:
    """405B: 30.84M H100 hours for 15.6T tokens; table 4 of the paper has 38 to 43 % while it runs."""
    graph = llama(16_384, 128, 8, 53_248, 126, 128_256, 8192)
    assert count_parameters(graph).total == 405_853_388_800
    assert utilisation(graph, 8192, 15.6e12, 30.84e6, "h100-80gb") == pytest.approx(0.36, abs=0.01)


def test_the_hours_of_the_small_llama_3_hide_something() -> None:
    """8B: 1.3M H100 hours for 15T tokens would be 17 % of the peak, far below what such a model reaches."""
    found = utilisation(resolve(preset("llama-3-8b")), 8192, 15e12, 1.3e6, "h100-80gb")
    assert found == pytest.approx(0.167, abs=0.005)


RUNS = {
    "Llama 2 7B": (LLAMA_2["7B"][0], 4096),
    "Llama 2 13B": (LLAMA_2["13B"][0], 4096),
    "Llama 2 70B": (LLAMA_2["70B"][0], 4096),
    "Llama 3 8B": (resolve(preset("llama-3-8b")), 8192),
    "Llama 3 70B": (llama(8192, 64, 8, 28_672, 80, 128_256, 8192), 8192),
    "Llama 3.1 405B": (llama(16_384, 128, 8, 53_248, 126, 128_256, 8192), 8192),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_table_of_published_runs_is_what_we_compute(run: str) -> None:
    text = (Path(__file__).parents[2] / "docs/plan.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {run} |")]
    _, tokens, device, hours, share, predicted, ratio = (cell.strip() for cell in row.strip("| ").split("|"))
    graph, context = RUNS[run]
    published, count = int(hours.replace(",", "")), float(tokens.removesuffix("T")) * 1e12
    peak = device_named(device).peak("bf16")
    ours = flops_per_token(graph, context) * count / (peak * device_named(device).efficiency.compute * 3600)
    assert int(predicted.replace(",", "")) == round(ours)
    assert float(ratio) == round(ours / published, 2)
    assert float(share.removesuffix(" %")) == round(100 * utilisation(graph, context, count, published, device), 1)
