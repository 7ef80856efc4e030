"""The benches that wait for a card: each runs in a small form on the CPU, and keeps what it has when it is cut off."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import card  # pyright: ignore[reportMissingImports]
import cases  # pyright: ignore[reportMissingImports]
import pytest

from vitruvius.sizing.hardware.catalogue import device_named
from vitruvius.spec import resolve

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bench" / "gpu"
SMALL = ("--device", "cpu", "--small", "--json")


def bench(script: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A script of the folder, run as a reader runs it."""
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def found(script: str, *arguments: str) -> dict[str, Any]:
    """What it prints."""
    return json.loads(bench(script, *SMALL, *arguments).stdout)


# ----------------------------------------------------------------------------------------------------------------------
# In a small form on the CPU


@pytest.mark.slow
def test_throughput_runs_ours_and_a_peer_in_turns_over_the_same_tokens(tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    asked = ("--case", "moe", "--mode", "eager", "--peer", "hf", "--rounds", "2", "--steps", "2", "--warmups", "1")
    result = found("train_throughput.py", *asked, "--out", str(out), "--write", str(page))
    assert json.loads(out.read_text()) == result
    assert result["finished"] and result["small"] and result["card"] is None
    ours, theirs = result["rows"]
    assert (ours["contestant"], theirs["contestant"]) == ("vitruvius", "hf")
    assert ours["parameters"] == theirs["parameters"] == ours["parameters_counted"]
    assert ours["checksums"] == theirs["checksums"]
    assert ours["step_milliseconds"]["count"] == theirs["step_milliseconds"]["count"] == 4
    assert ours["tokens_per_step"] == 2 * 64
    assert ours["loss_last"] < ours["loss_first"]
    assert theirs["ours_times_as_fast"]["count"] == 2
    # A CPU has no peak here and no allocator that counts: nothing is made up for it.
    assert ours["mfu_exact"] is ours["mfu_palm"] is ours["peak_bytes"] is ours["error_percent"] is None
    assert "no figure here says anything about speed" in page.read_text()


@pytest.mark.slow
def test_a_contestant_that_fails_is_noted_and_the_others_go_on():
    broken = ("--python", f"litgpt={sys.executable}", "--peer", "litgpt")
    asked = ("--case", "longcontext", "--mode", "eager", "--rounds", "1", "--steps", "1", "--warmups", "1")
    result = found("train_throughput.py", *asked, *broken)
    assert [row["contestant"] for row in result["rows"]] == ["vitruvius"]
    assert any("litgpt" in note and "ModuleNotFoundError" in note for note in result["notes"])


@pytest.mark.slow
def test_correctness_compares_every_backend_and_decoding_and_a_resumed_run():
    result = found("correctness.py", "--preset", "tiny-llama-moe")
    rows = {(row["part"], row["backend"], row["dtype"]): row for row in result["rows"]}
    assert rows["resume", "auto", "bf16"]["passed"] and rows["resume", "auto", "bf16"]["error"] == 0
    assert rows["decode", "auto", "fp32"]["passed"]
    for backend in ("reference", "sdpa", "chunked"):
        assert rows["gradients", backend, "fp32"]["error"] < 1e-5
        assert rows["gradients", backend, "bf16"]["passed"]
    assert "no backward pass" in rows["gradients", "flex", "fp32"]["why_not"]


@pytest.mark.slow
def test_memory_is_predicted_and_measured_for_each_way():
    result = found("memory.py", "--model", "longcontext", "--way", "plain", "--way", "8-bit", "--way", "ema")
    assert [row["way"] for row in result["rows"]] == ["plain", "8-bit", "ema"]
    for row in result["rows"]:
        assert row["measured_bytes"] > 0
        assert abs(row["error_percent"]) < 10
    plain, eight, average = (row["measured_bytes"] for row in result["rows"])
    assert eight < plain < average


@pytest.mark.slow
def test_flex_is_compared_forward_where_there_is_no_backward_pass():
    result = found("flex_backward.py")
    assert result["finished"] and result["speeds"] == []
    assert [row["passed"] for row in result["errors"]] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_throughput.py", "correctness.py", "memory.py", "flex_backward.py"])
def test_without_a_card_nothing_is_measured_and_it_says_so(script):
    if card.torch.cuda.is_available():
        pytest.skip("there is a card")
    done = bench(script, code=card.NO_CARD)
    assert "--device cpu --small" in done.stderr
    assert done.stdout == ""


# ----------------------------------------------------------------------------------------------------------------------
# What they train


def test_the_cases_are_as_large_as_they_are_called():
    sizes = {name: cases.flops_of(resolve(case.architecture), case.workload) for name, case in cases.CASES.items()}
    assert sizes["longcontext-whole"].parameters == sizes["longcontext-100k"].parameters == 5_802_037_248
    for name in ("moe", "llama-moe", "longcontext", "longcontext-32k"):
        assert 1.1e9 < sizes[name].parameters < 1.2e9
    assert sizes["llama-moe"].active < 0.5 * sizes["llama-moe"].parameters


@pytest.mark.parametrize("name", cases.CASES)
def test_the_command_of_a_case_gives_its_spec(name):
    case = cases.CASES[name]
    command = [sys.executable, "-m", "vitruvius", *case.command.split()[1:3]]
    for one in (*case.sets, f"context={case.context}"):
        assert f"--set '{one}'" in case.command
        command += ["--set", one]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_useful_flops_are_counted_exactly_and_by_the_convention():
    case = cases.small(cases.CASES["longcontext"])
    graph = resolve(case.architecture)
    flops = cases.flops_of(graph, case.workload)
    assert flops.exact * case.context == 3 * graph.flops(case.context).useful
    # 3 layers of 4 heads of 16, 64 tokens: 12 L H Q T
    assert flops.palm == 6 * flops.active + 12 * 3 * 4 * 16 * 64
    full = cases.flops_of(resolve(case.peer_architecture), case.workload)
    assert full.palm == flops.palm and full.exact > flops.exact


def test_a_case_that_does_not_fit_gets_checkpointing_and_then_fewer_bits_and_then_up():
    case = replace(cases.CASES["longcontext-whole"], checkpointing="none")
    giga = 10**9
    chosen = [cases.fitting(case, room * giga)[0] for room in (400, 110, 80, 40)]
    assert [None if way is None else (way.checkpointing, way.optimizer) for way in chosen] == [
        ("none", "adamw"),
        ("layers", "adamw"),
        ("layers", "adamw-8bit"),
        None,
    ]
    _, said = cases.fitting(case, 80 * giga)
    # The arithmetic is there to be checked: 5.8 B parameters at 2, 4 and 8 bytes.
    assert "weights 11.60 GB + masters 23.21 + moments 46.42" in said[0]


@pytest.mark.slow
def test_our_mixture_and_the_peers_have_the_same_parameters():
    transformers = pytest.importorskip("transformers")
    case = cases.CASES["moe"]
    layers = resolve(case.architecture).layers
    mixer, ffn = layers[0].mixer, layers[0].ffn
    config = transformers.MixtralConfig(
        vocab_size=case.architecture.vocab_size,
        hidden_size=case.architecture.width,
        num_hidden_layers=len(layers),
        num_attention_heads=mixer.heads,
        num_key_value_heads=mixer.groups,
        head_dim=128,
        intermediate_size=ffn.expert.hidden,
        num_local_experts=ffn.experts,
        tie_word_embeddings=case.architecture.head.tied,
    )
    with card.torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in transformers.MixtralForCausalLM(config).parameters())
    assert theirs == cases.flops_of(resolve(case.architecture), case.workload).parameters


