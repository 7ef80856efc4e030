"""Numbers written as arithmetic."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import UsageError
from vitruvius.spec.expressions import evaluate

NAMES = {"width": 64, "head_width": 16}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sqrt(width)", 8.0),
        ("1/sqrt(head_width)", 0.25),
        ("1 / sqrt( 80 )", 1 / sqrt(80)),
        ("2*width/head_width", 8.0),
        ("sqrt(width * 4)", 16.0),
        ("0.5", 0.5),
        ("1.5e-2", 0.015),
        ("sqrt(sqrt(head_width))", 2.0),
    ],
)
def test_products_quotients_and_roots_are_computed_from_left_to_right(text, value):
    assert evaluate(text, NAMES) == pytest.approx(value)


def test_a_number_stands_for_itself():
    assert evaluate(0.125, NAMES) == 0.125
    assert evaluate(3, NAMES) == 3.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "width +",
        "1 + 2",
        "-1",
        "sqrt width",
        "sqrt(width",
        "width)",
        "1/0",
        "0",
        "depth",
        "2 3",
        "* 2",
        "1e999",
    ],
)
def test_what_cannot_be_a_positive_number_is_refused_in_words(text):
    with pytest.raises(UsageError) as caught:
        evaluate(text, NAMES)
    assert caught.value.what


def test_the_names_that_exist_are_told():
    with pytest.raises(UsageError) as caught:
        evaluate("sqrt(depth)", NAMES)
    assert "head_width, width" in caught.value.fix


def test_an_expression_is_at_most_a_line_long():
    with pytest.raises(UsageError, match="at most 100 characters"):
        evaluate("1*" * 60 + "1", NAMES)


@given(st.text(max_size=40))
def test_any_text_gives_a_positive_number_or_a_usage_error(text):
    try:
        value = evaluate(text, NAMES)
    except UsageError:
        return
    assert 0 < value < float("inf")
