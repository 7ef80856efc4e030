"""How near names come: worked examples, and what holds for any texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.pairs.subtokens import subtokens
from vitruvius.evals.matching import match

NAMES = st.text("abAB_0é +", max_size=12)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("read_jsonLines2", ["read", "json", "lines", "2"]),
        ("HTTPServerError", ["http", "server", "error"]),
        ("__init__", ["init"]),
        ("toXML", ["to", "xml"]),
        ("größe", ["gr", "öß", "e"]),
        ("open the file", ["open", "the", "file"]),
        ("a+b", ["a", "+", "b"]),
        ("", []),
    ],
)
def test_names_come_apart_at_underscores_humps_and_digits(name, parts):
    assert subtokens(name) == parts


def test_a_worked_example():
    found = match([("read_file", "read_lines"), ("close", "close"), ("a_b_c", "x")])
    assert found.pairs == 3
    assert found.exact_match == pytest.approx(1 / 3)
    # 2 of 6 written parts are right, and 2 of 4 right ones are written.
    assert (found.precision, found.recall) == pytest.approx((2 / 6, 2 / 4))
    assert found.f1 == pytest.approx(2 * 2 / 10)
    assert found.pair_f1 == pytest.approx((0.5 + 1 + 0) / 3)


def test_a_part_that_stands_twice_counts_twice():
    assert match([("a_a", "a")]).precision == 0.5
    assert match([("a", "a_a")]).recall == 0.5


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8))
def test_scores_are_shares_and_order_and_case_do_not_count(pairs):
    found = match(pairs)
    for value in (found.exact_match, found.precision, found.recall, found.f1, found.pair_f1):
        assert 0 <= value <= 1
    assert match(list(reversed(pairs))).f1 == found.f1
    assert match([(right, written) for written, right in pairs]).precision == found.recall
    assert match([(right, right) for _, right in pairs]).exact_match == 1
    assert match([(right, right) for _, right in pairs]).f1 == 1


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no pair"):
        match([])
