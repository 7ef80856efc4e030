"""The page on data says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from vitruvius.data.ledger import BAD_REASONS, HARMLESS_REASONS
from vitruvius.data.reading.inputs import SUFFIXES
from vitruvius.data.tokenization.tokenizer import KNOWN_SEPARATORS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_reason_is_in_the_table_with_its_weight():
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (yes|no) \|$", PAGE, re.MULTILINE))
    assert rows == dict.fromkeys(HARMLESS_REASONS, "no") | dict.fromkeys(BAD_REASONS, "yes")


def test_every_suffix_and_separator_is_named():
    for name in (*SUFFIXES, *KNOWN_SEPARATORS):
        assert f"`{name}`" in PAGE
