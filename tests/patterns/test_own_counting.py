"""Counts of own conditions against counting one by one; thresholds are lowered so that every way is used."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_texts import conditions, own_sees

from vitruvius.errors import PatternError
from vitruvius.patterns import Clause, Count, Pattern, intervals, own_counting, pairs, parse, regions, rows
from vitruvius.patterns.intervals import interval_pairs
from vitruvius.patterns.periods import COLUMN, DIAGONAL, ROW, period

LENGTHS = st.integers(0, 70)


def brute(pattern: Pattern, n: int) -> int:
    positions = np.arange(n)
    return int(pattern.allows(positions[:, None], positions).sum()) if n else 0


def forget() -> None:
    own_counting.own_pairs.cache_clear()
    pairs.pairs.cache_clear()


@contextmanager
def thinking():
    """Nothing is so small that it is simply tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_counting, "VERY_FEW", 0)
        forget()
        yield patch
    forget()


@contextmanager
def splitting():
    """Rectangles are split down to four pairs, and nothing but rectangles is used."""
    with thinking() as patch:
        patch.setattr(own_counting, "FEW", 0)
        patch.setattr(own_counting, "_MOST_ROWS", 0)
        patch.setattr(intervals, "_MOST_ROWS", 0)
        patch.setattr(regions, "FEW", 0)
        patch.setattr(regions, "_SMALL", 4)
        yield patch


@given(own_sees(), LENGTHS)
def test_pairs_are_counted_exactly(text, n):
    pattern = parse(text)
    assert pattern.count(n) == Count.exactly(brute(pattern, n))


@given(own_sees() | conditions().map(lambda text: f"where({text})"), LENGTHS)
def test_every_shortcut_counts_exactly(text, n):
    pattern = parse(text)
    with thinking():
        assert pattern.count(n) == Count.exactly(brute(pattern, n))


@given(own_sees() | conditions().map(lambda text: f"where({text})"), LENGTHS)
def test_rectangles_count_exactly(text, n):
    pattern = parse(text)
    with splitting():
        assert pattern.count(n) == Count.exactly(brute(pattern, n))


@given(own_sees(), LENGTHS, st.integers(0, 40))
def test_what_is_given_up_lies_between_the_bounds(text, n, steps):
    pattern = parse(text)
    with splitting() as patch:
        patch.setattr(regions, "_MOST_STEPS", steps)
        count, true = pattern.count(n), brute(pattern, n)
    assert 0 <= count.low <= true <= count.high <= n * n
    assert count.low <= count.value <= count.high
    assert abs(count.value - true) <= count.error


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("causal & where((q - k) % 7 == 3)", "by_table"),
        ("causal & global(every=4) & where(k % 10 < 7)", "by_table"),
        ("causal & where((q * 7 + k * 3) % 11 < 4)", "by_table"),
        ("sliding(20) & block(15) & where((q * k) % 4 != 1)", "by_table"),
        ("causal & where((q - k) * (q - k) < 20 * ((q - k) % 13))", "by_distance"),
        ("causal & where(q // 8 - k // 8 <= 1)", "by_period"),
        ("causal & where(abs(q // 6 - k // 6) <= 1 and abs(q % 6 - k % 6) <= 1)", "by_period"),
        ("causal & where(2 * k >= q)", "by_intervals"),
        ("causal & where((q + 1) // 2 == k + 1 | (q + 1) // 4 == k + 1 | (q + 1) // 8 == k + 1)", "by_intervals"),
        ("causal & where(k * k >= q % 40)", None),
        ("causal & where(k % (q // 8 + 1) == 0)", None),
    ],
)
@pytest.mark.parametrize("n", [1, 7, 40, 97, 160])
def test_each_way_of_counting_finds_what_there_is(text, way, n):
    pattern = parse(text)
    taken: list[str] = []
    with thinking() as patch:
        for name in ("by_table", "by_distance", "by_period", "by_intervals"):
            honest = getattr(own_counting._Rows, name)

            def counting(self, honest=honest, name=name):
                found = honest(self)
                taken.extend([name] * (found is not None))
                return found

            patch.setattr(own_counting._Rows, name, counting)
        assert pattern.count(n) == Count.exactly(brute(pattern, n))
    if n == 160:
        assert set(taken) == ({way} if way else set())


@pytest.mark.parametrize(
    "text",
    [
        "causal & where((q - k) % 7 == 3 | q == k)",
        "causal & where(q // 64 - k // 64 <= 1)",
        "causal & where(k < q // 64 * 64)",
        "causal & where((q // 64 * 7 + k // 64 * 13) % 11 < 3)",
        "causal & where(2 * k >= q)",
    ],
)
def test_a_long_context_is_counted_exactly_from_a_few_rows(text):
    pattern, n = parse(text), 3000
    count = pattern.count(n)
    assert count == Count.exactly(brute(pattern, n))
    assert pattern.count(100_000).is_exact


def test_what_follows_no_rule_says_how_far_off_it_may_be():
    pattern = parse("causal & where(k % (q // 8 + 1) == 0)")
    forget()
    count = pattern.count(40_000)
    true = sum(1 + q // (q // 8 + 1) for q in range(40_000))
    assert not count.is_exact
    assert count.low <= true <= count.high
    assert count.error > 0
    assert count.value == pytest.approx(true, rel=0.5)


@given(own_sees(), st.integers(0, 40), LENGTHS)
def test_the_keys_of_a_query_are_counted_one_by_one(text, q, n):
    pattern = parse(text)
    assert pattern.reads(q, n) == sum(pattern.allows(q, k) for k in range(n))


@given(own_sees(), LENGTHS)
def test_rows_that_see_nothing_are_found(text, n):
    pattern = parse(text)
    empty = [q for q in range(n) if not any(pattern.allows(q, k) for k in range(n))]
    found = pattern.empty_rows(n)
    assert list(found) == empty[: len(found)]
    assert bool(found) == bool(empty)


@given(conditions(), LENGTHS)
def test_keys_that_nobody_reads_are_found(text, n):
    pattern = parse(f"where({text})")
    unread = [k for k in range(n) if not any(pattern.allows(q, k) for q in range(n))]
    found = pattern.unread_keys(n)
    assert list(found) == unread[: len(found)]
    assert bool(found) == bool(unread)


def test_a_query_that_sees_itself_by_its_own_condition_needs_no_search(monkeypatch):
    monkeypatch.setattr(rows, "_MOST_ROWS", 0)
    assert parse("causal & where(q // 64 - k // 64 <= 1)").empty_rows(100_000) == ()
    with pytest.raises(PatternError, match="too many to look for"):
        parse("causal & where(k * 2 >= q + 1 | q * k < 3)").empty_rows(100_000)


@given(conditions())
def test_a_period_is_one(text):
    pattern = parse(f"where({text})")
    for clause in pattern.clauses:
        for move in (ROW, COLUMN, DIAGONAL):
            steps = period(clause.condition, move)
            if steps is None or steps > 400:
                continue
            for own in clause.predicates:
                q, k = np.arange(400, 420)[:, None], np.arange(20)
                assert np.array_equal(own.holds(q, k), own.holds(q + steps * move[0], k + steps * move[1]))


@pytest.mark.parametrize(
    ("text", "move", "steps"),
    [
        ("(q - k) % 7 == 3", DIAGONAL, 1),
        ("(q - k) % 7 == 3", ROW, 7),
        ("q // 64 - k // 64 <= 1", DIAGONAL, 64),
        ("q // 64 - k // 64 <= 1", ROW, None),
        ("(q // 4 + k // 6) % 5 == 0", ROW, 30),
        ("(q * k) % 12 == 5", COLUMN, 12),
        ("abs(q % 8 - k % 8) < 3", COLUMN, 8),
        ("q * k < 50", DIAGONAL, None),
    ],
)
def test_periods_are_proved_from_the_form(text, move, steps):
    (clause,) = parse(f"where({text})").clauses
    assert period(clause.condition, move) == steps


def test_conditions_that_cannot_be_solved_for_the_key_are_left_to_others():
    for text, solvable in (("2 * k >= q", True), ("k // 3 == q // 2 + q % 5", True), ("k % 3 <= q % 2", False)):
        condition = parse(f"where({text})").clauses[0].condition
        assert (interval_pairs(Clause(), condition, 20) is not None) == solvable
