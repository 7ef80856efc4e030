"""No document makes a step raise, forget what it promises, or take more than linear time."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.cleaning.recipe import BUILT_IN, read_recipe
from vitruvius.data.cleaning.run import clean
from vitruvius.data.cleaning.step import Rewriter, Rule
from vitruvius.data.cleaning.table import kinds
from vitruvius.data.document import Document

RECIPES = {name: read_recipe(name) for name in BUILT_IN}
STEPS = {kind: step() for kind, step in kinds().items()} | {"html of main": kinds()["html"](extract="main")}


def _looked_at(step, document):
    """What a step makes of a document, held to what every step promises."""
    if isinstance(step, Rule):
        measures = tuple(step.measures(document))
        for measure in measures:
            assert measure.reason in step.reasons
            assert not isinstance(measure.value, float) or math.isfinite(measure.value)
            if measure.relation in ("at least", "at most"):
                value, limit = measure.value, measure.limit
                assert measure.passed == (value >= limit if measure.relation == "at least" else value <= limit)
        return measures
    assert isinstance(step, Rewriter)
    done = step.rewritten(document)
    assert set(done.changes) <= set(step.counts)
    assert all(count > 0 for count in done.changes.values())
    assert done.changes or done.document.text == document.text
    before = dataclasses.replace(document, text="", markup="plain")
    assert dataclasses.replace(done.document, text="", markup="plain") == before
    return done


def _document(text, markup="plain", url=None):
    return Document(id="d", file="f", line=None, byte_offset=0, text=text, markup=markup, url=url)


# Anything, then what rules look for, and what no reader lets through.
ANY_TEXT = st.one_of(
    st.text(max_size=200),
    st.text(
        alphabet=st.sampled_from("ab .\n#-@1:/<>&;{}\u2026\u0301\u200b\u202e\r\t\x00\x1b\ud800\udfff\ufeff\U000e0041"),
        max_size=200,
    ),
    st.lists(
        st.sampled_from(["the ", "of ", "word ", "...", "\n", "\n\n", "<p>", "a@b.co ", "8.8.8.8 ", "\u3000"])
    ).map("".join),
)


@pytest.mark.parametrize("kind", STEPS)
@given(text=ANY_TEXT, markup=st.sampled_from(["plain", "html"]), url=st.none() | st.text(max_size=40))
def test_no_text_makes_a_step_raise(kind, text, markup, url):
    document = _document(text, markup, url)
    assert _looked_at(STEPS[kind], document) == _looked_at(STEPS[kind], document)


@pytest.mark.parametrize("name", RECIPES)
@given(text=ANY_TEXT, markup=st.sampled_from(["plain", "html"]))
def test_no_text_makes_a_recipe_raise(name, text, markup):
    document = _document(text, markup)
    assert clean(document, RECIPES[name]) == clean(document, RECIPES[name])


@pytest.mark.parametrize("kind", STEPS)
def test_the_order_of_documents_changes_nothing(kind):
    generator = random.Random(3)
    documents = [
        _document(" ".join(generator.choices(["the", "of", "a.", "river\n", "x@y.org", "\u200b"], k=200)))
        for _ in range(20)
    ]
    one_by_one = [_looked_at(STEPS[kind], document) for document in documents]
    assert [_looked_at(STEPS[kind], document) for document in reversed(documents)] == one_by_one[::-1]


HOSTILE = {
    "nothing": "",
    "a word": "a",
    "words": "ab ",
    "equal lines": "a b c\n",
    "newlines": "\n",
    "blanks": " \t",
    "dots": ".",
    "dots and blanks": ". ",
    "dashes": "-",
    "hyphens": "a-",
    "apostrophes": "'s",
    "digits": "1",
    "groups of digits": "1234 ",
    "numbers with dots": "1.",
    "addresses": "http://",
    "brackets": "[",
    "citations": "[1",
    "curly brackets": "{",
    "hashes": "#",
    "base64": "A" * 63 + " ",
    "bytes": "00,00,00,00,00,00,00,00,zz,",
    "escapes": "\\u00e9",
    "accents": "\u0301\u0323",
    "zero width": "\u200b",
    "emoji": "\U0001f600",
    "wide": "\u4e2d\u6587\u3002",
    "escape codes": "\x1b[",
    "surrogates": "\ud800",
    "tags": "<a b='c'>",
}


def _looked_at_by_all(text):
    for step in STEPS.values():
        _looked_at(step, _document(text, "html" if step.kind == "html" else "plain", "http://" + text[:9_000]))


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hundred_thousand_characters_of_anything_are_looked_at(unit):
    _looked_at_by_all(unit * (10**5 // max(1, len(unit))))


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_million_characters_take_no_more_than_linear_time(unit):
    # Quadratic time takes hours for these, which the suite's time limit turns into a failure.
    _looked_at_by_all(unit * (10**6 // max(1, len(unit))))


def test_a_million_different_lines_are_looked_at():
    _looked_at_by_all("\n".join(map(str, range(150_000))))


def _work(step, document):
    """Lines of Python that a step runs: a count that does not depend on the machine."""
    import sys

    count = 0

    def tracer(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        _looked_at(step, document)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "unit", ["the river. ", "a\n", "<p>x</p><a href=y>z</a>", "x@y.org 8.8.8.8 ", "a b c d e f g. "]
)
def test_twice_the_text_is_at_most_about_twice_the_work(unit):
    for kind, step in STEPS.items():
        markup = "html" if step.kind == "html" else "plain"
        small, large = (_work(step, _document(unit * count, markup)) for count in (400, 1_600))
        assert large <= 4.5 * small + 1_000, kind


def test_every_step_says_where_its_limits_are_from_and_what_its_settings_mean():
    for step in kinds().values():
        assert step.source
        assert step.__doc__
        assert inspect.getsource(step).count('"""') >= 2 * (1 + len(dataclasses.fields(step)))
