from __future__ import annotations

import doctest

import pytest

from vitruvius.patterns import parse, to_text


@pytest.fixture
def page(request) -> str:
    return (request.config.rootpath / "docs" / "components" / "patterns.md").read_text(encoding="utf-8")


def test_the_examples_on_the_page_give_what_they_show(page):
    examples = doctest.DocTestParser().get_doctest(page, {}, "patterns.md", None, 0)
    outcome = doctest.DocTestRunner(verbose=False).run(examples)
    assert outcome.attempted >= 8
    assert outcome.failed == 0


def test_the_pictures_on_the_page_are_the_ones_that_are_drawn(page):
    texts = [line.split("Drawn: `")[1].split("`")[0] for line in page.splitlines() if "Drawn: `" in line]
    assert len(texts) == 11
    for text in texts:
        assert "\n".join(f"    {line}" for line in to_text(parse(text), 16).split("\n")) in page
