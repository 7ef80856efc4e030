"""What times allow to say: spreads, turns, schedules, and when a difference is one."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.evals.timing import (
    FEWEST_ROUNDS,
    FEWEST_RUNS,
    FLOOR,
    Contestant,
    Schedule,
    bootstrap,
    compare,
    fewest,
    poured,
    schedule,
    spread,
    take_turns,
)

NOISES = {
    "steady": lambda draw: math.exp(draw.gauss(0, 0.01)),
    "busy": lambda draw: math.exp(abs(draw.gauss(0, 0.1))) * (1 + (draw.random() < 0.1) * draw.expovariate(2)),
    "two-speeds": lambda draw: draw.choice((1.0, 1.6)) * math.exp(draw.gauss(0, 0.02)),
}


def rounds(seed: int, *, ratio: float, noise: str, count: int = 30) -> tuple[list[float], list[float]]:
    """Times of two contestants in rounds on a machine that drifts; the second takes `ratio` times as long."""
    draw, drift = random.Random(seed), 1.0
    first, second = [], []
    for _ in range(count):
        drift *= math.exp(draw.gauss(0, 0.05))
        first.append(drift * NOISES[noise](draw))
        second.append(drift * ratio * NOISES[noise](draw))
    return first, second


# ----------------------------------------------------------------------------------------------------------------------
# Which is faster


@pytest.mark.parametrize("noise", NOISES)
def test_a_thing_against_itself_is_inconclusive_in_at_least_95_of_100_trials(noise):
    verdicts = [compare(*rounds(seed, ratio=1.0, noise=noise), seed=seed).verdict for seed in range(100)]
    assert verdicts.count("inconclusive") >= 95


def test_ten_percent_are_found_where_noise_is_small():
    found = [compare(*rounds(seed, ratio=1.1, noise="steady"), seed=seed) for seed in range(40)]
    assert [one.verdict for one in found].count("faster") >= 38
    assert all(one.low <= 1.1 <= one.high for one in found[:10])


def test_the_slower_one_is_called_slower():
    mine, other = rounds(0, ratio=1.3, noise="steady")
    assert compare(mine, other).verdict == "faster"
    assert compare(other, mine).verdict == "slower"
    assert compare(other, mine).ratio == pytest.approx(1 / compare(mine, other).ratio)


def test_noise_larger_than_the_difference_decides_nothing():
    verdicts = [compare(*rounds(seed, ratio=1.03, noise="two-speeds"), seed=seed).verdict for seed in range(40)]
    assert verdicts.count("inconclusive") >= 30
    assert "slower" not in verdicts


def test_a_difference_under_the_floor_is_none_however_sure_it_is():
    mine = [1.0 + 1e-6 * i for i in range(50)]
    found = compare(mine, [time * (1 + FLOOR / 2) for time in mine])
    assert found.low > 1.0
    assert found.verdict == "inconclusive"
    assert "memory" in found.reason


def test_few_rounds_decide_nothing_however_large_the_difference():
    found = compare([1.0] * (FEWEST_ROUNDS - 1), [5.0] * (FEWEST_ROUNDS - 1))
    assert found.verdict == "inconclusive"
    assert str(FEWEST_ROUNDS) in found.reason


@pytest.mark.parametrize("times", [([], []), ([1.0], [1.0, 2.0])])
def test_times_that_are_no_rounds_are_refused(times):
    with pytest.raises(ValueError, match="no rounds"):
        compare(*times)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    held = 0
    for seed in range(150):
        found = compare(*rounds(seed, ratio=1.2, noise="busy", count=15), seed=seed)
        held += found.low <= 1.2 <= found.high
    assert held >= 0.97 * 150  # 99 % promised


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_interval_lies_inside_the_values_and_around_their_median(values):
    low, high = bootstrap(values, seed=0, level=0.99, resamples=200)
    assert min(values) <= low <= spread(values).median <= high <= max(values)


# ----------------------------------------------------------------------------------------------------------------------
# Taking turns


class Clock:
    """A clock that a contestant moves on by running."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: float, log: list[str] | None = None) -> Contestant:
        def run() -> None:
            self.now += seconds
            if log is not None:
                log.append(name)

        return Contestant(name=name, run=run)


