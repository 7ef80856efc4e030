"""The page about a check: everything is on it, nothing comes from elsewhere, and no text breaks it."""

from __future__ import annotations

import re

import pytest

from vitruvius.report.check_page import check_page


def row(**changes):
    plain = {
        "name": "future-leak",
        "passed": True,
        "detail": "12 tokens changed",
        "measured": 1e-15,
        "bound": 1e-9,
        "applies": True,
        "warning": None,
        "means": "a token sees later ones",
        "look_at": "the mask",
        "values": None,
        "seconds": 0.25,
    }
    return plain | changes


def page(*checks, **options) -> str:
    report = {
        "schema": "vitruvius.check/1",
        "subject": "twin of <b>me</b>",
        "seed": 3,
        "passed": all(check["passed"] for check in checks),
        "checks": list(checks),
    }
    return check_page(report, **options)


def test_it_stands_alone_in_light_and_dark():
    html = page(row())
    assert html.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)|@import|<script", html)


def test_texts_are_escaped():
    html = page(row(detail="<img onerror=x>", warning="a & b"))
    assert "<img" not in html
    assert "<b>" not in html
    assert "a &amp; b" in html


def test_a_failure_stands_on_top_with_what_it_means_and_where_to_look():
    html = page(row(name="loss", passed=False, measured=0.5), row())
    assert "1 of 2 checks failed" in html
    assert html.index("Look at: the mask") < html.index("Every check")
    assert "0.5 &gt; 1e-09" in html or "0.5 > 1e-09" in html


def test_what_does_not_apply_counts_neither_way():
    assert "All 1 checks passed" in page(row(), row(applies=False, measured=None, bound=None))


def test_numbers_by_layer_are_drawn_each_beside_its_reference():
    values = {
        "layers": ["layers.0", "layers.1", "layers.2"],
        "series": {"distance": [1.0, 2.0, 4.0], "uniform_distance": [3.0, 3.0, 3.0], "sink": [0.0, 0.0, 0.0]},
    }
    html = page(row(values=values))
    assert html.count("<svg") == 1
    assert "stroke-dasharray" in html
    assert "mean distance in tokens, dashed: uniform weights, layers.0 to layers.2" in html


def test_powers_of_ten_get_a_logarithmic_scale_and_gaps_stay_gaps():
    values = {"layers": list("abcd"), "series": {"activation_rms": [1.0, None, 1e4, 1e6]}}
    html = page(row(values=values))
    assert "log scale" in html
    path = re.search(r'<path d="([^"]+)" fill="none" stroke="currentColor"', html)[1]
    assert path.count("M") == 2


@pytest.mark.parametrize("numbers", [[], [1.0], [None, None], [0.0, 0.0]])
def test_what_cannot_be_drawn_is_left_out(numbers):
    values = {"layers": [str(i) for i in range(len(numbers))], "series": {"activation_rms": numbers}}
    assert "<svg" not in page(row(values=values))


def test_the_next_experiment_is_on_the_page_with_its_bill():
    experiment = {
        "command": "vitruvius train x",
        "decides": "whether it learns",
        "seconds": 60.0,
        "dollars": 0.5,
        "off_by": 10.0,
        "device": "this machine",
        "basis": "",
    }
    html = page(row(), experiment=experiment)
    assert "about 60 s and 0.50 dollars on this machine, within 10 times" in html
    assert "vitruvius train x" in html
