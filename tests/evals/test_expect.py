"""Predictions from shorter runs, and how far off they say they may be."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.evals.expect import LEAST, Known, off_by, pace_of


def runs(lengths, *, per_pass=0.0, per_work=0.0, square=0.0, noise=0.0, seed=0):
    """Runs whose work grows with the length and its square, on a machine with those costs."""
    draw = random.Random(seed)
    made = []
    for length in lengths:
        work, passes = length + square * length**2, -(-length // 512)
        seconds = (per_pass * passes + per_work * work) * (1 + draw.uniform(-noise, noise))
        made.append(Known(length=length, passes=passes, work=work, seconds=seconds))
    return made


@given(st.floats(1e-6, 1.0), st.floats(1e-9, 1e-3))
def test_a_pace_that_is_there_is_found(per_pass, per_work):
    known = runs([64, 500, 4096], per_pass=per_pass, per_work=per_work)
    pace = pace_of(known)
    for run in runs([100, 16_384, 65_536], per_pass=per_pass, per_work=per_work):
        assert pace.seconds(run.passes, run.work) == pytest.approx(run.seconds, rel=1e-3)


@given(st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=5))
def test_costs_are_never_negative_whatever_was_measured(times):
    known = [Known(length=10**i, passes=1, work=10.0**i, seconds=time) for i, time in enumerate(times, 1)]
    pace = pace_of(known)
    assert pace.per_pass >= 0 and pace.per_work >= 0
    assert pace.seconds(1, 100.0) > 0


def test_without_runs_there_is_no_pace():
    with pytest.raises(ValueError, match="no runs"):
        pace_of([])


@pytest.mark.parametrize("length", [2_048, 16_384, 102_400])
@pytest.mark.parametrize("costs", [{"per_pass": 1e-2}, {"per_work": 1e-5}, {"per_pass": 1e-2, "per_work": 1e-5}])
def test_the_truth_lies_within_what_a_prediction_says_it_may_be_off(length, costs):
    for seed in range(20):
        known = runs([64, 192, 1024], **costs, square=1e-3, noise=0.05, seed=seed)
        (truth,) = runs([length], **costs, square=1e-3)
        guess = pace_of(known).seconds(truth.passes, truth.work)
        factor = off_by(known, passes=truth.passes, work=truth.work, seconds=guess)
        assert guess / factor <= truth.seconds <= guess * factor


def test_a_leap_from_two_short_runs_says_that_it_may_be_far_off():
    known = runs([64, 192], per_pass=1e-2, per_work=1e-6, noise=0.02)
    (near,) = runs([256], per_pass=1e-2, per_work=1e-6)
    (far,) = runs([102_400], per_pass=1e-2, per_work=1e-6)
    factors = [
        off_by(known, passes=1, work=one.work, seconds=pace_of(known).seconds(1, one.work)) for one in (near, far)
    ]
    assert LEAST < factors[0] < 3 < factors[1]


def test_more_runs_narrow_it():
    costs = {"per_pass": 1e-2, "per_work": 1e-5}
    (far,) = runs([102_400], **costs)
    factors = []
    for lengths in ([64], [64, 192], [64, 192, 4096], [64, 192, 4096, 16_384]):
        known = runs(lengths, **costs)
        guess = pace_of(known).seconds(far.passes, far.work)
        factors.append(off_by(known, passes=far.passes, work=far.work, seconds=guess))
    assert all(after <= before + 1e-6 for before, after in pairwise(factors))
    assert factors[-1] < 1.5
