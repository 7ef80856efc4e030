"""A document goes through a recipe up to the first step that drops it, or is looked at by all."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 (read at run time)
from dataclasses import dataclass, replace
from importlib import metadata
from typing import ClassVar

import pytest

from vitruvius.data.cleaning import table
from vitruvius.data.cleaning.measuring import at_most
from vitruvius.data.cleaning.recipe import read_recipe, recipe_from_text
from vitruvius.data.cleaning.run import EMPTIED, Dropped, Kept, clean, trace
from vitruvius.data.cleaning.step import Rewriter, Rewritten, Rule
from vitruvius.errors import UsageError

MAIL = "Write to joe@mail.org, and then to the others, of whom there are seven in all."


def test_a_document_that_passes_is_kept_with_its_changes(document):
    recipe = recipe_from_text("steps: [unicode, whitespace, {kind: gopher_quality, least_words: 5}, pii, pii]")
    end = clean(document("\ufeff" + MAIL + "  \r\n"), recipe)
    assert isinstance(end, Kept)
    assert end.document.text == MAIL.replace("joe@mail.org", "<EMAIL>") + "\n"
    assert end.changes == {
        "unicode.zero_width": 1, "whitespace.line_ends": 1, "whitespace.trailing": 1, "pii.emails": 1,
    }  # fmt: skip
    assert set(end.changes) <= set(recipe.changes)


def test_the_first_measure_that_fails_drops_a_document(document):
    recipe = recipe_from_text("steps: [{kind: gopher_quality, least_words: 50}, {kind: c4, least_sentences: 9}, pii]")
    end = clean(document(MAIL), recipe)
    assert isinstance(end, Dropped)
    assert (end.step, end.measure.reason, end.measure.limit) == ("gopher_quality", "gopher_few_words", 50)
    assert end.document.text == MAIL
    assert end.measure.reason in recipe.reasons


def test_a_trace_goes_on_after_a_failure(document):
    recipe = recipe_from_text(
        "steps: [whitespace, {kind: gopher_quality, least_words: 50}, {kind: c4, least_sentences: 9}, pii]"
    )
    looks = trace(document(MAIL), recipe)
    assert [(look.index, look.step, look.passed) for look in looks] == [
        (0, "whitespace", True), (1, "gopher_quality", False), (2, "c4", False), (3, "pii", True),
    ]  # fmt: skip
    assert len(looks[1].measures) == 10
    assert looks[3].changes == {"emails": 1}
    assert "<EMAIL>" in looks[3].document.text


@pytest.mark.parametrize("name", ["plain", "web", "docs", "code"])
def test_a_trace_and_a_run_come_to_the_same_end(name, document):
    recipe = read_recipe(name)
    for text in (MAIL, MAIL * 40, "x", "\u200b", "a\n" * 50):
        for markup in ("plain", "html"):
            given = document(text, markup=markup)
            end, looks = clean(given, recipe), trace(given, recipe)
            failed = [measure for look in looks for measure in look.measures if not measure.passed]
            if isinstance(end, Dropped):
                assert end.measure == failed[0]
            else:
                assert failed == []
                assert looks[-1].document == end.document


def test_a_page_without_text_is_empty_and_a_text_that_loses_all_is_emptied(document):
    recipe = recipe_from_text("steps: [html, unicode]")
    end = clean(document("<p> </p>", markup="html"), recipe)
    assert isinstance(end, Dropped)
    assert (end.measure.reason, end.step) == ("empty", "html")
    end = clean(document("\u200b\ufeff "), recipe)
    assert isinstance(end, Dropped)
    assert (end.measure.reason, end.step) == (EMPTIED, "unicode")
    assert EMPTIED in recipe.reasons


def test_an_empty_recipe_keeps_everything_as_it_is(document):
    given = document("<p>", markup="html")
    end = clean(given, recipe_from_text("steps: []"))
    assert isinstance(end, Kept)
    assert end.document is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Shouting(Rule):
    """A rule of somebody else."""

    kind: ClassVar[str] = "shouting"
    source: ClassVar[str] = "this test"
    reasons: ClassVar[Mapping[str, str]] = {"shouting": "too many capitals"}
    most: int = 3

    def measures(self, document):
        """One look."""
        yield at_most("shouting", sum(map(str.isupper, document.text)), self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisper(Rewriter):
    """A rewriter of somebody else."""

    kind: ClassVar[str] = "html"
    source: ClassVar[str] = "this test"
    counts: ClassVar[Mapping[str, str]] = {"lowered": "texts"}

    def rewritten(self, document):
        """In lower case."""
        return Rewritten(document=replace(document, text=document.text.lower()), changes={"lowered": 1})


class _Point:
    name, value, dist = "them", "theirs:Step", None

    def __init__(self, loaded):
        self._loaded = loaded

    def load(self):
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


@pytest.fixture
def installed(monkeypatch):
    def install(loaded):
        table.kinds.cache_clear()
        real = metadata.entry_points
        monkeypatch.setattr(
            metadata,
            "entry_points",
            lambda **which: [_Point(loaded)] if which == {"group": table.ENTRY_POINTS} else real(**which),
        )

    yield install
    table.kinds.cache_clear()


def test_an_installed_step_is_one_like_the_others(installed, document):
    installed(Shouting)
    end = clean(document("LOUD"), recipe_from_text("steps: [{kind: shouting, most: 2}]"))
    assert isinstance(end, Dropped)
    assert (end.measure.reason, end.measure.value) == ("shouting", 4)
    assert table.rule_reasons()["shouting"] == "too many capitals"


@pytest.mark.parametrize("offer", [Whisper, int, ImportError("no"), ValueError("bad")])
def test_what_an_installed_package_offers_in_vain_is_named(offer, installed):
    installed(offer)
    with pytest.raises(UsageError, match="offers them = theirs:Step"):
        table.kinds()
