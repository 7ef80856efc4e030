"""The catalogue of devices: every number has its source, lies where numbers of devices lie, and prices have a date."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from vitruvius.errors import UsageError
from vitruvius.sizing.hardware import catalogue, device_named, read_devices

DEVICES = list(catalogue().values())
GIB = 1024**3


@pytest.fixture
def written(tmp_path):
    """A function that writes a hardware file and gives its path."""

    def write(text, name="my-gpu.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


GOOD = 'memory = "24 GiB"\nbandwidth = "1008 GB/s"\nflops = {bf16 = "165.2 TFLOP/s"}\n'


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_number_of_a_device_has_its_source(device):
    numbers = {"released", "memory", "reserved", "bandwidth", "flops", "link", "per_node", "power"}
    numbers |= {key for key, price in (("buy", device.buy), ("rent", device.rent)) if price is not None}
    assert numbers <= device.sources.keys()
    assert all(len(source) > 10 for source in device.sources.values())
    assert len(device.efficiency.source) > 20
    assert not device.unknown


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_number_of_a_device_lies_where_numbers_of_devices_lie(device):
    assert 2 * GIB <= device.memory_bytes <= 1024 * GIB
    assert 0 < device.reserved_bytes < device.memory_bytes * 0.4
    assert 5e10 <= device.bandwidth <= 1e13
    assert all(1e12 <= peak <= 1e16 for peak in device.flops.values())
    assert 1e9 <= device.link <= 1e12
    assert 1 <= device.per_node <= 16
    assert 30 <= device.watts <= 2000
    assert 0.2 <= device.efficiency.compute <= 0.9
    assert 0.3 <= device.efficiency.bandwidth <= 0.95
    # What a chip computes for each byte it reads has grown from 5 to some 500 operations.
    assert 1 <= device.peak("bf16") / device.bandwidth <= 1000
    assert 2016 <= device.released <= 2026


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_prices_are_dated_and_of_the_order_that_such_things_cost(device):
    assert date(2025, 1, 1) <= date.fromisoformat(device.dated)
    assert device.buy is None or 100 <= device.buy <= 100_000
    assert device.rent is None or 0.1 <= device.rent <= 20
    if device.buy is not None and device.rent is not None:
        assert 200 <= device.buy / device.rent <= 30_000, "renting for an hour costs a small share of buying"


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_names_are_lower_case_with_dashes(device):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", device.name)


def test_the_catalogue_has_what_people_own_and_rent():
    wanted = "rtx-3060-12gb rtx-3090 rtx-4090 rtx-5090 a100-80gb h100-80gb h200-141gb mi300x-192gb m3-max-128gb"
    assert set(wanted.split()) <= catalogue().keys()
    assert {device.tier for device in DEVICES} == {"consumer", "workstation", "data-centre", "apple", "cpu", "tpu"}


def test_the_peaks_that_the_facts_are_computed_with_are_those_of_the_data_sheets():
    assert device_named("rtx-4090").bandwidth == 1008e9
    assert [device_named(name).bandwidth for name in ("a100-80gb", "h100-80gb", "h200-141gb")] == [
        2039e9,
        3350e9,
        4800e9,
    ]
    assert device_named("h100-80gb").peak("bf16") == 989.5e12


def test_tpus_are_for_planning_and_say_that_nothing_has_run_on_them():
    assert all(device.untested for device in DEVICES if device.tier == "tpu")


def test_a_format_without_units_of_its_own_is_computed_in_the_next_wider_one():
    t4, v5e = device_named("t4"), device_named("tpu-v5e")
    assert t4.peak("bf16") == t4.flops["fp16"] == 65e12
    assert v5e.peak("fp8") == v5e.flops["bf16"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("RTX_4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("h100", "h100-80gb"),
        ("b200-192gb", "b200-180gb"),
        ("this-machin", "this-machine"),
        ("", "vitruvius hardware lists"),
        ("\x1b[31m", "vitruvius hardware lists"),
    ],
)
def test_an_unknown_device_is_answered_with_the_nearest_names(name, near):
    with pytest.raises(UsageError) as refused:
        device_named(name)
    assert near in str(refused.value)


# ----------------------------------------------------------------------------------------------------------------------
# A user's own file


def test_three_numbers_describe_a_device_and_the_rest_is_assumed_and_said_so(written):
    device = device_named(written(GOOD))
    assert device.name == "my-gpu"
    assert (device.memory_bytes, device.bandwidth, device.peak("bf16")) == (24 * GIB, 1008e9, 165.2e12)
    assert {"link", "power", "reserved", "efficiency"} <= device.unknown
    assert device.buy is None


def test_decimal_and_binary_bytes_are_not_the_same(written):
    assert device_named(written(GOOD.replace("24 GiB", "24 GB"))).memory_bytes == 24 * 10**9


def test_every_device_of_the_catalogue_can_be_given_as_a_file_of_its_own(written):
    text = 'dated = "2026-01-02"\n' + GOOD + 'buy = "$1,599"\nrent = "$0.34/h"\npower = "450 W"\nlink = "31.5 GB/s"\n'
    device = device_named(written(text + "efficiency = {compute = 0.5, bandwidth = 0.75, source = 'measured'}\n"))
    assert (device.buy, device.rent, device.watts, device.link) == (1599, 0.34, 450, 31.5e9)
    assert (device.efficiency.compute, device.efficiency.bandwidth) == (0.5, 0.75)


def test_a_file_may_hold_several_devices_that_have_something_in_common(written):
    shared = '[all]\nbandwidth = "1 TB/s"\nflops = {fp16 = "100 TFLOP/s"}\n'
    path = written(f'{shared}[a-1]\nmemory = "8 GiB"\n[a-2]\nmemory = "16 GiB"\n', "both.toml")
    both = read_devices(path)
    assert [both[name].memory_bytes for name in ("a-1", "a-2")] == [8 * GIB, 16 * GIB]
    with pytest.raises(UsageError, match="describes 2 devices: a-1, a-2"):
        device_named(path)


BAD = [
    ("memory = 24", "memory", "24 is not an amount of memory"),
    ('memory = "24"', "memory", "has no unit"),
    ('memory = "24 Gb"', "memory", "a byte is 8 bits"),
    ('memory = "-24 GiB"', "memory", "cannot read"),
    ('memory = "0 GiB"', "memory", "beyond what any device has"),
    ('memory = "9e99 GiB"', "memory", "e99 GiB"),
    ("memory = nan", "memory", "nan is not an amount"),
    ("memory = true", "memory", "True is not an amount"),
    ("memory = ['24 GiB']", "memory", "is not an amount"),
    ('bandwidth = "1008"', "bandwidth", "has no unit"),
    ('bandwidth = "1008 GB"', "bandwidth", "has the unit 'GB', where bytes per second is due"),
    ('bandwidth = "0 GB/s"', "bandwidth", "beyond what any device has"),
    ('bandwidth = "1008 TFLOP/s"', "bandwidth", "where bytes per second is due"),
    ("flops = 165.2e12", "flops", "must give the peak by format"),
    ("flops = {}", "flops", "must give the peak by format"),
    ('flops = {bf17 = "1 TFLOP/s"}', "flops.bf17", "there is no such format"),
    ('flops = {bf16 = "NaN TFLOP/s"}', "flops.bf16", "cannot read"),
    ('flops = {bf16 = "165 GB/s"}', "flops.bf16", "where operations per second is due"),
    ("efficiency = {compute = 1.5, bandwidth = 0.5}", "efficiency.compute", "1.5 is no share"),
    ("efficiency = {compute = inf, bandwidth = 0.5}", "efficiency.compute", "inf is no share"),
    ("efficiency = 0.5", "efficiency", "must be a table"),
    ('power = "450"', "power", "has no unit"),
    ('buy = "$1,599"', "dated", "prices are only worth what their date is"),
    ('buy = "1599 EUR"', "buy", "where a price in US dollars is due"),
    ('dated = "10.3.2026"', "dated", "is no date"),
    ("per_node = 0", "per_node", "no whole number"),
    ("released = 2025.5", "released", "no whole number"),
    ('reserved = "30 GiB"', "reserved", "is not less than the memory"),
    ('tier = "toaster"', "tier", "there is no tier"),
    ('bandwith = "1008 GB/s"', "bandwith", "there is no such key"),
    ("sources = {memory = 3}", "sources.memory", "where it was read"),
    ('name = "My GPU"', "", "is no name of a device"),
]


@pytest.mark.parametrize(("line", "key", "says"), BAD, ids=[line for line, _, _ in BAD])
def test_a_wrong_number_is_named_with_its_file_and_key(line, key, says, written):
    changed = line.split(" = ")[0]
    kept = [text for text in GOOD.splitlines() if not text.startswith(f"{changed} ")]
    path = written("\n".join([*kept, line]) + "\n")
    with pytest.raises(UsageError) as refused:
        device_named(path)
    message = str(refused.value)
    assert f"{path}  {key}".rstrip() in message
    assert says in message
    assert "fix: " in message or key in {"per_node", "released", "sources.memory"}


def test_all_that_is_wrong_with_a_file_is_said_at_once(written):
    path = written('memory = 24\nbandwidth = "1008"\nflops = {}\npowr = "1 W"\n')
    with pytest.raises(UsageError) as refused:
        device_named(path)
    assert str(refused.value).count(path) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "memory"),
        (b"a = [[[[", "not a TOML file"),
        (b"a = " + b"[" * 50_000, "nested too deeply"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[x]\n", "is missing"),
        (b"a-1 = 3\n[b-1]\n", "a-1"),
        (b"all = 3\n[b-1]\n", "all"),
        (b"x" * (2**20 + 1), "bytes"),
    ],
    ids=["empty", "broken", "deep", "binary", "an empty table", "no table", "all is no table", "huge"],
)
def test_what_is_no_hardware_file_is_refused_by_name(content, says, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        device_named(str(path))
    assert says in str(refused.value)
    assert "odd.toml" in str(refused.value)


@pytest.mark.parametrize("name", ["missing.toml", "folder.toml", "/dev/zero.toml", "a\0b.toml"])
def test_what_cannot_be_read_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError):
        device_named(name)


def test_the_file_of_the_documentation_is_one(written):
    page = (Path(__file__).resolve().parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
    device = device_named(written(page.split("```toml\n")[1].split("```")[0]))
    assert (device.bandwidth, device.buy, device.unknown) == (1008e9, 2400, {"released"})


# ----------------------------------------------------------------------------------------------------------------------
# This machine


def test_this_machine_is_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="has not been measured") as refused:
        device_named("this-machine")
    assert "vitruvius bench --machine" in refused.value.fix
    folder = tmp_path / "vitruvius"
    folder.mkdir()
    (folder / "machine.toml").write_text(f"[this-machine]\n{GOOD}", encoding="utf-8")
    assert device_named("this-machine").bandwidth == 1008e9
