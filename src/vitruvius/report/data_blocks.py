"""A document in blocks (headings, paragraphs, lists, tables, code), as Markdown and as HTML."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

from vitruvius.report.sheet import listed, table
from vitruvius.report.tables import code, markdown, prose
from vitruvius.spec.reporting import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A title of a part."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A paragraph of ours; what others wrote is `Said`."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A question, and what people answered."""

    question: str
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """A list of plain texts, or of names."""

    items: tuple[str, ...]
    kind: Literal["prose", "names"] = "prose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of plain texts; `align` has `<` or `>` for each column, `mono` the columns that hold names of files and the
    like.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    mono: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Lines to be copied."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing: `svg` for our pages; Markdown leaves it out."""

    svg: str


Block: TypeAlias = Heading | Words | Said | Items | Table | Code | Picture

UNSTATED = "not stated"


def as_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown; names and answers of others cannot break out of where they stand."""
    return "\n\n".join(part for block in blocks if (part := _markdown(block))) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {prose(one_line(block.text))}"
    if isinstance(block, Words):
        return prose(one_line(block.text))
    if isinstance(block, Said):
        answer = f"*{UNSTATED}*" if block.answer is None else prose(one_line(block.answer))
        return f"**{block.question}** {answer}"
    if isinstance(block, Items):
        written = code if block.kind == "names" else prose
        return "\n".join(f"- {written(one_line(item))}" for item in block.items)
    if isinstance(block, Table):
        rows = [
            [
                code(one_line(cell)) if place in block.mono and cell else _in_table(cell)
                for place, cell in enumerate(row)
            ]
            for row in block.rows
        ]
        return markdown(block.head, rows) if rows else ""
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max((len(run) for run in _runs(block.text)), default=0))
        return f"{fence}\n{_lines(block.text)}\n{fence}"
    return ""


def _in_table(cell: str) -> str:
    """Prose in a table, where `markdown` escapes the bars."""
    return prose(one_line(cell)).replace("\\|", "|")


def _runs(text: str) -> list[str]:
    """The runs of backticks in a text."""
    return [run for run in "".join(ch if ch == "`" else " " for ch in text).split() if run]


def as_html(blocks: Sequence[Block]) -> list[str]:
    """The blocks as parts of one of our pages."""
    return [part for block in blocks if (part := _html(block))]


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(one_line(block.text))}</h{block.level}>"
    if isinstance(block, Words):
        return f"<p>{escape(one_line(block.text))}</p>"
    if isinstance(block, Said):
        answer = f'<span class="soft">{UNSTATED}</span>' if block.answer is None else escape(one_line(block.answer))
        return f"<p><b>{escape(block.question)}</b> {answer}</p>"
    if isinstance(block, Items):
        if block.kind == "names":
            return "<ul>" + "".join(f"<li><code>{escape(one_line(item))}</code></li>" for item in block.items) + "</ul>"
        return listed(one_line(item) for item in block.items)
    if isinstance(block, Table):
        rows = [
            [
                f"<code>{escape(one_line(cell))}</code>" if place in block.mono and cell else escape(one_line(cell))
                for place, cell in enumerate(row)
            ]
            for row in block.rows
        ]
        return table([escape(name) for name in block.head], rows, align=block.align) if rows else ""
    if isinstance(block, Code):
        return f"<pre>{escape(_lines(block.text))}</pre>"
    return f'<figure class="wide">{block.svg}</figure>'


def _lines(text: str) -> str:
    """Lines to be copied, without what a terminal or a page would obey."""
    return "\n".join(printable(line, _LONGEST) for line in text.split("\n"))


def one_line(text: str) -> str:
    """A text of others on one line, without what a terminal or a page would obey."""
    return printable(" ".join(text.split()), _LONGEST)
