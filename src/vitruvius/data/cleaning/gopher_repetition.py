"""Gopher's rules for documents that repeat themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from vitruvius.data.cleaning.measuring import at_most, compared, share
from vitruvius.data.cleaning.ngrams import LARGEST, Repeats, repeats
from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Measure, Rule
from vitruvius.data.cleaning.view import TextView, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document

LOOKED_AT = 1 << 20
"""Of a longer text, n-grams are sought in so many characters from its start, so that memory stays small."""

_TOP = range(2, 5)
_DUPLICATE = range(5, LARGEST + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GopherRepetition(Rule):
    """Documents in which lines, paragraphs or n-grams of words come again and again are dropped."""

    kind: ClassVar[str] = "gopher_repetition"
    source: ClassVar[str] = "Rae et al. 2021 (arXiv:2112.11446), table A1; datatrove's GopherRepetitionFilter"
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    """What it imports, asked for before work starts."""
    reasons: ClassVar[Mapping[str, str]] = {
        "gopher_duplicate_paragraphs": "too large a share of the paragraphs occurred before",
        "gopher_duplicate_paragraph_characters": "paragraphs that occurred before hold too many of the characters",
        "gopher_duplicate_lines": "too large a share of the lines occurred before",
        "gopher_duplicate_line_characters": "lines that occurred before hold too many of the characters",
        **{f"gopher_top_{n}gram": f"the most frequent {n} words hold too many of the characters" for n in _TOP},
        **{
            f"gopher_duplicate_{n}grams": f"{n} words that occurred before hold too many of the characters"
            for n in _DUPLICATE
        },
    }

    duplicate_paragraphs: float | None = setting(0.30, least=0, most=1)
    """Share of paragraphs that occurred before."""
    duplicate_paragraph_characters: float | None = setting(0.20, least=0, most=1)
    """Share of the characters that is in them."""
    duplicate_lines: float | None = setting(0.30, least=0, most=1)
    """Share of lines that occurred before."""
    duplicate_line_characters: float | None = setting(0.20, least=0, most=1)
    """Share of the characters that is in them."""
    top_2gram: float | None = setting(0.20, least=0)
    """Share of the characters in the most frequent pair of words."""
    top_3gram: float | None = setting(0.18, least=0)
    """The same for three words."""
    top_4gram: float | None = setting(0.16, least=0)
    """The same for four words."""
    duplicate_5grams: float | None = setting(0.15, least=0, most=1)
    """Share of the characters in runs of five words that occurred before."""
    duplicate_6grams: float | None = setting(0.14, least=0, most=1)
    """The same for six words."""
    duplicate_7grams: float | None = setting(0.13, least=0, most=1)
    """The same for seven words."""
    duplicate_8grams: float | None = setting(0.12, least=0, most=1)
    """The same for eight words."""
    duplicate_9grams: float | None = setting(0.11, least=0, most=1)
    """The same for nine words."""
    duplicate_10grams: float | None = setting(0.10, least=0, most=1)
    """The same for ten words."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """Thirteen looks: paragraphs, lines, then n-grams."""
        view = view_of(document.text)
        size = len(document.text)
        paragraphs, paragraph_characters = _duplicates(view.paragraphs)
        yield from compared(
            (
                ("gopher_duplicate_paragraphs", at_most, self.duplicate_paragraphs, lambda: paragraphs),
                (
                    "gopher_duplicate_paragraph_characters",
                    at_most,
                    self.duplicate_paragraph_characters,
                    lambda: share(paragraph_characters, size),
                ),
            )
        )
        lines, line_characters = _duplicates(view.runs)
        yield from compared(
            (
                ("gopher_duplicate_lines", at_most, self.duplicate_lines, lambda: lines),
                (
                    "gopher_duplicate_line_characters",
                    at_most,
                    self.duplicate_line_characters,
                    lambda: share(line_characters, size),
                ),
            )
        )
        if size > LOOKED_AT:
            view, size = TextView(document.text[:LOOKED_AT]), LOOKED_AT
        found = repeats(view.words)
        nothing = Repeats(0, 0)
        yield from compared(
            (f"gopher_top_{n}gram", at_most, getattr(self, f"top_{n}gram"), partial(share, of.top, size))
            for n in _TOP
            for of in (found.get(n, nothing),)
        )
        yield from compared(
            (
                f"gopher_duplicate_{n}grams",
                at_most,
                getattr(self, f"duplicate_{n}grams"),
                partial(share, found.get(n, nothing).duplicates, size),
            )
            for n in _DUPLICATE
        )


def _duplicates(parts: list[str]) -> tuple[float, int]:
    """Share of the parts that occurred before, and the characters in them."""
    counts = Counter(parts)
    again = len(parts) - len(counts)
    characters = sum(len(part) * (count - 1) for part, count in counts.items() if count > 1) if again else 0
    return share(again, len(parts)), characters
