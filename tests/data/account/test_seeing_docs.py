"""The page on seeing data says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from vitruvius.data.account.about import QUESTIONS
from vitruvius.data.account.lengths import CONTEXTS, THRESHOLDS
from vitruvius.data.account.overlap import NGRAM_BYTES
from vitruvius.data.account.statistics import PARTS
from vitruvius.data.account.tally import MOST_NAMES

PAGE = (Path(__file__).parents[3] / "docs" / "data" / "seeing.md").read_text(encoding="utf-8")


def test_every_field_of_a_card_is_in_the_example():
    assert re.findall(r"^    (\w+): ", PAGE.split("# about.yaml")[1], re.MULTILINE) == list(QUESTIONS)


def test_numbers_and_parts_are_those_of_the_code():
    for part in PARTS:
        assert f"`{part}`" in PAGE
    assert f"over {THRESHOLDS[0]:,} to {THRESHOLDS[-1]:,} tokens" in PAGE
    assert f"for {CONTEXTS[0]:,} to {CONTEXTS[-1]:,} tokens" in PAGE
    assert f"about {NGRAM_BYTES} bytes" in PAGE
    assert f"exact up to {MOST_NAMES:,} hosts" in PAGE


def test_the_python_on_the_page_runs(real, monkeypatch):
    monkeypatch.chdir(real)
    code = PAGE.split("as plain JSON:\n\n")[1].split("\n## ")[0]
    code = code.replace("pages.jsonl@73912", "lines.jsonl@0")
    exec("\n".join(line[4:] for line in code.split("\n")), {})
