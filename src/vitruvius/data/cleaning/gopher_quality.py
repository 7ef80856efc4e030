"""Gopher's rules for whether a document is prose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from vitruvius.data.cleaning.measuring import at_least, at_most, compared, share
from vitruvius.data.cleaning.punctuation import PUNCTUATION
from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Measure, Rule
from vitruvius.data.cleaning.view import TextView, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class GopherQuality(Rule):
    """Documents with too few or odd words, too many symbols, or lines that are bullets or cut off are dropped."""

    kind: ClassVar[str] = "gopher_quality"
    source: ClassVar[str] = "Rae et al. 2021 (arXiv:2112.11446), appendix A.1; datatrove's GopherQualityFilter"
    reasons: ClassVar[Mapping[str, str]] = {
        "gopher_few_words": "fewer words than the limit; marks of punctuation are no words",
        "gopher_many_words": "more words than the limit",
        "gopher_short_words": "the mean word is too short",
        "gopher_long_words": "the mean word is too long",
        "gopher_hashes": "too many # for its words",
        "gopher_ellipses": "too many ellipses for its words",
        "gopher_bullet_lines": "too large a share of the lines starts with a bullet",
        "gopher_ellipsis_lines": "too large a share of the lines ends with an ellipsis",
        "gopher_alphabetic_words": "too small a share of the words and marks has a letter",
        "gopher_stop_words": "too few of the stop words occur",
    }

    least_words: int | None = setting(50, least=0)
    """Words, marks of punctuation not counted."""
    most_words: int | None = setting(100_000, least=0)
    """Words, marks of punctuation not counted."""
    least_mean_word_length: float | None = setting(3.0, least=0)
    """Characters."""
    most_mean_word_length: float | None = setting(10.0, least=0)
    """Characters."""
    most_hashes: float | None = setting(0.1, least=0)
    """`#` per word or mark."""
    most_ellipses: float | None = setting(0.1, least=0)
    """`...` and the character of three dots per word or mark."""
    most_bullet_lines: float | None = setting(0.9, least=0, most=1)
    """Share of lines that start with a bullet or a hyphen."""
    most_ellipsis_lines: float | None = setting(0.3, least=0, most=1)
    """Share of lines that end with an ellipsis."""
    least_alphabetic_words: float | None = setting(0.8, least=0, most=1)
    """Share of words and marks with at least one letter."""
    least_stop_words: int | None = setting(2, least=0)
    """How many of the stop words must occur."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that English prose has, in lower case."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """Ten looks, in the order of the paper."""
        view = view_of(document.text)
        proper = {word: count for word, count in view.word_counts.items() if not PUNCTUATION.issuperset(word)}
        number = sum(proper.values())
        every = len(view.words)
        text = document.text

        def mean_length() -> float:
            return share(sum(len(word) * count for word, count in proper.items()), number)

        return compared(
            (
                ("gopher_few_words", at_least, self.least_words, lambda: number),
                ("gopher_many_words", at_most, self.most_words, lambda: number),
                ("gopher_short_words", at_least, self.least_mean_word_length, mean_length),
                ("gopher_long_words", at_most, self.most_mean_word_length, mean_length),
                ("gopher_hashes", at_most, self.most_hashes, lambda: share(text.count("#"), every)),
                (
                    "gopher_ellipses",
                    at_most,
                    self.most_ellipses,
                    lambda: share(text.count("...") + text.count("\u2026"), every),
                ),
                ("gopher_bullet_lines", at_most, self.most_bullet_lines, partial(_bullet_lines, view)),
                ("gopher_ellipsis_lines", at_most, self.most_ellipsis_lines, partial(_ellipsis_lines, view)),
                ("gopher_alphabetic_words", at_least, self.least_alphabetic_words, partial(_alphabetic, view)),
                (
                    "gopher_stop_words",
                    at_least,
                    self.least_stop_words,
                    lambda: sum(word in proper for word in set(self.stop_words)),
                ),
            )
        )


def _bullet_lines(view: TextView) -> float:
    return share(sum(line.lstrip().startswith(("\u2022", "-")) for line in view.lines), len(view.lines))


def _ellipsis_lines(view: TextView) -> float:
    return share(sum(line.rstrip().endswith(("...", "\u2026")) for line in view.lines), len(view.lines))


def _alphabetic(view: TextView) -> float:
    counts = view.word_counts
    return share(sum(count for word, count in counts.items() if any(map(str.isalpha, word))), len(view.words))
