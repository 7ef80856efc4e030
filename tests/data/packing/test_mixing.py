"""Turns: exact shares at every moment, from the number of the sample alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.packing.mixing import MOST_SAMPLES, Turns, whole_weights

np = pytest.importorskip("numpy")

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any)


@given(weights=WEIGHTS, first=st.integers(0, 10**12), count=st.integers(1, 300))
def test_after_any_number_of_samples_every_source_has_its_share_within_its_bound(weights, first, count):
    turns = Turns(weights)
    sources, _ = turns.draw(first, count)
    counts = np.array(turns.counts(first))
    total, bounds = sum(turns.weights), turns.bounds()
    for done, source in enumerate(sources.tolist(), first + 1):
        counts[source] += 1
        for number, weight in enumerate(turns.weights):
            assert abs(int(counts[number]) * total - weight * done) <= bounds[number] * total
    assert counts.tolist() == list(turns.counts(first + count))


@given(weights=st.lists(st.integers(0, 2**45), min_size=1, max_size=128).filter(any))
def test_the_bound_is_below_two_samples_and_one_among_three_sources_and_a_half_among_two(weights):
    turns = Turns(weights)
    used = sum(1 for weight in weights if weight)
    assert max(turns.bounds()) <= {1: 0, 2: 0.5, 3: 1}.get(used, 2)
    assert sum(turns.weights) <= 2**40 + len(weights)


@given(weights=WEIGHTS, samples=st.integers(0, 2000))
def test_a_count_is_the_number_of_turns_so_far(weights, samples):
    turns = Turns(weights)
    sources, before = turns.draw(0, samples)
    assert np.bincount(sources, minlength=len(weights)).tolist() == list(turns.counts(samples))
    for source in range(len(weights)):
        assert before[sources == source].tolist() == list(range(turns.counts(samples)[source]))


@given(weights=WEIGHTS, first=st.integers(0, 10**12), cuts=st.lists(st.integers(0, 50), max_size=5))
def test_a_draw_does_not_depend_on_how_the_samples_are_cut_into_draws(weights, first, cuts):
    turns = Turns(weights)
    straight = np.stack(turns.draw(first, sum(cuts)))
    pieces, start = [np.empty((2, 0), dtype=np.int64)], first
    for count in cuts:
        pieces.append(np.stack(turns.draw(start, count)))
        start += count
    assert np.concatenate(pieces, axis=1).tolist() == straight.tolist()


def test_a_source_of_weight_zero_never_has_a_turn():
    sources, _ = Turns([0, 3, 0, 1]).draw(10**9, 1000)
    assert set(sources.tolist()) == {1, 3}


def test_turns_are_spread_out():
    # Two of seven: never further apart than four samples, never closer than three.
    sources, _ = Turns([5, 2]).draw(0, 7000)
    gaps = np.diff(np.flatnonzero(sources == 1))
    assert set(gaps.tolist()) == {3, 4}


def test_a_draw_of_more_samples_than_fit_into_64_bits_is_drawn_in_parts():
    turns = Turns([2**40 - 1, 1])
    sources, before = turns.draw(7, MOST_SAMPLES + 5)
    again, more = turns.draw(7 + MOST_SAMPLES, 5)
    assert sources[-5:].tolist() == again.tolist()
    assert before[-5:].tolist() == more.tolist()


@pytest.mark.parametrize(
    ("written", "whole"), [([0.7, 0.3], [7, 3]), ([1.0, 0.25, 0.0], [4, 1, 0]), ([3, 1], [3, 1]), ([1e-9], [1])]
)
def test_weights_are_taken_as_they_are_written(written, whole):
    assert whole_weights(written) == whole


def test_a_tiny_weight_beside_a_huge_one_is_not_lost():
    turns = Turns(whole_weights([1e9, 1e-300]))
    assert min(turns.weights) == 1
