"""What a sweep came to: a winner only where the paired interval says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitruvius.lab.sweeping_results import ArmResult, judged


def arm(name, *losses, scored=100):
    return ArmResult(name=name, losses=dict(enumerate(losses)), scored=frozenset({scored}) if losses else frozenset())


def test_a_difference_that_every_seed_shows_wins():
    verdict = judged([arm("a", 3.0, 3.2, 2.8), arm("b", 3.1, 3.3, 2.9)])
    assert (verdict.best, verdict.winner) == ("a", "a")
    (pair,) = verdict.pairs
    assert pair.verdict == "better" and pair.difference.mean == pytest.approx(-0.1) and verdict.level == 0.95


def test_equal_means_apart_do_not_win_where_seeds_disagree():
    verdict = judged([arm("a", 3.0, 3.3, 2.8), arm("b", 3.2, 3.2, 2.9)])
    assert verdict.best == "a" and verdict.winner is None
    assert "reach zero for: b" in verdict.why


def test_the_same_data_may_not_win_against_more_arms():
    """Each of several comparisons has to be surer."""
    a, b = arm("a", 3.00, 3.10, 3.05), arm("b", 3.10, 3.18, 3.16)
    assert judged([a, b]).winner == "a"
    others = [arm(f"c{number}", 9.0, 9.1, 9.05) for number in range(30)]
    verdict = judged([a, b, *others])
    assert verdict.winner is None and verdict.level == pytest.approx(1 - 0.05 / 31)


@pytest.mark.parametrize(
    ("arms", "why"),
    [
        ([arm("a"), arm("b")], "no run has been scored"),
        ([arm("a", 1.0), arm("b", 2.0)], "fewer than two seeds"),
        ([arm("a", 1.0, 1.1)], "one arm"),
        ([arm("a", 1.0, 1.1), arm("b")], "without a finished run: b"),
        ([arm("a", 1.0, 1.1), arm("b", 2.0, 2.1, scored=99)], "different tokens of held-out text (99 and 100)"),
    ],
)
def test_there_is_no_winner_where_nothing_can_be_said(arms, why):
    verdict = judged(arms)
    assert verdict.winner is None and why in verdict.why and verdict.pairs == ()


def test_only_seeds_that_both_arms_have_are_compared():
    a = ArmResult(name="a", losses={0: 1.0, 1: 1.1, 7: 0.1}, scored=frozenset({5}))
    b = ArmResult(name="b", losses={0: 1.2, 1: 1.3, 2: 0.9}, scored=frozenset({5}))
    (pair,) = judged([a, b]).pairs
    assert pair.seeds == 2 and pair.difference.mean == pytest.approx(-0.2)


def test_an_arm_that_failed_with_some_seeds_does_not_win_by_the_others():
    lucky = ArmResult(name="lucky", losses={0: 1.0, 1: 1.1}, scored=frozenset({5}), failed=1)
    steady = ArmResult(name="steady", losses={0: 2.0, 1: 2.1, 2: 2.05}, scored=frozenset({5}))
    verdict = judged([lucky, steady])
    assert (verdict.best, verdict.winner) == ("lucky", None) and "failed with 1 of its seeds" in verdict.why
    assert judged([replace(lucky, failed=0), steady]).winner == "lucky"


def test_an_arm_may_win_against_one_that_fails():
    steady = ArmResult(name="steady", losses={0: 1.0, 1: 1.1, 2: 1.05}, scored=frozenset({5}))
    shaky = ArmResult(name="shaky", losses={0: 2.0, 1: 2.1}, scored=frozenset({5}), failed=1)
    assert judged([steady, shaky]).winner == "steady"


def test_there_is_no_winner_while_runs_are_left():
    early = ArmResult(name="early", losses={0: 1.0, 1: 1.1}, scored=frozenset({5}))
    late = ArmResult(name="late", losses={0: 2.0, 1: 2.1}, scored=frozenset({5}), left=1)
    verdict = judged([early, late])
    assert verdict.winner is None and "runs are left: 1" in verdict.why
