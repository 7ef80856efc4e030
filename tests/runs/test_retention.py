"""Which checkpoints stay, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.runs import Checkpoint, RunFolder
from vitruvius.runs.checkpoints import prune
from vitruvius.runs.retention import Retention, reasons, retention_of, validation_losses


def checkpoints(*steps):
    return [Checkpoint(step=step, path=Path(f"step-{step}")) for step in steps]


def kept(steps, losses=None, **rules):
    why = reasons(checkpoints(*steps), Retention(**rules), losses or {})
    assert sorted(why) == sorted(steps)
    return {step: each for step, each in why.items() if each}


def test_the_newest_stay():
    assert kept([10, 20, 30], keep=2) == {20: ("newest",), 30: ("newest",)}


def test_those_whose_step_is_divided_stay_for_good():
    assert set(kept([100, 150, 200, 250, 300], keep=1, every=100)) == {100, 200, 300}


def test_the_best_stay_and_the_earlier_of_equally_good_ones_is_better():
    losses = {10: 2.0, 20: 1.5, 30: 1.5, 40: 3.0}
    assert kept([10, 20, 30, 40], losses, keep=1, best=1) == {20: ("best (val_loss 1.5)",), 40: ("newest",)}
    assert set(kept([10, 20, 30, 40], losses, keep=1, best=2)) == {20, 30, 40}


def test_a_checkpoint_without_a_validation_is_never_the_best():
    assert set(kept([10, 20, 30], {10: 9.0}, keep=1, best=3)) == {10, 30}


def test_the_newest_that_the_guard_may_go_back_to_stays():
    assert kept([10, 20, 25, 27], keep=1, regular=10) == {20: ("the guard goes back to it",), 27: ("newest",)}


def test_all_reasons_of_one_checkpoint_are_told():
    assert kept([10], {10: 1.0}, keep=1, every=5, best=1, regular=10) == {
        10: ("newest", "every 5", "best (val_loss 1)", "the guard goes back to it")
    }


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": -1}, {"keep": 1, "every": 0}, {"keep": 1, "best": -1}])
def test_rules_that_leave_nothing_or_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match="is below"):
        Retention(**wrong)


STEPS = st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=20)


@given(STEPS, st.integers(1, 5), st.none() | st.integers(1, 9), st.integers(0, 3), st.randoms())
def test_whatever_the_rules_the_newest_stays_and_saving_one_by_one_keeps_what_saving_at_once_does(
    steps, keep, every, best, draw
):
    """Pruning after each save never loses what a later rule would have kept."""
    steps = sorted(steps)
    losses = {step: draw.choice([1.0, 2.0, 3.0]) for step in steps if draw.random() < 0.7}
    rules = {"keep": keep, "every": every, "best": best}
    there = []
    for step in steps:
        there = sorted(kept([*there, step], losses, **rules))
        assert step in there
    assert set(kept(steps, losses, **rules)) == set(there)


def test_the_rules_are_read_from_the_settings_of_a_run_and_older_runs_have_none():
    train = {
        "keep": 3,
        "checkpoint_every": 50,
        "recovery": {"keep_every": 100, "keep_best": 2},
        "guard": {"spike": "rewind"},
    }
    assert retention_of(train) == Retention(keep=3, every=100, best=2, regular=50)
    assert retention_of(train, keep=1, finished=True) == Retention(keep=1, every=100, best=2)
    assert retention_of({}) == Retention(keep=1)
    assert retention_of({"keep": "many", "recovery": [], "guard": {"spike": []}}) == Retention(keep=1)


def test_validation_losses_are_read_from_the_rows_that_have_one(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "val_loss": 1.5}', '{"step": 3, "val_loss": null}']
    lines += ['"val_loss"', '{"val_loss": 1', '{"step": "4", "val_loss": 1.0}', '{"step": 2, "val_loss": 1.25}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "val_loss": 7.0}']))
    assert validation_losses(tmp_path) == {2: 1.25}
    assert validation_losses(tmp_path / "nowhere") == {}


def test_pruning_deletes_nothing_from_the_verified_checkpoint_on(tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        for step in (1, 2, 3, 4):
            with run.checkpoint(step) as folder:
                (folder / "state.json").write_text(json.dumps(step))
        second = run.reader.checkpoints()[1]
        gone = prune(run.reader, retention=Retention(keep=1), verified=second)
        assert [each.step for each in gone] == [1]
        assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["step-2", "step-3", "step-4"]
