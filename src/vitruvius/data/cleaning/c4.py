"""C4's rules: lines that are no sentences, and pages that are none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from vitruvius.data.cleaning.measuring import at_least, at_most, compared
from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Measure, Rewriter, Rewritten, Rule
from vitruvius.data.cleaning.view import view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.data.document import Document

_SOURCE: Final = "Raffel et al. 2020 (JMLR 21:140), section 2.2; datatrove's C4QualityFilter"
_CITATION: Final = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_END: Final = (".", "?", "!", '"', "'")
# The end of a sentence: its mark, what may close after it, and white space or the end of the line. Letters with a dot
# after each (`U.S.`, `e.g.`) and dots in a row end none.
_SENTENCE: Final = re.compile(
    r"(?:(?<![.\s])(?<!\b[A-Za-z])\.(?!\.)|[!?\u2026\u3002\uff01\uff1f])[!?\"'\u201d\u2019)\]]*+(?=\s)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class C4Lines(Rewriter):
    """Lines that are no sentences are removed; the first failing test of a line counts."""

    kind: ClassVar[str] = "c4_lines"
    source: ClassVar[str] = _SOURCE
    counts: ClassVar[Mapping[str, str]] = {
        "long_words": "lines with a word that is too long",
        "citations": "lines from which marks such as [12] and [edit] were removed",
        "unfinished": "lines that do not end a sentence",
        "short": "lines with too few words",
        "javascript": "lines that mention JavaScript",
        "policy": "lines that mention cookies, a privacy policy or terms of use",
        "blanks": "texts in which nothing but white space around lines changed",
    }

    most_word_length: int | None = setting(1_000, least=1)
    """Longest word of a line, in characters."""
    citations: Literal["remove", "keep"] = "remove"
    """What becomes of Wikipedia's marks: [12], [edit], [citation needed]."""
    unfinished: Literal["remove", "keep"] = "remove"
    """Lines that do not end with . ? ! or a quote, or end with `...`; FineWeb keeps them."""
    least_words: int | None = setting(3, least=0)
    """Words between white space that a line must have."""
    remove: tuple[str, ...] = ("javascript",)
    """Lines with one of these are removed, in any case."""
    policy: tuple[str, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    """Lines with one of these are removed too, in any case."""

    def rewritten(self, document: Document) -> Rewritten:
        """The lines that stay, without white space around them."""
        kept: list[str] = []
        changes: dict[str, int] = {}
        for whole in view_of(document.text).lines:
            line = whole.strip()
            why = self._fault(line, words := line.split())
            if not why and self.citations == "remove" and "[" in line:
                bare = _CITATION.sub("", line)
                if bare != line:
                    changes["citations"] = changes.get("citations", 0) + 1
                    line = bare
            why = why or self._fault_of_text(line, len(words))
            if why:
                changes[why] = changes.get(why, 0) + 1
            else:
                kept.append(line)
        text = "\n".join(kept).strip()
        if text == document.text:
            return Rewritten(document=document, changes={})
        return Rewritten(document=replace(document, text=text), changes=changes or {"blanks": 1})

    def _fault(self, line: str, words: list[str]) -> str:
        longest = self.most_word_length
        if longest is not None and len(line) > longest and any(len(word) > longest for word in words):
            return "long_words"
        return ""

    def _fault_of_text(self, line: str, words: int) -> str:
        if self.unfinished == "remove" and (not line.endswith(_END) or line.endswith("...")):
            return "unfinished"
        if self.least_words is not None and words < self.least_words:
            return "short"
        if not (self.remove or self.policy):
            return ""
        lower = line.lower()
        if any(word in lower for word in self.remove):
            return "javascript"
        if any(word in lower for word in self.policy):
            return "policy"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class C4(Rule):
    """Pages with filler text, code or too few sentences are dropped; `c4_lines` comes before it."""

    kind: ClassVar[str] = "c4"
    source: ClassVar[str] = _SOURCE
    reasons: ClassVar[Mapping[str, str]] = {
        "c4_lorem_ipsum": "it has the filler text `lorem ipsum`",
        "c4_curly_bracket": "it has a curly bracket, so it may be code",
        "c4_few_sentences": "fewer sentences than the limit",
    }

    most_lorem_ipsum: int | None = setting(0, least=0)
    """How often `lorem ipsum` may occur, in any case."""
    most_curly_brackets: int | None = setting(0, least=0)
    """How many `{` there may be."""
    least_sentences: int | None = setting(5, least=0)
    """Sentences that the page must have."""

    def measures(self, document: Document) -> Iterator[Measure]:
        """Three looks."""
        text = document.text
        return compared(
            (
                ("c4_lorem_ipsum", at_most, self.most_lorem_ipsum, lambda: text.lower().count("lorem ipsum")),
                ("c4_curly_bracket", at_most, self.most_curly_brackets, lambda: text.count("{")),
                ("c4_few_sentences", at_least, self.least_sentences, partial(sentences, text)),
            )
        )


def sentences(text: str) -> int:
    """How many sentences a text has; one ends at the end of a line at the latest."""
    count = 0
    for line in view_of(text).lines:
        if stripped := line.strip():
            ends = [found.end() for found in _SENTENCE.finditer(stripped)]
            count += len(ends) + 1
    return count
