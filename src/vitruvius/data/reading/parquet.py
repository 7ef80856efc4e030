"""Parquet files as documents: row group by row group, only the columns that are needed, in bounded memory."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.parquet_pages import largest_page
from vitruvius.data.reading.tables import columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from vitruvius.data.document import Document
    from vitruvius.data.reading.options import ReadOptions
    from vitruvius.data.reading.streams import Span
    from vitruvius.data.reading.tables import Columns

_BATCH_BYTES: Final = 4 << 20
_MOST_ROWS: Final = 4096
_DICTIONARY_ROWS: Final = 16
"""Rows at a time where a column has a dictionary: each row may be as long as all of it."""
_BUFFER_BYTES: Final = 1 << 18


def read_parquet(raw: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """The documents of the row groups from `span.start` on.

    Damage loses the rest of its row group, one of more than `table_bytes` or with pages of more than `batch_bytes` is
    refused as a whole; either is one refusal that names the rows.

    Raises:
        DataError: there is no column of texts.
        MissingExtraError: pyarrow is not installed.
    """
    pa = library("pyarrow")
    try:
        table = parquet_file(raw)
        groups: int = table.metadata.num_row_groups
        rows: list[int] = [table.metadata.row_group(group).num_rows for group in range(groups)]
    except (pa.ArrowException, OSError) as error:
        yield Refusal(file=name, line=None, byte_offset=0, reason="corrupt_table", detail=_first_line(error))
        return
    columns = columns_of(table.schema_arrow, name, options)
    before = list(itertools.accumulate(rows, initial=0))
    for group in range(span.start, groups if span.stop is None else min(span.stop, groups)):
        if rows[group]:
            yield from _read_group(table, raw, group, columns, name, options, first=1 + before[group])


def parquet_file(raw: BinaryIO) -> Any:
    """The open table; reads its footer.

    Raises:
        pyarrow.ArrowException: it is damaged. OSError is one of its forms.
    """
    # Without pre-buffering, and with a buffer, a column is read page by page instead of as a whole.
    return library("pyarrow.parquet").ParquetFile(
        raw,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )


def _read_group(
    table: Any, raw: BinaryIO, group: int, columns: Columns, name: str, options: ReadOptions, *, first: int
) -> Iterator[Document | Refusal]:
    pa = library("pyarrow")
    metadata = table.metadata.row_group(group)
    last = first + metadata.num_rows - 1
    done = first - 1

    def refuse(reason: str, detail: str) -> Refusal:
        lost = f"rows {done + 1:,} to {last:,} (row group {group + 1:,}): {detail}"
        return Refusal(file=name, line=done + 1, byte_offset=done + 1, reason=reason, detail=lost)

    try:
        chunks = _chunks(metadata, columns)
        excess = _excess(chunks, raw, options)
        if excess is not None:
            yield refuse(*excess)
            return
        batches = table.iter_batches(
            batch_size=_batch_rows(metadata, chunks), row_groups=[group], columns=columns.names, use_threads=False
        )
        for batch in batches:
            yield from rows_of(batch, columns, name, options, first=done + 1)
            done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        yield refuse("corrupt_table", _first_line(error))
        return
    if done != last:
        yield refuse("corrupt_table", "they are missing")


def _chunks(metadata: Any, columns: Columns) -> list[Any]:
    """The needed columns of a row group."""
    every = (metadata.column(index) for index in range(metadata.num_columns))
    return [chunk for chunk in every if chunk.path_in_schema in columns.names]


def _excess(chunks: list[Any], raw: BinaryIO, options: ReadOptions) -> tuple[str, str] | None:
    """The reason and detail for which a row group is not read; None where it may be."""
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    packed = sum(chunk.total_compressed_size for chunk in chunks)
    if unpacked > options.table_bytes:
        return "too_much_memory", f"{unpacked:,} bytes unpacked, the limit is {options.table_bytes:,}"
    page = max((largest_page(raw, chunk) for chunk in chunks), default=0)
    if page > options.batch_bytes:
        return "too_much_memory", f"a page of {page:,} bytes unpacked, the limit is {options.batch_bytes:,}"
    if unpacked > max(options.bomb_floor_bytes, options.bomb_ratio * packed):
        limit = f"the limit is {options.bomb_ratio:,} times as many"
        return "decompression_bomb", f"{packed:,} bytes unpack to {unpacked:,}; {limit}"
    return None


def _batch_rows(metadata: Any, chunks: list[Any]) -> int:
    unpacked = max(1, sum(chunk.total_uncompressed_size for chunk in chunks))
    most = _DICTIONARY_ROWS if any(chunk.has_dictionary_page for chunk in chunks) else _MOST_ROWS
    return max(1, min(most, _BATCH_BYTES * metadata.num_rows // unpacked))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:500]
