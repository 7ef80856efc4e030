"""The page on tokenizers says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitruvius.data.tokenization import documents, words
from vitruvius.data.tokenization.from_gguf import WORD_SPLITS
from vitruvius.data.tokenization.patterns import DIGITS, WORDS
from vitruvius.data.tokenization.tokenizer import KNOWN_SEPARATORS
from vitruvius.data.tokenization.training import KINDS

PAGE = (Path(__file__).parents[3] / "docs" / "data" / "tokenizers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*KINDS, *WORDS, *DIGITS, *KNOWN_SEPARATORS])
def test_every_choice_and_separator_is_named(name):
    assert f"`{name}`" in PAGE


def test_its_numbers_are_those_of_the_code():
    text = " ".join(PAGE.split())
    assert f"the word splits of {len(WORD_SPLITS)} names" in text
    assert f"at most {words.MOST_REMEMBERED:,} of them" in text
    assert documents.BATCH == 2**19  # "about a megabyte of text at a time", with what comes of it