def test_everyone_runs_once_in_each_round_after_all_warm_ups():
    clock, log = Clock(), []
    players = [clock.contestant(name, 1.0, log) for name in "abc"]
    turns = take_turns(players, Schedule(warmups=4, runs=10), seed=0, clock=clock)
    assert len(log) == 14 * 3
    assert all(sorted(log[i : i + 3]) == ["a", "b", "c"] for i in range(0, len(log), 3))
    assert turns.rounds == 10
    assert {len(times) for times in turns.seconds.values()} == {10}
    assert turns.warmups == 4


def test_the_order_is_drawn_anew_in_each_round_and_follows_from_the_seed():
    clock = Clock()
    players = [clock.contestant(name, 1.0) for name in "ab"]
    plan = Schedule(warmups=0, runs=40)
    first, again, other = (take_turns(players, plan, seed=seed, clock=clock).orders for seed in (1, 1, 2))
    assert first == again != other
    begins = [order[0] for order in first]
    assert 10 <= begins.count("a") <= 30
    assert len(set(itertools.pairwise(begins))) == 4


def test_resetting_is_not_timed():
    clock = Clock()

    def reset() -> None:
        clock.now += 100.0

    player = Contestant(name="a", run=clock.contestant("a", 1.0).run, reset=reset)
    assert take_turns([player], Schedule(warmups=1, runs=3), seed=0, clock=clock).seconds["a"] == [1.0] * 3


def test_past_the_deadline_the_fewest_runs_are_still_done_and_it_is_noted():
    clock = Clock()
    turns = take_turns([clock.contestant("a", 10.0)], Schedule(warmups=20, runs=30), seed=0, deadline=55.0, clock=clock)
    assert turns.rounds == FEWEST_RUNS
    assert turns.warmups == 6
    assert any("6 warm-ups instead of 20" in note for note in turns.notes)
    assert any(f"stopped after {FEWEST_RUNS} of 30 runs" in note for note in turns.notes)


# ----------------------------------------------------------------------------------------------------------------------
# How often


def test_all_runs_where_there_is_time_and_no_note():
    assert schedule(0.01, 10.0) == Schedule(warmups=20, runs=30)


def test_runs_are_given_up_before_warm_ups_and_both_are_noted():
    found = schedule(1.0, 35.0, warmups=20, runs=30)
    assert (found.warmups, found.runs) == (20, 15)
    assert "15 runs instead of 30" in found.notes[0]
    found = schedule(1.0, 20.0, warmups=20, runs=30)
    assert (found.warmups, found.runs) == (12, 8)
    assert "12 warm-ups instead of 20" in found.notes[0]


def test_what_does_not_fit_is_not_run():
    assert schedule(1.0, 17.9) is None
    assert schedule(100.0, 390.0) is None
    assert schedule(100.0, 400.0) is not None


@given(st.floats(1e-4, 1e3), st.floats(1e-3, 1e5), st.integers(0, 30), st.integers(1, 50))
def test_a_schedule_fits_its_budget_and_never_has_more_than_was_asked_for(one_run, budget, warmups, runs):
    found = schedule(one_run, budget, warmups=warmups, runs=runs)
    least = fewest(one_run, warmups=warmups, runs=runs)
    if found is None:
        assert least.seconds(one_run) > budget * (1 - 1e-6) - one_run
        return
    assert found.seconds(one_run) <= budget * (1 + 1e-5) + 1e-9
    assert least.warmups <= found.warmups <= warmups and least.runs <= found.runs <= runs
    assert bool(found.notes) == ((found.warmups, found.runs) != (warmups, runs))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=8), st.floats(0, 1000))
def test_what_is_poured_fills_everyone_evenly(pairs, extra):
    least = [min(pair) for pair in pairs]
    whole = [max(pair) for pair in pairs]
    amount = sum(least) + extra
    found = poured(amount, least, whole)
    assert all(few - 1e-9 <= got <= most + 1e-9 for few, got, most in zip(least, found, whole, strict=True))
    assert sum(found) == pytest.approx(min(amount, sum(whole)), rel=1e-6, abs=1e-6)
    waiting = [got for few, got, most in zip(least, found, whole, strict=True) if few + 1e-6 < got < most - 1e-6]
    assert max(waiting, default=0.0) - min(waiting, default=0.0) < 1e-6


def test_a_spread_says_where_the_middle_half_lies():
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.median, found.q1, found.q3, found.iqr) == (3.0, 2.0, 4.0, 2.0)
    rate = found.inverted(12.0)
    assert (rate.median, rate.q1, rate.q3) == (4.0, 3.0, 6.0)
    with pytest.raises(ValueError, match="nothing"):
        spread([])
