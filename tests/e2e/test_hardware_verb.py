"""`vitruvius hardware` as it is typed: list, show, choose, compare."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vitruvius.cli.front import front
from vitruvius.cli.main import run as run_command
from vitruvius.sizing.hardware import catalogue, device_named
from vitruvius.sizing.memory import memory_of
from vitruvius.sizing.speed import speed_of
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, resolve


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_command(["hardware", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def record(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


# --------------------------------------------------------------------------------------------------- list and show


def test_every_device_is_listed_and_untested_ones_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "list")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()[1:-1]]
    assert [name.rstrip("*") for name in names] == list(catalogue())
    assert "tpu-v5e*" in names
    assert "h100-80gb" in names
    assert "next: vitruvius hardware show" in err


def test_a_list_can_be_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, "list", "--tier", "tpu")["devices"]
    assert {device["tier"] for device in found} == {"tpu"}
    assert all(device["untested"] for device in found)
    large = record(capsys, "list", "--min-memory", "100GB")["devices"]
    assert large
    assert all(device["memory_bytes"] >= 100e9 for device in large)
    _, out, _ = run(capsys, "list", "--min-memory", "900TB")
    assert "no device" in out


def test_a_device_is_shown_with_a_source_for_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "h100-80gb")
    assert code == 0
    for words in ("bandwidth", "3,350 GB/s", "datasheet", "of the peak", "prices were read on"):
        assert words in out
    found = record(capsys, "show", "h100-80gb")
    assert found["schema"] == "vitruvius.hardware-show/1"
    assert found["usable_bytes"] == found["memory_bytes"] - found["reserved_bytes"]
    assert {"memory", "bandwidth", "flops", "buy", "rent"} <= set(found["sources"])


def test_every_device_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalogue():
        code, out, _ = run(capsys, "show", name)
        assert code == 0
        assert name in out


def test_a_device_of_ones_own_is_shown_with_what_was_assumed(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    path = tmp_path / "my-gpu.toml"
    path.write_text('memory = "24 GiB"\nbandwidth = "900 GB/s"\nflops = {bf16 = "100 TFLOP/s"}\n')
    code, out, _ = run(capsys, "show", str(path))
    assert code == 0
    assert "assumed" in out
    assert "to buy" in out


# --------------------------------------------------------------------------------------------------------- choose


def test_what_is_chosen_fits_is_affordable_and_fast_enough(capsys: pytest.CaptureFixture[str]) -> None:
    wish = ("--budget", "2000", "--min-tokens-per-second", "20", "--context", "8k")
    found = record(capsys, "choose", "llama-3-8b", *wish)
    assert found["schema"] == "vitruvius.hardware-choose/1"
    assert found["offers"]
    for offer in found["offers"]:
        assert offer["fits"] is True
        assert offer["buy_dollars"] <= 2000
        assert offer["tokens_per_second_expected"] >= 20
        assert offer["refused"] == []
    for offer in found["refused"]:
        dear = offer["buy_dollars"] is None or offer["buy_dollars"] > 2000
        slow = offer["tokens_per_second_expected"] < 20
        assert not offer["fits"] or dear or slow
        assert offer["refused"]


def test_offers_agree_with_the_bill_and_the_roofline(capsys: pytest.CaptureFixture[str]) -> None:
    graph, work = resolve(preset("llama-3-8b")), Workload(context=4096, batch=4)
    found = record(capsys, "choose", "llama-3-8b", "--context", "4k", "--batch", "4")
    assert found["needed_bytes"] == memory_of(graph, work).total
    for offer in found["offers"][:5]:
        speed = speed_of(graph, work, device_named(offer["device"]), offer["count"])
        assert offer["tokens_per_second_expected"] == pytest.approx(speed.expected_tokens_per_second)
        assert offer["tokens_per_second_bound"] == pytest.approx(speed.tokens_per_second_bound)


@pytest.mark.parametrize(
    ("order", "key", "falling"),
    [
        ("speed", "tokens_per_second_expected", True),
        ("price", "rent_dollars_per_hour", False),
        ("value", "rent_dollars_per_million_tokens", False),
    ],
)
def test_offers_are_in_the_order_asked_for(
    capsys: pytest.CaptureFixture[str], order: str, key: str, *, falling: bool
) -> None:
    found = record(capsys, "choose", "llama-3-8b", "--rent-budget", "3/h", "--by", order)
    values = [offer[key] for offer in found["offers"] if offer["untested"] is None]
    assert len(values) > 3
    assert values == sorted(values, reverse=falling)
    assert all(offer["rent_dollars_per_hour"] <= 3 for offer in found["offers"])


def test_untested_devices_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    marks = [offer["untested"] is not None for offer in record(capsys, "choose", "llama-3-8b")["offers"]]
    assert True in marks
    assert marks == sorted(marks)


def test_several_devices_of_one_machine_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, "choose", "llama-moe", "--tier", "data-centre", "--context", "8k")
    counts = {offer["count"] for offer in found["offers"]}
    assert counts == {1, 2, 4, 8}
    for offer in found["offers"]:
        assert offer["count"] <= device_named(offer["device"]).per_node


def test_a_wish_that_nothing_meets_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "choose", "deepseek-v3", "--budget", "100")
    assert code == 0
    assert "nothing in the catalogue meets that" in out
    assert "GB too small" in out
    assert "next: " in err


def test_training_and_encoders_can_be_chosen_for(capsys: pytest.CaptureFixture[str]) -> None:
    train = record(capsys, "choose", "gpt2", "--mode", "train", "--batch", "4")
    assert train["offers"][0]["train_step_seconds_expected"] > 0
    encoder = record(capsys, "choose", "context-aware-bert")
    assert encoder["offers"][0]["tokens_per_second_expected"] > 0


def test_prices_can_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    dear = record(capsys, "choose", "tiny-llama", "--electricity", "1", "--tier", "consumer")["offers"]
    cheap = record(capsys, "choose", "tiny-llama", "--electricity", "0.01", "--tier", "consumer")["offers"]
    by_name = {(o["device"], o["count"]): o["own_dollars_per_hour"] for o in cheap}
    assert all(o["own_dollars_per_hour"] > by_name[o["device"], o["count"]] for o in dear)


# -------------------------------------------------------------------------------------------------------- compare


def test_devices_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compare", "rtx-4090", "h100-80gb", "mi300x-192gb")
    assert code == 0
    assert out.splitlines()[0].split() == ["rtx-4090", "h100-80gb", "mi300x-192gb"]
    assert "untested" in out
    found = record(capsys, "compare", "rtx-4090", "h100-80gb")
    assert found["name"] is None
    assert [side["inference"] for side in found["devices"]] == [None, None]


def test_an_architecture_runs_on_each_side(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "a100-80gb", "h100-80gb", "--on", "llama-3-8b", "--context", "4k", "--count", "8")
    found = record(capsys, *words, "--tokens", "100B")
    graph = resolve(preset("llama-3-8b"))
    for side in found["devices"]:
        speed = speed_of(graph, Workload(context=4096), device_named(side["name"]), 8)
        assert side["inference"]["prefill_seconds_expected"] == pytest.approx(speed.expected_prefill_seconds)
        assert side["training"]["train_step_seconds_expected"] > 0
        assert side["largest_context_tokens"] > 4096
        assert side["run"]["rent_dollars"] > 0
    fast, slow = found["devices"][1]["run"], found["devices"][0]["run"]
    assert fast["seconds"] < slow["seconds"]
    code, out, err = run(capsys, *words, "--tokens", "100B")
    assert code == 0
    for label in ("prefill", "tokens/s, expected", "$/M tokens, rented", "train step", "plan", "largest context"):
        assert label in out
    assert "next: vitruvius hardware choose llama-3-8b" in err


def test_a_run_that_does_not_fit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "rtx-4090", "h100-80gb", "--on", "llama-3-8b", "--context", "4k", "--tokens", "1B")
    assert [side["run"] for side in record(capsys, *words)["devices"]] == [None, None]
    _, out, _ = run(capsys, *words)
    assert "nothing fits" in out


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--tier", "toaster"], "there is no tier"),
        (["list", "--min-memory", "24 apples"], "unknown unit"),
        (["show", "rtx-409"], "did you mean"),
        (["show", "/dev/null"], "plain file"),
        (["show", ""], "there is no device"),
        (["choose", "llama-3-8b", "--budget", "2000GB"], "as dollars"),
        (["choose", "llama-3-8b", "--budget", "-5"], "as dollars"),
        (["choose", "llama-3-8b", "--budget", "0"], "buy nothing"),
        (["choose", "llama-3-8b", "--budget", "3/h"], "--rent-budget"),
        (["choose", "llama-3-8b", "--rent-budget", "3/day"], "dollars an hour"),
        (["choose", "llama-3-8b", "--rent-budget", "0"], "dollars an hour"),
        (["choose", "llama-3-8b", "--min-tokens-per-second", "nan"], "makes no wish"),
        (["choose", "llama-3-8b", "--min-tokens-per-second", "-1"], "makes no wish"),
        (["choose", "llama-3-8b", "--min-tokens-per-second", "fast"], "not a valid float"),
        (["choose", "llama-3-8b", "--by", "colour"], "there is no order"),
        (["choose", "llama-3-8b", "--tier", "toaster"], "there is no tier"),
        (["choose", "llama-3-8b", "--batch", "0"], "batch"),
        (["choose", "llama-3-8b", "--dtype", "int3"], "int3"),
        (["choose", "nobody"], "there is no"),
        (["compare", "rtx-4090"], "2 to 8 devices"),
        (["compare", *["rtx-4090"] * 9], "2 to 8 devices"),
        (["compare", "rtx-4090", "rtx-9090"], "there is no device"),
        (["compare", "rtx-4090", "rtx-3090", "--count", "0"], "out of range"),
        (["compare", "rtx-4090", "rtx-3090", "--tokens", "1T"], "--on"),
        (["compare", "rtx-4090", "rtx-3090", "--on", "gpt2", "--tokens", "0"], "at least one token"),
        (["compare", "rtx-4090", "rtx-3090", "--on", "gpt2", "--tokens", "1B", "--batch-tokens", "9"], "less than one"),
        (["compare", "rtx-4090", "rtx-3090", "--on", "gpt2", "--context", "1m"], "learned positions"),
    ],
)
def test_bad_input_is_answered_with_the_way_out(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert "Traceback" not in err
    assert code == 2
    assert out == ""
    assert words in err


@pytest.mark.parametrize("verb", ["list", "show", "choose", "compare"])
def test_help_has_examples(verb: str) -> None:
    result = CliRunner().invoke(front, ["hardware", verb, "-h"])
    assert result.exit_code == 0
    assert result.output.count(f"vitruvius hardware {verb}") >= 3
