"""Files of every kind, read as documents: each record comes out as a Document, or as a refusal with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.arrow import read_arrow
from vitruvius.data.reading.jsonl import read_jsonl
from vitruvius.data.reading.options import InputFile, Kind, ReadOptions
from vitruvius.data.reading.pages import read_html, read_source, read_text
from vitruvius.data.reading.parquet import read_parquet
from vitruvius.data.reading.streams import BrokenStreamError, Identity, Span, opened, opened_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from vitruvius.data.document import Document

__all__ = ["READERS", "TABLE_READERS", "InputFile", "Kind", "ReadOptions", "read_file"]


def read_file(
    file: InputFile, options: ReadOptions, *, span: Span | None = None, expected: Identity | None = None
) -> Iterator[Document | Refusal]:
    """The documents of a file, or of a part of it, in order.

    Text has CRLF turned into LF and a byte-order mark at the start of the file removed; nothing else is
    normalised. A record that cannot be used comes out as a Refusal, and reading goes on after it.

    Raises:
        DataError: the file is missing, not a regular file, or changed before or while it was read.
    """
    span = span or Span()
    if file.kind == "hf":
        from vitruvius.data.reading.hub import read_dataset

        yield from read_dataset(file, options, span, expected)
    elif file.kind in TABLE_READERS:
        with opened_raw(file.path, name=file.name, expected=expected) as raw:
            yield from TABLE_READERS[file.kind](raw, file.name, options, span)
    else:
        with opened(file.path, name=file.name, options=options, expected=expected) as stream:
            try:
                yield from READERS[file.kind](stream, file.name, options, span)
            except BrokenStreamError as broken:
                yield Refusal(
                    file=file.name, line=None, byte_offset=broken.offset, reason=broken.reason, detail=str(broken)
                )


READERS: dict[Kind, Callable[[BinaryIO, str, ReadOptions, Span], Iterator[Document | Refusal]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "html": read_html,
    "source": read_source,
}
"""How each kind of byte stream is read. A new kind is a row here and a suffix in `inputs.SUFFIXES`."""

TABLE_READERS: dict[Kind, Callable[[BinaryIO, str, ReadOptions, Span], Iterator[Document | Refusal]]] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
}
"""How each kind of table is read: files that are read out of order, so never compressed as a whole."""
