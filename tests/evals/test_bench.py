"""A bench from end to end on tiny models: what is measured, what is predicted, and that nobody can mistake the two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Literal

import pytest
import torch

from vitruvius.evals import bench as benching
from vitruvius.evals import machine as machines
from vitruvius.evals.bench import bench
from vitruvius.evals.request import Contender, Request
from vitruvius.evals.timing import compare
from vitruvius.lab.benching import contender, default_lengths, request_of
from vitruvius.lab.steps import PHASES
from vitruvius.nn import implements, registry
from vitruvius.spec import node, preset, read_text
from vitruvius.spec.node import FeedForward, register

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = 3600.0
"""Seconds that are enough for everything here on any machine."""


@cache
def measured_machine():
    return machines.measure(effort=machines.QUICK, models=False)


def run(*names, lengths=(8, 24), phases=tuple(PHASES), seconds=LONG, **more):
    asked = {"batch": 2, "dtype": "bf16", "warmups": 1, "runs": 3, "seed": 0, **more}
    contenders = [name if isinstance(name, Contender) else contender(preset(name), dtype="bf16") for name in names]
    request = Request(lengths=lengths, phases=phases, seconds=seconds, effort=machines.QUICK, **asked)
    return bench(contenders, request, PHASES, machine=measured_machine())


@pytest.fixture(scope="module")
def document():
    found = run("tiny-llama-moe").to_dict()
    return json.loads(json.dumps(found, allow_nan=False))


def keys(value):
    """The shape of a document: names of keys, all the way down."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_the_contract_of_the_document(document):
    assert document["schema"] == "vitruvius.bench/1"
    assert set(document["tokens_per_second"]) == {"median", "iqr", "q1", "q3"}
    assert document["headline"] == {"phase": "prefill", "length": 24}
    assert (document["warmups"], document["runs"]) == (1, 3)
    assert document["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in document["rows"])
    assert [(row["phase"], row["length"]) for row in document["rows"]] == [
        (phase, length) for phase in PHASES for length in (8, 24)
    ]


def test_a_measured_row_has_every_number_and_they_agree(document):
    for row in document["rows"]:
        assert row["status"] == "measured" and row["reason"] is None
        seconds, rate = row["seconds"], row["tokens_per_second"]
        assert row["runs"] == 3 and row["warmups"] == 1
        assert row["tokens_per_run"] == (2 if row["phase"] == "decode" else 2 * row["length"])
        assert rate["median"] == pytest.approx(row["tokens_per_run"] / seconds["median"])
        assert rate["iqr"] == pytest.approx(rate["q3"] - rate["q1"])
        assert row["flops_exact"] is True
        assert row["flops_per_second"] == pytest.approx(row["flops"] / seconds["median"])
        assert row["share_of_bound"] == pytest.approx(row["bound"]["seconds"] / seconds["median"])
        assert row["peak_memory_bytes"] == row["held_bytes"] + row["extra_bytes"]
        assert row["predicted"]["off_by"] >= 1
        assert row["predicted"]["measured_over_predicted"] > 0


def test_the_breakdown_of_each_phase_adds_up(document):
    assert [found["phase"] for found in document["breakdown"]] == list(PHASES)
    for found in document["breakdown"]:
        assert found["length"] == 24
        assert found["sum_of_parts_seconds"] == pytest.approx(found["seconds"], rel=1e-9)
        for kind in ("components", "blocks", "parts"):
            assert sum(part["share"] for part in found[kind]) == pytest.approx(1.0, rel=1e-6)


def test_what_there_is_no_time_for_is_predicted_and_marked(document):
    found = json.loads(json.dumps(run("tiny-llama-moe", seconds=0.0).to_dict(), allow_nan=False))
    assert keys(found["rows"][0]).keys() == keys(document["rows"][0]).keys()
    assert {row["status"] for row in found["rows"]} == {"predicted"}
    assert found["tokens_per_second"] == {"median": None, "iqr": None, "q1": None, "q3": None}
    assert found["headline"] is None and found["peak_memory_bytes"] is None
    for row in found["rows"]:
        guess = row["predicted"]
        assert row["seconds"] is None and row["tokens_per_second"] is None and row["runs"] == 0
        assert "--minutes" in row["reason"]
        assert guess["low_seconds"] < guess["seconds"] < guess["high_seconds"]
        assert guess["peak_memory_bytes"] > 0
        assert guess["basis"] == "runs of 24 tokens"


def test_what_does_not_fit_into_memory_is_not_built_and_its_prediction_says_what_it_stands_on(monkeypatch):
    def never():
        raise AssertionError("it was built")

    monkeypatch.setattr(benching, "available_bytes", lambda _device: 1_000_000)
    big = Contender(name="big", architecture=preset("tiny-llama"), model=never)
    found = run(big)
    assert {row.status for row in found.rows} == {"predicted"}
    assert {row.reason for row in found.rows} == {"the weights do not fit into memory"}
    assert all("rates alone" in row.expected.basis and row.expected.off_by >= 4 for row in found.rows)
    assert "nothing was run" in found.notes[0]


@pytest.mark.slow
def test_a_length_that_does_not_fit_is_left_out_and_the_others_are_run(monkeypatch):
    room = 60_000_000
    monkeypatch.setattr(benching, "available_bytes", lambda _device: room)
    found = run("tiny-longcontext", lengths=(32, 1600), phases=("train",))
    assert [row.status for row in found.rows] == ["measured", "predicted"]
    assert "memory are free" in found.rows[1].reason


@pytest.mark.slow
def test_two_contenders_run_in_the_same_rounds_and_their_verdict_follows_from_the_times():
    found = run("tiny-llama", "tiny-llama-moe", lengths=(16,), phases=("prefill", "decode"), runs=9)
    assert [(row.contender, row.phase) for row in found.rows] == [
        (name, phase) for phase in ("prefill", "decode") for name in ("tiny-llama", "tiny-llama-moe")
    ]
    assert [versus.phase for versus in found.versus] == ["prefill", "decode"]
    for versus in found.versus:
        assert versus.comparison.rounds == 9
        assert versus.to_dict()["verdict"] in {"faster", "slower", "inconclusive"}


def test_a_phase_that_does_not_apply_says_why_and_the_rest_is_run():
    spec = preset("context-aware-bert")
    from vitruvius.spec import shrink

    found = run(contender(shrink(spec), dtype="bf16"), lengths=(16,))
    by_phase = {row.phase: row for row in found.rows}
    assert by_phase["decode"].status == "does not apply"
    assert "sees later tokens" in by_phase["decode"].reason
    assert by_phase["prefill"].status == by_phase["train"].status == "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bomb(FeedForward):
    """A feed-forward network that raises where gradients are wanted."""

    kind: Literal["bomb"] = "bomb"


@pytest.fixture
def bomb():
    register(Bomb)

    @implements(Bomb)
    class BombModule(torch.nn.Module):
        def __init__(self, spec, scope, factory):
            super().__init__()

        def forward(self, x_BTD, place):
            if torch.is_grad_enabled() and self.training:
                raise FloatingPointError("boom\nboom")
            return x_BTD

    yield read_text(
        "name: bomb\nvocab_size: 64\nwidth: 32\ncontext: 64\nblocks:\n  a:\n"
        "    mixer: {kind: attention, heads: 2, sees: causal, position: alibi}\n    ffn: bomb\nlayers: a\n"
    ).architecture
    del node._registry["ffn"]["bomb"], registry._modules[Bomb]


def test_a_component_that_raises_fails_its_rows_and_no_others(bomb):
    found = run(contender(bomb, dtype="bf16"))
    status = {(row.phase, row.status) for row in found.rows}
    assert status == {("prefill", "measured"), ("decode", "measured"), ("train", "failed")}
    assert {row.reason for row in found.rows if row.status == "failed"} == {"raised FloatingPointError: boom boom"}
    json.dumps(found.to_dict(), allow_nan=False)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    found = run("tiny-llama", lengths=(8,), phases=("decode",), threads=2)
    assert found.threads == 2
    assert torch.get_num_threads() == before


def test_an_interrupt_goes_through(monkeypatch):
    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "take_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("tiny-llama", lengths=(8,), phases=("decode",))


def test_usual_lengths_are_those_that_fit_or_parts_of_the_context():
    assert default_lengths(131_072) == (4096, 16_384, 65_536, 102_400)
    assert default_lengths(20_000) == (4096, 16_384)
    assert default_lengths(4096) == (256, 1024, 4096)
    assert default_lengths(1) == (1,)


def test_phases_run_in_the_order_of_the_table_with_training_last():
    request = request_of([contender(preset("tiny-llama"), dtype="bf16")], phases="train, decode,prefill")
    assert request.phases == ("prefill", "decode", "train")
    assert [bool(phase.disturbs) for phase in PHASES.values()] == [False, False, True]


def test_verdicts_of_a_bench_are_those_of_its_paired_times():
    times = {"a": [1.0 + 0.001 * i for i in range(12)], "b": [1.2 + 0.001 * i for i in range(12)]}
    assert compare(times["a"], times["b"]).verdict == "faster"
