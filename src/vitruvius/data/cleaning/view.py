"""A text cut into words and lines once, for all the rules that look at it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Final, final

_LARGEST_KEPT: Final = 1 << 20

# A word, a run of dots or dashes, or one other character: close to spaCy's English tokenizer, which FineWeb's rules
# were tuned with, in one linear pass (the tests say how close).
_CLITIC: Final = r"['\u2019](?:s|re|ve|ll|m|d)\b"
_WORD: Final = re.compile(
    rf"""
    e\.g\.|i\.e\.|https?://\S++
    | {_CLITIC}
    | [^\W_](?:\w|[.@&?%+~\#(\[\\](?=\w)|(?!{_CLITIC})['\u2019](?=\w)|(?<=\d)[,:/](?=\d)|-(?=\d))*+
    | \.\.++
    | (?<!\S)[-/]{{1,2}}\w(?:\w|[.@\u2019'&?%+~\#(\[\\](?=\w)|(?<=\d)[,:/](?=\d)|-(?=\d))*+
    | --++
    | [^\w\s]
    | _
    """,
    re.VERBOSE,
)
_LINE_BREAKS: Final = re.compile(r"\n+")
_PARAGRAPH_BREAKS: Final = re.compile(r"\n{2,}")


@final
class TextView:
    """What rules count in a text, each thing worked out when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """Words, numbers, and every mark of punctuation as one of its own."""
        return _WORD.findall(self.text)

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(self.words)

    @cached_property
    def lines(self) -> list[str]:
        """Lines as `str.splitlines` cuts them."""
        return self.text.splitlines()

    @cached_property
    def filled_lines(self) -> list[str]:
        """Lines between newlines that hold more than white space."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def runs(self) -> list[str]:
        """What stands between runs of newlines."""
        return _LINE_BREAKS.split(self.text)

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between empty lines, of the text without white space around it."""
        return _PARAGRAPH_BREAKS.split(self.text.strip())

    @cached_property
    def newlines(self) -> int:
        """Newlines."""
        return self.text.count("\n")


_latest = TextView("")


def view_of(text: str) -> TextView:
    """The view of a text; the latest is kept, so that rules that follow each other share it."""
    global _latest  # noqa: PLW0603 (a cache of one: what comes back does not depend on it)
    view = _latest
    if view.text is not text:
        view = TextView(text)
        # A large one would stay in memory until the next.
        if len(text) <= _LARGEST_KEPT:
            _latest = view
    return view
