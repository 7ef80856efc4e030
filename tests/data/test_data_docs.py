"""The pages on data say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitruvius.cli.data import VERBS
from vitruvius.data.packing.index import DATA_SCHEMA
from vitruvius.data.tokenization.tokenizer import KNOWN_SEPARATORS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data.md").read_text(encoding="utf-8")
PAGES = sorted((DOCS / "data").glob("*.md"))


def test_the_page_leads_to_every_other_and_names_the_schema():
    assert sorted(set(re.findall(r"\(data/([a-z]+\.md)", PAGE))) == [page.name for page in PAGES]
    assert f"`{DATA_SCHEMA}`" in PAGE


@pytest.mark.parametrize("page", [DOCS / "data.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_is_on_some_page(verb):
    assert any(f"vitruvius data {verb.name}" in page.read_text(encoding="utf-8") for page in [DOCS / "data.md", *PAGES])


def test_every_separator_that_is_known_is_named():
    text = (DOCS / "data" / "tokenizers.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN_SEPARATORS if f"`{name}`" not in text] == []
