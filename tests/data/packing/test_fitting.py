"""Best-fit-decreasing in runs places items as one by one would."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitruvius.data.packing.fitting import best_fit_decreasing, next_fit

np = pytest.importorskip("numpy")


def one_by_one(lengths, capacity):
    """The rooms that are left in the bins, by the rule itself."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@st.composite
def problems(draw):
    capacity = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, capacity), max_size=80)), capacity


@given(problem=problems())
@example(problem=([], 5))
@example(problem=([1] * 11, 5))
@example(problem=([3, 3, 3, 2, 2, 2, 2], 8))
def test_bins_are_filled_as_items_one_by_one_would_fill_them(problem):
    lengths, capacity = problem
    bins, number = best_fit_decreasing(np.array(lengths, dtype=np.int64), capacity)
    filled = np.bincount(bins, weights=lengths, minlength=number).astype(int)
    assert sorted((capacity - filled).tolist()) == one_by_one(lengths, capacity)


@given(problem=problems())
def test_it_never_takes_more_bins_than_naive_packing(problem):
    lengths, capacity = problem
    _, number = best_fit_decreasing(np.array(lengths, dtype=np.int64), capacity)
    naive, _ = next_fit(np.array(lengths, dtype=np.int64), capacity)
    assert number <= naive


@given(problem=problems(), cut=st.integers(0, 80))
def test_naive_packing_goes_on_where_it_was(problem, cut):
    lengths, capacity = problem
    first, room = next_fit(np.array(lengths[:cut], dtype=np.int64), capacity)
    second, left = next_fit(np.array(lengths[cut:], dtype=np.int64), capacity, room=room)
    assert (first + second, left) == next_fit(np.array(lengths, dtype=np.int64), capacity)


def test_items_of_many_lengths_take_runs_and_not_one_step_each():
    # 200,000 items in bins of 131,072: this is over in a moment or, one by one, not within a coffee break.
    lengths = np.random.default_rng(3).integers(1, 131_072, 200_000)
    bins, number = best_fit_decreasing(lengths, 131_072)
    filled = np.bincount(bins, weights=lengths, minlength=number)
    assert filled.max() <= 131_072
    assert number <= 1.01 * lengths.sum() / 131_072
