"""`train.compile` with what else changes or looks at a model while it trains: the rows are those of the plain run."""

from __future__ import annotations

from pathlib import Path

import pytest
from halves import furthest  # pyright: ignore[reportMissingImports]

SCRIPT = Path(__file__).with_name("compiled_runs.py")


def alike(found):
    """Numbers to 1e-5, all else equal; of single components no compiled run knows. The rows of the compiled one."""
    plain, made = found["none"], found["default"]
    assert made["graphs"] > 0 == plain["graphs"]
    assert len(plain["rows"]) == len(made["rows"]) > 0
    for one, other in zip(plain["rows"], made["rows"], strict=True):
        timed = {key for key in one if "second" in key or key == "watch_share"}
        assert set(other) - timed == {key for key in one if not key.startswith("kept_bytes/")} - timed
        for key in set(other) - timed:
            near = isinstance(other[key], (int, float))
            due = pytest.approx(one[key], rel=1e-5, abs=1e-8) if near else one[key]
            assert other[key] == due, (one["step"], key)
    assert [each["kind"] for each in plain["events"]] == [each["kind"] for each in made["events"]]
    return made["rows"]


@pytest.mark.slow
def test_what_a_schedule_changes_is_not_kept_in_compiled_code(asked):
    """Windows, dilation, a position gate, router noise and losses, a cap by step, and top_k by a signal."""
    found = asked("alone")["schedules"]
    alike(found)
    changed = {(event["step"], event["field"]) for event in found["default"]["events"] if event["kind"] == "shape"}
    assert {step for step, _ in changed} == {1, 3, 5}
    assert (5, "blocks.mixture.ffn.top_k") in changed


@pytest.mark.slow
def test_averages_validations_texts_monitors_and_detectors_see_the_same(asked):
    found = asked("alone")["looks"]
    row = alike(found)[1]
    assert {"val_loss", "val_loss_ema", "z_loss", "aux_loss", "position_gate_mean"} <= set(row)
    assert any(name.startswith("attention_entropy") for name in row)
    assert found["none"]["texts"] == found["default"]["texts"]
    assert [step for step, _ in found["default"]["texts"]] == [3, 6]


@pytest.mark.slow
def test_other_lengths_and_smaller_pieces_are_compiled_on_the_way(asked):
    """A curriculum brings three lengths, and a shortage in the fifth update smaller batches."""
    found = asked("alone")["lengths"]
    assert [row.get("context") for row in alike(found)] == [4, 8, 16, 16, 16, 16]
    (short,) = [event for event in found["default"]["events"] if event["kind"] == "out-of-memory"]
    assert (short["step"], short["next_accumulate"]) == (5, 2)


@pytest.mark.slow
def test_a_rewound_update_is_computed_again(asked):
    found = asked("alone")["rewound"]
    alike(found)
    assert "not-finite" in {event["kind"] for event in found["default"]["events"]}


@pytest.mark.slow
def test_a_run_goes_on_compiled_or_not(asked):
    found = asked("alone")["resumed"]
    for then in ("none", "default"):
        assert furthest(found["straight"], found[then]["rows"]) < 1e-5
        assert (found[then]["graphs"] > 0) == (then == "default")


@pytest.mark.slow
def test_no_number_is_asked_for_in_the_midst_of_compiled_code(asked):
    """torch breaks off there with a warning: runs of a mixture in bf16 are filled up, a learned table looks how far."""
    for name, reasons in asked("alone")["breaks"].items():
        assert reasons, name
        assert not [each for each in reasons if "Tensor.item()" in each or "Tensor.tolist()" in each], name


@pytest.mark.slow
def test_two_processes_compile_each_for_itself(asked):
    found = asked("ranks")
    for name in ("none", "default"):
        assert [end["value"] and end["value"]["status"] for end in found[name]["ends"]] == ["finished"] * 2, found
    assert furthest(found["none"]["rows"], found["default"]["rows"]) < 1e-5
    assert furthest(found["none"]["rows"], found["default"]["rows"], "grad_norm") < 1e-5
