"""White space: line ends, trailing blanks, runs of empty lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Rewriter, Rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.document import Document

_LINE_ENDS: Final = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES: Final = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# A run of blanks is looked at from its first one only; the possessive repeat gives none of it back.
_TRAILING: Final = re.compile("(?<![ \t\xa0\u3000])[ \t\xa0\u3000]++(?=\n|\\Z)")
_START: Final = re.compile(r"(?:[^\S\n]*+\n)++")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitespace(Rewriter):
    """White space in one form; indentation, and blanks inside a line, stay as they are."""

    kind: ClassVar[str] = "whitespace"
    source: ClassVar[str] = "Unicode Standard, section 5.8 (newline function)"
    counts: ClassVar[Mapping[str, str]] = {
        "line_ends": "CR LF, CR, NEL, vertical tabs, form feeds, line and paragraph separators made newlines",
        "spaces": "no-break, wide and other spaces made plain",
        "trailing": "lines whose trailing blanks were removed",
        "empty_lines": "empty lines removed from runs that were too long",
        "ends": "characters removed at the start and the end of the text",
    }

    line_ends: Literal["newline", "keep"] = "newline"
    """What becomes of line ends other than a newline."""
    spaces: Literal["plain", "keep"] = "keep"
    """What becomes of spaces other than U+0020, tabs not counted."""
    trailing: Literal["remove", "keep"] = "remove"
    """What becomes of blanks before a line end."""
    empty_lines: int | None = setting(2, least=0)
    """At most this many empty lines follow each other; `none` keeps all."""
    ends: Literal["trim", "keep"] = "trim"
    """Whether empty lines at the start go, and all white space at the end but one newline."""

    def rewritten(self, document: Document) -> Rewritten:
        """The text with its white space in one form."""
        text = document.text
        changes: dict[str, int] = {}
        if self.line_ends == "newline":
            text, changes["line_ends"] = _LINE_ENDS.subn("\n", text)
        if self.spaces == "plain" and not text.isascii():
            text, changes["spaces"] = _SPACES.subn(" ", text)
        if self.trailing == "remove":
            text, changes["trailing"] = _TRAILING.subn("", text)
        if self.empty_lines is not None:
            size = len(text)
            newlines = "\n" * (self.empty_lines + 1)
            if newlines + "\n" in text:
                text = re.sub(rf"\n{{{self.empty_lines + 2},}}+", newlines, text)
            changes["empty_lines"] = size - len(text)
        if self.ends == "trim":
            trimmed = _trimmed(text)
            changes["ends"] = len(text) - len(trimmed)
            text = trimmed
        changes = {name: count for name, count in changes.items() if count}
        if not changes:
            return Rewritten(document=document, changes={})
        return Rewritten(document=replace(document, text=text), changes=changes)


def _trimmed(text: str) -> str:
    """Without empty lines at the start, and with at most one newline at the end."""
    start = found.end() if (found := _START.match(text)) is not None else 0
    bare = text[start:].rstrip()
    if bare and text[start + len(bare) : start + len(bare) + 1] == "\n":
        return bare + "\n"
    # White space other than a newline came first: the newline after it, if any, is still the end of the line.
    return bare + "\n" if bare and "\n" in text[start + len(bare) :] else bare
