"""`vitruvius plan` as it is typed: what it prints, its record, its exits."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from vitruvius.cli.front import front
from vitruvius.cli.main import run as run_command
from vitruvius.sizing.hardware import device_named

LLAMA = ["plan", "llama-3-8b", "--on", "h100-80gb", "--count", "16", "--batch-tokens", "2m", "--context", "4096"]
TINY = ["plan", "tiny-llama", "--on", "rtx-4090"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run_command(list(arguments))
    out = capsys.readouterr()
    return code, out.out, out.err


def record(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_a_plan_says_memory_messages_time_and_money(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *LLAMA, "--tokens", "1T")
    assert code == 0
    for words in (
        "8,030,261,248 parameters",
        "512 sequences of 4,096 tokens",
        "memory of the fullest rank",
        "messages of a rank in a step",
        "expected",
        "a run of 1,000,000,000,000 tokens",
        "kWh at the plug",
        "buying pays after",
        "devices are enough to hold it",
        "not planned",
    ):
        assert words in out
    assert "next: vitruvius hardware compare h100-80gb" in err


def test_the_record_has_units_in_its_names_and_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, *LLAMA, "--tokens", "300B", "--rent", "2", "--electricity", "0.2", "--utilisation", "0.5")
    assert found["schema"] == "vitruvius.plan/1"
    assert found["fits"] is True
    assert found["prices"]["sources"]["rent"] == "given"
    for plan in found["plans"]:
        memory = plan["memory"]
        parts = ("weights", "gradients", "optimizer", "gathered", "activations", "margin")
        assert sum(memory[f"{part}_bytes"] for part in parts) == memory["total_bytes"] <= memory["available_bytes"]
        degrees = plan["degrees"]
        assert degrees["data"] * degrees["tensor"] * degrees["pipeline"] * degrees["context"] == 16
        time, cost = plan["time"], plan["cost"]
        assert time["tokens_per_second"] == pytest.approx(plan["step_tokens"] / time["step_seconds"])
        assert cost["computing_seconds"] == pytest.approx(300e9 / time["tokens_per_second"])
        assert cost["rent_dollars"] == pytest.approx(2 * cost["device_hours"])
        assert cost["device_hours"] == pytest.approx(16 * cost["seconds"] / 3600)
        waiting = sum(m["seconds"] for m in plan["messages"] if m["waits"] == "always")
        assert time["waiting_seconds"] == pytest.approx(waiting)


def test_without_tokens_money_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, *TINY)
    assert found["run_tokens"] is None
    assert found["plans"][0]["cost"] is None
    _, out, _ = run(capsys, *TINY)
    assert "give --tokens" in out


def test_where_nothing_fits_the_way_out_is_printed_and_works(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "plan", "llama-3-8b", "--on", "h100-80gb", "--context", "4096")
    assert code == 0
    assert "nothing fits" in out
    assert "missing on a rank" in out
    (command,) = [line for line in err.splitlines() if line.startswith("next: ")]
    again = command.removeprefix("next: vitruvius ").split()
    assert record(capsys, *again, "--context", "4096")["fits"] is True


@pytest.mark.parametrize(
    "words",
    [
        ("longcontext", "--on", "h100-80gb"),
        ("llama-3-8b", "--on", "rtx-4090", "--count", "2", "--context", "4096"),
        ("llama-3-8b", "--on", "h100-80gb", "--count", "2", "--context", "8192", "--checkpointing", "none"),
    ],
    ids=lambda words: words[0] + words[-1],
)
def test_each_advice_makes_it_fit_when_it_is_followed(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    found = record(capsys, "plan", *words)
    assert found["fits"] is False
    assert found["advice"]
    for advice in found["advice"]:
        flags = " ".join(advice["flags"]).split()
        again = record(capsys, "plan", *words, *flags)
        assert again["fits"] is True, advice["what"]
        device = device_named(again["device"])
        assert advice["plan"]["memory"]["total_bytes"] <= device.usable_bytes


def test_the_claim_of_training_longcontext_in_80_gb_is_false(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, "plan", "longcontext", "--on", "h100-80gb")
    assert found["fits"] is False
    assert found["plans"] == []
    closest = found["closest"]["memory"]
    assert closest["weights_bytes"] + closest["optimizer_bytes"] == 14 * 5_802_037_248
    assert found["smallest_count"] >= 2


def test_untested_devices_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plan", "tiny-llama", "--on", "tpu-v5e", "--count", "4")
    assert "untested" in out
    assert record(capsys, "plan", "tiny-llama", "--on", "tpu-v5e", "--count", "4")["device_untested"]


def test_prices_and_network_can_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    slow = record(capsys, *LLAMA, "--tokens", "1T", "--network", "1GB/s")
    fast = record(capsys, *LLAMA, "--tokens", "1T", "--network", "400GB")
    assert slow["plans"][0]["cost"]["seconds"] > fast["plans"][0]["cost"]["seconds"]
    assert slow["network"]["across"] == 1e9
    own = record(capsys, *TINY, "--tokens", "1B", "--buy", "1600", "--years", "3", "--pue", "1.1", "--rent", "0.5/h")
    assert own["prices"]["buy_dollars"] == 1600
    assert own["prices"]["rent_dollars_per_hour"] == 0.5


def test_checkpointing_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    for way in ("none", "layers"):
        found = record(capsys, *LLAMA, "--checkpointing", way)
        assert {plan["checkpointing"] for plan in found["plans"]} == {way}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], "count=0"),
        (["--count", "-3"], "cannot read"),
        (["--count", "2.5"], "not a whole number"),
        (["--count", "3M"], "out of range"),
        (["--batch-tokens", "10"], "less than one sequence"),
        (["--batch-tokens", "1T"], "unknown unit"),
        (["--tokens", "0"], "at least one token"),
        (["--tokens", "-1T"], "cannot read"),
        (["--tokens", "1TB"], "unknown unit"),
        (["--tokens", "many"], "cannot read"),
        (["--rent", "2GB"], "dollars an hour"),
        (["--rent", "-1"], "dollars an hour"),
        (["--buy", "3/h"], "as dollars"),
        (["--electricity", "free"], "as dollars"),
        (["--pue", "0.5"], "out of range"),
        (["--pue", "x"], "as a number"),
        (["--utilisation", "70"], "out of range"),
        (["--years", "nan"], "out of range"),
        (["--network", "fast"], "bytes per second"),
        (["--network", "0"], "no speed"),
        (["--mode", "qlora", "--dtype", "nf4"], "plans are for training"),
        (["--mode", "dream"], "mode"),
        (["--optimizer", "sgd"], "optimizer"),
        (["--checkpointing", "some"], "there is no checkpointing"),
        (["--loss", "less"], "loss"),
        (["--dtype", "int4"], "no gradients"),
        (["--context", "0"], "at least one token"),
        (["--top", "0"], "--top 0"),
        (["--set", "width=0"], "width"),
    ],
)
def test_bad_input_is_answered_with_the_way_out(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = run(capsys, *TINY, *arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert "fix:" in err
    assert "Traceback" not in err


def test_a_device_that_there_is_not_is_answered_with_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "plan", "tiny-llama", "--on", "rtx-409")
    assert code == 2
    assert "did you mean" in err


@pytest.mark.parametrize(
    "spec", ["seq2seq-small", "speedrun", "mamba2", "tiny-llama-moe", "tiny-gpt2", "context-aware-bert"]
)
def test_every_kind_of_spec_is_planned(capsys: pytest.CaptureFixture[str], spec: str) -> None:
    found = record(capsys, "plan", spec, "--on", "rtx-4090", "--count", "6", "--tokens", "1B")
    assert found["fits"] is True
    code, out, _ = run(capsys, "plan", spec, "--on", "rtx-4090", "--count", "6", "--tokens", "1B")
    assert code == 0
    assert out


def test_help_has_examples_that_parse() -> None:
    result: Result = CliRunner().invoke(front, ["plan", "-h"])
    assert result.exit_code == 0
    assert result.output.count("vitruvius plan ") >= 3
