"""FineWeb's own quality rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from vitruvius.data.cleaning.measuring import at_least, at_most, compared, share
from vitruvius.data.cleaning.punctuation import TERMINAL
from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Measure, Rule
from vitruvius.data.cleaning.view import TextView, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class FineWeb(Rule):
    """Documents that are lists rather than prose, by how their lines end, how long they are and how they repeat."""

    kind: ClassVar[str] = "fineweb"
    source: ClassVar[str] = "Penedo et al. 2024 (arXiv:2406.17557), section 3.6; datatrove's FineWebQualityFilter"
    reasons: ClassVar[Mapping[str, str]] = {
        "fineweb_line_punctuation": "too few of the lines end with what ends a sentence",
        "fineweb_short_lines": "too large a share of the lines is short",
        "fineweb_duplicate_characters": "lines that occurred before hold too many of the characters",
        "fineweb_newlines": "too many newlines for its words: a list",
    }

    least_line_punctuation: float | None = setting(0.12, least=0, most=1)
    """Share of lines that end with a character that ends sentences."""
    most_short_lines: float | None = setting(0.67, least=0, most=1)
    """Share of lines that are short."""
    short_line: int = setting(30, least=0)
    """A line of at most this many characters is short."""
    most_duplicate_characters: float | None = setting(0.01, least=0, most=1)
    """Share of the characters in lines that occurred before. The code that made FineWeb has 0.01, its paper 0.1."""
    most_newlines: float | None = setting(0.3, least=0)
    """Newlines per word or mark of punctuation."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """Four looks."""
        view = view_of(document.text)
        return compared(
            (
                ("fineweb_line_punctuation", at_least, self.least_line_punctuation, partial(_line_punctuation, view)),
                ("fineweb_short_lines", at_most, self.most_short_lines, partial(_short_lines, view, self.short_line)),
                (
                    "fineweb_duplicate_characters",
                    at_most,
                    self.most_duplicate_characters,
                    partial(_duplicate_characters, view),
                ),
                (
                    "fineweb_newlines",
                    at_most,
                    self.most_newlines,
                    lambda: share(view.newlines, len(view.words)),
                ),
            )
        )


def _line_punctuation(view: TextView) -> float:
    return share(sum(line[-1] in TERMINAL for line in view.filled_lines), len(view.filled_lines))


def _short_lines(view: TextView, length: int) -> float:
    return share(sum(len(line) <= length for line in view.filled_lines), len(view.filled_lines))


def _duplicate_characters(view: TextView) -> float:
    counts = Counter(view.filled_lines)
    again = sum(len(line) * (count - 1) for line, count in counts.items() if count > 1)
    return share(again, len(view.text) - view.newlines)
