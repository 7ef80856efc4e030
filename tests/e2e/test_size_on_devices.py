"""`vitruvius size --on`: will it run, how fast, and what to change; from the command line to its exit code."""

from __future__ import annotations

import json
import shlex

import pytest

GPU = 'memory = "16 GB"\nbandwidth = "500 GB/s"\nflops = {bf16 = "100 TFLOP/s"}\n'


@pytest.fixture
def sized(said):
    """A function that runs `vitruvius size ... --json` and gives the document."""

    def call(*argv):
        code, out, err = said("size", *argv, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def test_every_key_of_the_contract_is_there_with_and_without_hardware(sized):
    plain, on = sized("tiny-llama"), sized("tiny-llama", "--on", "rtx-4090", "--on", "h100-80gb")
    assert plain.keys() == on.keys()
    assert plain["decode"].keys() == on["decode"].keys()
    assert plain["memory"].keys() == on["memory"].keys()
    assert (plain["fits"], plain["on"], plain["decode"]["tokens_per_second_bound"]) == (None, [], None)
    assert on["fits"] is True
    assert on["decode"] == on["on"][0]["decode"]
    assert [device["device"] for device in on["on"]] == ["rtx-4090", "h100-80gb"]
    wanted = "weights_bytes kv_cache_bytes state_bytes activations_bytes gradients_bytes optimizer_bytes adapters_bytes"
    assert {*wanted.split(), "peak_bytes", "margin_bytes", "activations_error_bytes"} <= plain["memory"].keys()


def test_the_question_of_the_issue_is_answered(sized):
    found = sized("llama-3-8b", "--on", "rtx-4090", "--context", "131072", "--mode", "qlora")
    device = found["on"][0]
    assert (found["fits"], found["dtype"], found["workload"]["adapters"]["parameters"]) == (False, "nf4", 41_943_040)
    assert device["spare_bytes"] == device["available_bytes"] - device["needed_bytes"] < 0
    assert 1000 < device["largest_context"] < 131_072
    assert device["largest_batch"] == 0
    assert device["changes"]
    for change in device["changes"]:
        words = [word for flag in change["flags"] for word in shlex.split(flag)]
        kept = [] if "--context" in words else ["--context", "131072"]
        again = sized("llama-3-8b", "--on", "rtx-4090", "--mode", "qlora", *kept, *words)
        assert again["fits"], change
        assert again["on"][0]["needed_bytes"] == change["needed_bytes"]


def test_the_last_line_is_the_same_question_after_the_first_change(said):
    code, out, err = said("size", "llama-3-8b", "--on", "rtx-4090", "--mode", "train", "--context", "2k")
    assert code == 0
    assert "no" in out
    command = err.splitlines()[-1].removeprefix("next: vitruvius ")
    code, out, _ = said(*shlex.split(command), "--json")
    assert code == 0
    assert json.loads(out)["fits"] is True
    assert json.loads(out)["context"] == 2048


def test_what_fits_is_followed_by_the_cheapest_next_experiment(said, sized):
    _, _, err = said("size", "tiny-llama", "--on", "rtx-4090")
    assert "the cheapest next experiment: " in err
    assert err.endswith("next: vitruvius check tiny-llama\n")
    assert sized("tiny-llama")["next_experiment"]["command"] == "vitruvius check tiny-llama"


@pytest.mark.parametrize("mode", ["inference", "train", "lora", "qlora"])
def test_the_table_of_devices_fits_80_columns(mode, said):
    devices = ["rtx-4090", "ryzen-7950x", "tpu-v6e", "t4"]
    code, out, _ = said("size", "llama-moe", *(word for name in devices for word in ("--on", name)), "--mode", mode)
    assert code == 0
    text = out[out.index("\non ") + 1 :]
    table, _, notes = text.partition("\n\n")
    assert len(table.splitlines()) == 1 + len(devices)
    assert max(map(len, table.splitlines())) <= 80
    notes = notes.partition("\n✗")[0]
    assert all(len(line) <= 80 or line.strip().startswith("--set") for line in notes.splitlines())
    assert all(name in table for name in devices)
    assert "untested" in notes


def test_every_time_of_a_device_opens_to_its_arithmetic(said):
    code, out, _ = said("size", "llama-moe", "--on", "rtx-4090", "--dtype", "nf4", "--context", "4k", "--explain")
    assert code == 0
    text = out[out.index("\non rtx-4090\n") :]
    for wanted in ("FLOP/s", "1,008,000,000,000 bytes/s", "of weights +", "efficiency: ", "2 experts of each mixture"):
        assert wanted in text
    assert "linear maps in nf4 = 26,709,327,872 x 4 / 8" in out


@pytest.mark.parametrize("mode", ["train", "lora", "qlora"])
def test_training_opens_to_its_arithmetic_too(mode, said):
    code, out, _ = said("size", "tiny-llama-moe", "--mode", mode, "--explain")
    assert code == 0
    assert "bytes of gradients = " in out
    assert "bytes of activations" in out


def test_a_file_of_ones_own_is_a_device(sized, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-gpu.toml").write_text(GPU, encoding="utf-8")
    device = sized("tiny-llama", "--on", "./my-gpu.toml")["on"][0]
    assert device["device"] == "my-gpu"
    assert "efficiency" in device["assumed"]


def test_several_of_a_device_hold_more(sized):
    one, eight = (
        sized("deepseek-v3", "--on", "h200-141gb", "--count", count, "--dtype", "fp8", "--context", "4k")
        for count in ("1", "8")
    )
    assert (one["fits"], eight["fits"]) == (False, True)
    assert eight["on"][0]["available_bytes"] == 8 * one["on"][0]["available_bytes"]
    bounds = [found["decode"]["tokens_per_second_bound"] for found in (one, eight)]
    assert bounds[1] == pytest.approx(8 * bounds[0])


def test_an_encoder_decodes_nothing_and_says_so(sized, said):
    assert sized("context-aware-bert", "--on", "rtx-4090")["decode"]["tokens_per_second_bound"] is None
    assert "none" in said("size", "context-aware-bert", "--on", "rtx-4090")[1]


def test_sensitivity_and_frontier_come_with_the_bill(sized, tmp_path):
    picture = tmp_path / "frontier.svg"
    argv = ("tiny-llama", "--on", "rtx-4090", "--sensitivity", "--frontier", str(picture))
    found = sized(*argv)
    assert found["sensitivity"]["fields"]
    assert found["frontier"]["curves"]
    assert picture.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--on", "rtx-409"], "did you mean rtx-4090"),
        (["--on", "rtx-4090", "--on", "rtx-4090"], "rtx-4090 is named twice"),
        (["--on", "rtx-4090", "--count", "0"], "count=0 is out of range"),
        (["--on", "missing.toml"], "missing.toml"),
        (["--on", "zero.toml"], "zero.toml  bandwidth"),
        (["--on", "this-machine"], "vitruvius bench --machine"),
        (["--frontier", "x.svg"], "--frontier needs hardware"),
        (["--on", "rtx-4090", "--frontier", "no/such/folder/x.svg"], "no/such/folder"),
        (["--mode", "qlora", "--dtype", "bf16"], "qlora freezes quantised weights"),
        (["--mode", "train", "--dtype", "int4"], "have no gradients"),
        (["--mode", "lora", "--rank", "0"], "rank=0 is out of range"),
        (["--optimizer", "sgd"], "there is no optimizer 'sgd'"),
        (["--cache-dtype", "fp7"], "there is no number format 'fp7'"),
        (["--batch", "3000000000"], "batch=3000000000 is out of range"),
        (["--context", str(2**40)], "out of range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_one_clear_message(argv, message, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "zero.toml").write_text(GPU.replace("500", "0"), encoding="utf-8")
    code, out, err = said("size", "tiny-llama", *argv)
    assert (code, out) == (2, "")
    assert message in err


def test_learned_positions_are_an_error_that_names_the_way_out(said):
    code, _, err = said("size", "gpt2", "--on", "rtx-4090", "--context", "4k")
    assert code == 2
    assert "1,024 learned positions" in err


@pytest.mark.parametrize("mode", ["inference", "train", "qlora"])
def test_numbers_beyond_all_reason_have_a_bill(mode, said):
    argv = ("--context", str(2**40 - 1), "--batch", str(2**31), "--mode", mode, "--on", "rtx-4090")
    code, out, _ = said("size", "tiny-llama", *argv)
    assert code == 0
    assert "no" in out
