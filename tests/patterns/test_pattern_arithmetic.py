from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vitruvius.patterns.arithmetic import Progression, common_residue, count_union, floor_sum, progression

STEPS = st.integers(1, 30)
PROGRESSIONS = st.builds(
    lambda first, count, step: Progression(first, first + (count - 1) * step, step),
    st.integers(0, 40),
    st.integers(1, 30),
    st.integers(1, 12),
)


def members(run: Progression) -> set[int]:
    return set(range(run.first, run.last + 1, run.step))


@given(st.integers(-50, 50), STEPS, st.integers(-50, 50), STEPS)
def test_two_residues_meet_in_exactly_one_residue_or_none(a, m, b, n):
    found = {x for x in range(m * n) if (x - a) % m == 0 and (x - b) % n == 0}
    common = common_residue(a, m, b, n)
    assert found == (set() if common is None else set(range(common[0], m * n, common[1])))


@given(st.integers(0, 60), st.integers(1, 20), st.integers(-50, 50), st.integers(-500, 500))
def test_a_floor_sum_equals_its_terms_added_up(count, divisor, step, start):
    assert floor_sum(count, divisor, step, start) == sum((start + step * i) // divisor for i in range(count))


def test_a_floor_sum_over_a_billion_terms_is_exact():
    assert floor_sum(10**9, 2, 1, 0) == (10**9 // 2) * (10**9 // 2 - 1)


@given(st.integers(-20, 40), st.integers(-20, 60), st.integers(0, 11), st.integers(1, 12))
def test_a_progression_holds_every_position_of_its_residue_between_its_bounds(low, high, residue, step):
    run = progression(low, high, residue, step)
    expected = {p for p in range(low, high + 1) if (p - residue) % step == 0}
    assert expected == (set() if run is None else members(run))
    assert run is None or run.count == len(expected)


@given(PROGRESSIONS, PROGRESSIONS)
def test_two_progressions_meet_in_their_common_positions(a, b):
    both = a.meet(b)
    assert members(a) & members(b) == (set() if both is None else members(both))


@given(st.lists(PROGRESSIONS, max_size=14))
def test_a_union_of_progressions_counts_every_position_once(runs):
    assert count_union(runs) == len(set().union(*map(members, runs)))