# ----------------------------------------------------------------------------------------------------------------------
# Cards, clocks, partial results


@pytest.mark.parametrize(
    ("title", "memory", "name"),
    [
        ("NVIDIA H200", 150_754_820_096, "h200-141gb"),
        ("NVIDIA H100 80GB HBM3", 85_000_000_000, "h100-80gb"),
        ("NVIDIA A100-SXM4-80GB", 85_000_000_000, "a100-80gb"),
        ("NVIDIA GeForce RTX 4090", 25_300_000_000, "rtx-4090"),
        ("NVIDIA Nothing 9000", 25_300_000_000, None),
        ("NVIDIA H200", 24_000_000_000, None),
    ],
)
def test_a_card_is_found_in_the_catalogue_by_what_its_driver_calls_it(title, memory, name):
    device = card.named_like(title, memory)
    assert (None if device is None else device.name) == name


def test_a_card_has_a_peak_with_its_source():
    assert device_named("h200-141gb").peak("bf16") == 989.5e12
    asked = card.facts("cpu", device_named("h200-141gb"))
    assert "datasheet" in asked["peak_source"]


def _results(tmp_path: Path, **rest: Any) -> card.Results:
    asked = argparse.Namespace(
        device="cpu", small=True, minutes=9.0, json=False, out=tmp_path / "a" / "out.json", write=tmp_path / "page.md"
    )
    return card.Results(
        schema="x/1",
        asked=asked,
        hardware=None,
        page=lambda data: f"{len(data['rows'])} rows",
        title="T",
        script="s.py",
    )


def test_what_was_found_before_a_run_was_cut_off_is_on_the_disk(tmp_path, capsys):
    results = _results(tmp_path)
    results.add({"case": "a", "value": 1})
    data, page = json.loads((tmp_path / "a" / "out.json").read_text()), (tmp_path / "page.md").read_text()
    assert data["rows"] == [{"case": "a", "value": 1}] and data["finished"] is False
    assert "did not come to its end" in page and "1 rows" in page and "bench/gpu/s.py" in page
    results.put({"case": "a", "value": 2}, key=("case",))
    results.put({"case": "b", "value": 3}, key=("case",))
    results.end()
    data = json.loads((tmp_path / "a" / "out.json").read_text())
    assert [row["value"] for row in data["rows"]] == [2, 3] and data["finished"] is True
    assert "did not come to its end" not in (tmp_path / "page.md").read_text()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert capsys.readouterr().out == "2 rows\n"


def test_nothing_new_is_started_after_the_minutes_are_over(tmp_path):
    results = _results(tmp_path)
    assert results.in_time
    results.asked.minutes = 0.0
    assert not results.in_time


def test_a_part_that_fails_takes_nothing_from_the_others(tmp_path):
    shell = tmp_path / "python"
    shell.write_text('#!/bin/sh\ncase "$1" in *correctness.py) exit 1;; esac\necho ran "$@"\n')
    shell.chmod(0o755)
    command = ["sh", str(FOLDER / "all.sh"), str(tmp_path / "out"), "correctness", "memory"]
    env = {**os.environ, "PYTHON": str(shell), "DEVICE": "cpu", "SMALL": "--small"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1
    for name in ("flex", "memory"):
        assert "--device cpu --small" in (tmp_path / "out" / f"{name}.txt").read_text()
    assert "correctness ended with 1" in (tmp_path / "out" / "all.log").read_text()


def test_all_refuses_a_part_that_there_is_not_and_a_call_without_a_folder(tmp_path):
    for arguments in ([], [str(tmp_path), "nonsense"]):
        done = subprocess.run(["sh", str(FOLDER / "all.sh"), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr
