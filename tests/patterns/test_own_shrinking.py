from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_texts import conditions, own_sees

from vitruvius.patterns import fit_text, parse, picture_of, shrink_text

N = 40


@pytest.mark.parametrize(
    ("text", "factor", "smaller"),
    [
        ("where(q - k < 4096 and q >= k)", 64, "where(q - k < 64 & q >= k)"),
        ("where(q // 4096 - k // 4096 <= 1)", 256, "where(q // 16 - k // 16 <= 1)"),
        ("where(abs(q // 64 - k // 64) <= 3)", 8, "where(abs(q // 8 - k // 8) <= 3)"),
        ("where(k % 128 == 127 or q - k < 32)", 16, "where(k % 8 == 7 | q - k < 2)"),
        ("where(q - k < 16 or 127 == k % 128)", 8, "where(q - k < 2 | 15 == k % 16)"),
        ("where(k % 128 < 4 or q - k < 64)", 8, "where(k % 16 < 1 | q - k < 8)"),
        ("where(max(q - k, k - q - 100) < 300)", 10, "where(max(q - k, k - q - 10) < 30)"),
        ("where(q // 100 % 4 == k // 100 % 4)", 10, "where(q // 10 % 4 == k // 10 % 4)"),
        ("where(3 * (q - k) < 300)", 10, "where(3 * (q - k) < 30)"),
        ("where(q - k < 2 or q % 3 == 1)", 50, "where(q - k < 2 | q % 2 == 0)"),
    ],
)
def test_numbers_that_measure_positions_are_divided(text, factor, smaller):
    assert shrink_text(f"causal & {text}", factor) == f"causal & {smaller}"


def test_a_condition_of_mixed_measures_is_looked_at_from_further_away():
    smaller = shrink_text("causal & where(q // 8 - k < 4 * (q % 3) or q - k < 900)", 10)
    assert smaller == "causal & where(q * 10 // 8 - k * 10 < 4 * (q * 10 % 3) | q * 10 - k * 10 < 900)"
    assert parse(smaller).allows(50, 0) == parse("where(q // 8 - k < 4 * (q % 3) or q - k < 900)").allows(500, 0)


def test_a_condition_that_would_lose_its_sense_is_kept():
    # Every tenth query would read nothing at all, and products of positions would not fit 64 bits.
    text = "causal & where((q * k) % 1000 < 3)"
    assert shrink_text(text, 100) == text
    text = "where(q - k < 8 & (q * 7 - k * 7) >= 0 & (q + k) % 10 == (2 * k) % 10 | q == k)"
    assert parse(shrink_text(f"causal & ({text.replace(' | q == k', '')} | sliding(1))", 10)).is_causal


@given(own_sees(), st.sampled_from([1, 2, 3.5, 10, 100]))
def test_a_smaller_condition_can_be_read_is_causal_and_leaves_no_query_alone(text, factor):
    before, after = parse(text), parse(shrink_text(text, factor))
    assert after.is_causal
    if not before.empty_rows(N) and "&" not in text.replace("causal & where", "causal | where"):
        assert not after.empty_rows(N)


@given(conditions())
def test_shrinking_by_one_keeps_the_text(text):
    assert shrink_text(f"causal & where({text})", 1) == f"causal & where({text})"


@pytest.mark.slow
@given(conditions(), st.integers(8, 32))
def test_every_condition_has_a_picture(text, n):
    sees = f"causal & where({text})"
    parse(fit_text(sees, n))
    for style in ("blocks", "ascii", "svg"):
        assert isinstance(picture_of(sees, n, style), str)


def test_a_picture_of_a_wide_condition_shows_its_structure():
    assert fit_text("causal & where(q // 512 - k // 512 <= 1)", 32) == "causal & where(q // 8 - k // 8 <= 1)"
    assert picture_of("causal & where(q // 512 - k // 512 <= 1)", 16, "ascii") == picture_of(
        "causal & where(q // 4 - k // 4 <= 1)", 16, "ascii"
    )
