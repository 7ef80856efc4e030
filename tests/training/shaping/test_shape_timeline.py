"""A timeline is a function of the updates done; a signal fires when it did what is waited for, and only then."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.training.settings.shape import Plateau, Signal, updates_done
from vitruvius.training.shaping.signals import Waiting, value_in
from vitruvius.training.shaping.timeline import Timeline

GIVEN = ((0, 64), (500, 128), (1000, 256))


def timeline(given=GIVEN, **fields):
    return Timeline(path="x", given=given, **fields)


def test_steps_jump_when_they_are_reached():
    line = timeline()
    assert [line.after(done) for done in (0, 499, 500, 999, 1000, 5000)] == [64, 64, 128, 128, 256, 256]
    assert list(line.changes(2000)) == [(0, 64), (500, 128), (1000, 256)]
    assert list(line.changes(1000)) == [(0, 64), (500, 128)]


def test_between_is_a_straight_line_or_half_a_cosine_in_multiples():
    line = timeline(between="linear", every=1, whole=True)
    assert [line.after(done) for done in (0, 250, 500, 750)] == [64, 96, 128, 192]
    rounded = timeline(between="linear", every=1, whole=True, round_to=16)
    assert {value % 16 for _, value in rounded.changes(2000)} == {0}
    assert [value for _, value in rounded.changes(2000)] == list(range(64, 257, 16))
    cosine = timeline(given=((0, 1.0), (100, 0.0)), between="cosine", every=1)
    assert cosine.after(50) == pytest.approx(0.5)
    assert cosine.after(25) == pytest.approx(0.853553, abs=1e-6)
    assert cosine.after(100) == 0.0


def test_on_the_way_values_change_every_so_many_updates_alone():
    line = timeline(given=((0, 0.0), (100, 1.0)), between="linear", every=25)
    assert list(line.changes(200)) == [(0, 0.0), (25, 0.25), (50, 0.5), (75, 0.75), (100, 1.0)]
    assert line.after(49) == 0.25


def test_there_is_nothing_between_a_number_and_none():
    assert timeline(given=((0, None), (10, 4.0)), between="linear", every=1).after(9) is None


@given(
    points=st.dictionaries(st.integers(1, 500), st.integers(1, 10_000), min_size=1, max_size=5),
    first=st.integers(1, 10_000),
    between=st.sampled_from(["step", "linear", "cosine"]),
    every=st.integers(1, 60),
    unit=st.sampled_from([None, 7.0, 16.0]),
)
def test_a_timeline_stays_between_its_given_values_and_meets_them(points, first, between, every, unit):
    given_ = ((0, first), *sorted(points.items()))
    line = Timeline(path="x", given=given_, between=between, every=every, round_to=unit, whole=True)
    changes = dict(line.changes(600))
    value = None
    for done in range(600):
        value = changes.get(done, value)
        assert line.after(done) == value
        assert type(value) is int
        assert min(v for _, v in given_) <= value <= max(v for _, v in given_)
    assert all(line.after(start) == target for start, target in given_)


@pytest.mark.parametrize(("key", "done"), [("0", 0), ("500", 500), ("0.5", 1000), ("0.25", 500), (0.5, 1000), (7, 7)])
def test_a_key_is_a_number_of_updates_or_a_share_of_the_run(key, done):
    assert updates_done(key, 2000) == done


@pytest.mark.parametrize(
    "key", ["-1", "1.5", "1.0", "0.0", "x", "", "nan", "inf", "1e3", "1_0", "٣", "9" * 30, "0." + "1" * 40]
)
def test_other_keys_are_refused(key):
    with pytest.raises(ValueError):
        updates_done(key, 2000)


# ---------------------------------------------------------------------------------------------------------- signals


def fired(signal, values, changes=3):
    waiting = Waiting(signal=signal, changes=changes)
    return [number for number, value in enumerate(values) if waiting.look(value) is not None]


def test_below_and_above_have_a_limit_for_each_value():
    falling = [5.0, 4.0, 2.9, 2.8, 1.9, 0.0]
    assert fired(Signal(signal="loss", below=3.0), falling, changes=1) == [2]
    assert fired(Signal(signal="loss", below=(3.0, 2.0)), falling, changes=2) == [2, 4]
    assert fired(Signal(signal="loss", above=4.5), falling, changes=1) == [0]


def test_a_plateau_is_so_many_rows_without_a_new_lowest_and_starts_anew():
    signal = Signal(signal="val_loss", plateau=Plateau(patience=2))
    assert fired(signal, [5, 4, 4.1, 4.2, 4.3, 4.4, 4.5, 4.6]) == [3, 6]
    assert fired(Signal(signal="x", plateau=Plateau(patience=2, min_change=0.5)), [5, 4.8, 4.6, 4.4]) == [2]


def test_a_mean_waits_for_all_its_rows():
    assert fired(Signal(signal="loss", below=2.0, over=3), [1, 1, 3, 1, 1.5], changes=1) == [2]


def test_rows_without_the_signal_do_not_count():
    assert fired(Signal(signal="loss", plateau=Plateau(patience=1)), [5, None, None, 5]) == [3]


def test_a_signal_is_the_row_s_number_or_the_mean_over_its_places():
    row = {"loss": 2.0, "attention_entropy/layers.0": 1.0, "attention_entropy/layers.1": 3.0, "bad": float("nan")}
    assert value_in(row, "loss") == 2.0
    assert value_in(row, "attention_entropy") == 2.0
    assert value_in(row, "attention_entropy/layers.1") == 3.0
    assert value_in(row, "bad") is None
    assert value_in(row, "missing") is None


@given(st.lists(st.floats(-10, 10) | st.none(), max_size=60), st.integers(0, 60), st.integers(1, 4))
def test_waiting_goes_on_from_its_state_as_if_it_had_never_stopped(values, cut, over):
    signal = Signal(signal="x", plateau=Plateau(patience=2, min_change=0.1), over=over)
    straight, first = (Waiting(signal=signal, changes=5) for _ in range(2))
    whole = [straight.look(value) for value in values]
    begun = [first.look(value) for value in values[:cut]]
    second = Waiting(signal=signal, changes=5)
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + [second.look(value) for value in values[cut:]] == whole
    assert second.state() == straight.state()


@pytest.mark.parametrize(
    "damage",
    [
        {"fired": -1},
        {"fired": 9},
        {"fired": True},
        {"recent": "x"},
        {"recent": [1, "2"]},
        {"recent": [1.0] * 9},
        {"lowest": "low"},
        {"lowest": [1]},
        {"waited": 1.5},
        {"more": 1},
    ],
)
def test_a_state_that_cannot_be_one_is_refused(damage):
    waiting = Waiting(signal=Signal(signal="x", below=1.0), changes=2)
    with pytest.raises(ValueError, match=r"state of a signal|changes"):
        waiting.restore(waiting.state() | damage)
