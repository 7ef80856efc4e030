"""The machine as it is measured, and the file that sizing reads it from."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest
import torch

from vitruvius.evals import machine as machines
from vitruvius.evals.machine import QUICK, last_cache_bytes, measure, product_rate, stream_rate
from vitruvius.evals.timing import Spread
from vitruvius.sizing.hardware import device_named, read_devices

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found():
    return measure(effort=QUICK, models=False)


def test_every_rate_is_measured_with_its_spread(found):
    assert {"fp32", "bf16"} <= set(found.products)
    for rate in (*found.products.values(), found.bandwidth):
        assert 0 < rate.q1 <= rate.median <= rate.q3
        assert rate.count == QUICK.runs
    assert found.threads == 1
    assert 0 < found.free_bytes <= found.memory_bytes


def test_the_document_is_json_and_says_how_far_off_it_is(found):
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["schema"] == "vitruvius.machine/1"
    assert document["flops_per_second"]["bf16"]["median"] == found.products["bf16"].median
    assert any("middle half" in note for note in document["notes"])


def test_bandwidth_over_a_set_that_fits_into_the_cache_is_called_into_question(found):
    small = replace(found, streamed_bytes=1000, cache_bytes=10_000)
    large = replace(found, streamed_bytes=100_000, cache_bytes=10_000)
    assert any("cache" in note for note in small.notes)
    assert not any("cache" in note for note in large.notes)


def test_a_crowded_machine_is_called_crowded(found):
    assert any("other work" in note for note in replace(found, processors=0.4).notes)
    assert not any("other work" in note for note in replace(found, processors=0.99).notes)


def test_predictions_are_held_to_be_as_far_off_as_runs_on_this_machine_differ(found):
    steady = Spread(median=1.0, q1=0.95, q3=1.05, count=9)
    quiet = replace(found, products={"fp32": steady, "bf16": steady}, bandwidth=steady, processors=1.0)
    assert quiet.wobble == pytest.approx(1.05 / 0.95)
    assert replace(quiet, processors=0.25).wobble == 4.0


def test_the_file_is_read_back_as_the_device_that_was_measured(found, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = found.write()
    assert path == tmp_path / "vitruvius" / "machine.toml"
    device = device_named("this-machine")
    assert device.bandwidth == pytest.approx(found.bandwidth.median, rel=1e-3)
    for form, rate in found.products.items():
        assert device.flops[form] == pytest.approx(rate.median, rel=1e-3)
    assert device.memory_bytes == found.memory_bytes
    assert 0 < device.usable_bytes <= found.memory_bytes
    assert {"bandwidth", "flops", "memory"} <= device.sources.keys()
    assert device.dated == found.environment["time_utc"][:10]


def test_a_bench_takes_the_faster_quarter_since_other_work_only_ever_slows(found):
    device = found.as_device()
    assert device.bandwidth == found.bandwidth.q3
    assert device.flops == {form: rate.q3 for form, rate in found.products.items()}


@pytest.mark.parametrize("title", ['A "quoted" \\ name', "line\nbreak\x1b[2J", "ünïcode ™", "x" * 300])
def test_whatever_the_processor_is_called_the_file_can_be_read(found, title, tmp_path):
    path = replace(found, title=title, efficiency={"compute": 0.5, "bandwidth": 1.2}).write(tmp_path / "m.toml")
    assert tomllib.loads(path.read_text(encoding="utf-8"))
    (device,) = read_devices(path).values()
    assert device.efficiency.compute == 0.5 and device.efficiency.bandwidth == 1.0


def test_a_file_that_cannot_be_written_leaves_the_old_one(found, tmp_path):
    (tmp_path / "m.toml").mkdir()
    with pytest.raises(OSError, match="directory"):
        found.write(tmp_path / "m.toml")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.toml"]


def test_rates_count_two_operations_for_each_multiply_add_and_each_byte_once(monkeypatch):
    monkeypatch.setattr(machines, "take_turns", lambda *_args, **_named: Fixed())
    device = torch.device("cpu")
    assert product_rate("fp32", device, QUICK).median == 2 * QUICK.size**3 / 0.5
    assert stream_rate(2**20, device, QUICK).median == 2**20 / 0.5


class Fixed:
    """Turns in which everything takes half a second."""

    seconds = {"it": [0.5, 0.5, 0.5]}  # noqa: RUF012


def test_a_format_without_products_has_no_rate(monkeypatch):
    def refused(*_args):
        raise RuntimeError("not implemented for 'Char'")

    monkeypatch.setattr(torch, "_int_mm", refused)
    assert product_rate("int8", torch.device("cpu"), QUICK) is None


def test_the_last_cache_is_the_largest(tmp_path, monkeypatch):
    for index, size in enumerate(("48K", "2048K", "491520K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    monkeypatch.setattr(machines, "_CACHE_FILES", tmp_path)
    assert last_cache_bytes() == 480 * 2**20
    monkeypatch.setattr(machines, "_CACHE_FILES", tmp_path / "none")
    assert last_cache_bytes() is None
