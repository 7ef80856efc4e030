"""Text in columns, for terminals and for pages of documentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, align: str, gap: int = 2) -> list[str]:
    """One line for each row, cells padded to their column; `align` has one of `<` and `>` for each column.

    Lines end without spaces. A row may be shorter than the others.
    """
    widths = [max((_width(row[i]) for row in rows if i < len(row)), default=0) for i in range(len(align))]
    return [(" " * gap).join(_padded(cell, align[i], widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def _padded(cell: str, align: str, width: int) -> str:
    room = " " * (width - _width(cell))
    return cell + room if align == "<" else room + cell


def _width(text: str) -> int:
    """Columns of a text in a terminal: two for a wide character (日), none for a mark that joins the one before."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in {"W", "F"} else 1 for char in text)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with `|` in cells escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """A code span in Markdown that holds any text: line breaks become spaces, backticks are fenced by more of them."""
    flat = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest or not flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def prose(text: str) -> str:
    """Text of others as plain prose in Markdown: on one line, with what Markdown or HTML would read escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))
