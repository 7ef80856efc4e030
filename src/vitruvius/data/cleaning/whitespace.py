"""White space: line ends, trailing blanks, runs of empty lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from vitruvius.data.cleaning.settings import setting
from vitruvius.data.cleaning.step import Rewriter, Rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.data.document import Document

_LINE_ENDS = re.compile(r"\r\n?|\u2028|\u2029|\x85|\x0c|\x0b")
_TRAILING = re.compile(r"(?<![ \t\xa0\u3000])[ \t\xa0\u3000]++(?=\n|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitespace(Rewriter):
    """White space in one form; indentation stays as it is."""

    kind: ClassVar[str] = "whitespace"
    source: ClassVar[str] = "Unicode Standard 5.8 (newline function)"
    counts: ClassVar[Mapping[str, str]] = {
        "line_ends": "CR LF, CR, NEL, vertical tabs, form feeds, line and paragraph separators made newlines",
        "trailing": "lines whose trailing blanks were removed",
        "empty_lines": "empty lines removed from runs that were too long",
        "ends": "white space removed at the start or the end of the text",
    }

    line_ends: Literal["newline", "keep"] = "newline"
    """Whether every line end becomes a newline."""
    trailing: Literal["remove", "keep"] = "remove"
    """What becomes of blanks before a line end."""
    empty_lines: int | None = setting(2, least=0)
    """At most this many empty lines follow each other; `none` keeps all."""
    ends: Literal["trim", "keep"] = "trim"
    """Whether empty lines at the start, and white space at the end but one newline, are removed."""

    def rewritten(self, document: Document) -> Rewritten:
        """The text with its white space in one form."""
        text = document.text
        changes: dict[str, int] = {}
        if self.line_ends == "newline":
            text, changes["line_ends"] = _LINE_ENDS.subn("\n", text)
        if self.trailing == "remove":
            text, changes["trailing"] = _TRAILING.subn("", text)
        if self.empty_lines is not None:
            before = len(text)
            text = re.sub(r"(?<!\n)\n{%d,}" % (self.empty_lines + 2), "\n" * (self.empty_lines + 1), text)
            changes["empty_lines"] = before - len(text)
        changes = {name: count for name, count in changes.items() if count}
        if not changes:
            return Rewritten(document=document, changes={})
        return Rewritten(document=replace(document, text=text), changes=changes)
