"""What the readers may be told, and the limits within which they stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from pathlib import Path

    from vitruvius.data.document import Markup

Kind = Literal["text", "jsonl", "html", "source", "parquet", "arrow", "hf"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LINE_LIMIT = 16 * 2**20
"""Longest line in bytes that is read into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file to read documents from."""

    name: str
    """How messages, the quarantine and the order of documents name it."""
    path: Path
    """Where it is; of a dataset that lies elsewhere, its name."""
    kind: Kind
    """How its bytes become documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the readers may be told."""

    field: str = "text"
    """Key of the text in a JSON line, or its column in a table."""
    url_field: str = "url"
    """Key or column of the address a document was published at; where that is no string, it has none."""
    markup: Markup = "plain"
    """What the texts of JSON lines and tables are: plain text, or pages of HTML."""
    limit: int = LINE_LIMIT
    """Longest line (JSONL, text), file (HTML, source) or text of a table's row in bytes; longer ones are refused."""
    document_bytes: int = LINE_LIMIT
    """A text file longer than this is cut, at line ends, into documents of at most this many bytes, or one line."""
    bomb_floor_bytes: int = 64 * 2**20
    """Below this many unpacked bytes no compressed file is a bomb."""
    bomb_ratio: int = 200
    """A compressed file that unpacks to more than this many times what was read of it is a bomb: ten times what text
    reaches."""
    window_bytes: int = 128 * 2**20
    """Largest window of a zstd frame and largest memory of an xz stream: `zstd --long` and `xz -9` ask for no more."""
    table_bytes: int = 2 * 2**30
    """Largest row group of a Parquet file: its needed columns, unpacked."""
    batch_bytes: int = 256 * 2**20
    """Largest record batch of an Arrow file, and largest page of a Parquet file, unpacked."""
