"""A document on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Markup = Literal["plain", "html"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a reader found and the steps pass on: where it is from, and its text as it is by now."""

    id: str
    """`FILE` where a file is a document, `FILE@OFFSET` of a line or of a piece of a long text (the byte it begins at),
    `FILE#ROW` of a table's row (from 1): unique among the inputs, and enough to find it again."""
    file: str
    """The input file, as messages name it."""
    line: int | None
    """Line or row, from 1; None where a file is a document."""
    byte_offset: int
    """Bytes before it in the file (unpacked, where it is compressed); the row for tables."""
    text: str
    """Unicode without NUL and lone surrogates."""
    markup: Markup = "plain"
    """Whether `text` is still a page of HTML."""
    url: str | None = None
    """Where it was published, if the input says so."""
