"""Parquet files as documents: row group by row group, only the columns that are needed, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.parquet_footer import largest_page, row_groups
from vitruvius.data.reading.tables import columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from vitruvius.data.document import Document
    from vitruvius.data.reading.options import ReadOptions
    from vitruvius.data.reading.parquet_footer import RowGroup
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
        table = _parquet_file(raw)
        schema = table.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        yield _unreadable(name, error)
        return
    columns = columns_of(schema, name, options)
    try:
        groups = row_groups(raw, frozenset(columns.names))
    except ValueError as error:
        yield _unreadable(name, error)
        return
    first = 1
    for number, group in enumerate(groups):
        wanted = number >= span.start and (span.stop is None or number < span.stop)
        if wanted and group.rows:
            yield from _read_group(table, raw, number, group, columns, name, options, first=first)
        first += group.rows


def _unreadable(name: str, error: Exception) -> Refusal:
    return Refusal(file=name, line=None, byte_offset=0, reason="corrupt_table", detail=_first_line(error))


def _parquet_file(raw: BinaryIO) -> Any:
    # Without pre-buffering, and with a buffer, a column is read page by page instead of as a whole.
    return library("pyarrow.parquet").ParquetFile(
        raw,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )


def _read_group(
    table: Any,
    raw: BinaryIO,
    number: int,
    group: RowGroup,
    columns: Columns,
    name: str,
    options: ReadOptions,
    *,
    first: int,
) -> Iterator[Document | Refusal]:
    pa = library("pyarrow")
    last = first + group.rows - 1
    done = first - 1

    def refuse(reason: str, detail: str) -> Refusal:
        lost = f"rows {done + 1:,} to {last:,} (row group {number + 1:,}): {detail}"
        return Refusal(file=name, line=done + 1, byte_offset=done + 1, reason=reason, detail=lost)

    try:
        excess = _excess(group, raw, options)
        if excess is not None:
            yield refuse(*excess)
            return
        batches = table.iter_batches(
            batch_size=_batch_rows(group), row_groups=[number], columns=columns.names, use_threads=False
        )
        for batch in batches:
            yield from rows_of(batch, columns, name, options, first=done + 1)
            done += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        yield refuse("corrupt_table", _first_line(error))
        return
    if done < last:
        yield refuse("corrupt_table", "they are missing")


def _excess(group: RowGroup, raw: BinaryIO, options: ReadOptions) -> tuple[str, str] | None:
    """The reason and detail for which a row group is not read; None where it may be.

    Raises:
        ValueError: a page's header is damaged.
    """
    unpacked = sum(chunk.unpacked for chunk in group.chunks)
    packed = sum(chunk.packed for chunk in group.chunks)
    if unpacked > options.table_bytes:
        return "too_much_memory", f"{unpacked:,} bytes unpacked, the limit is {options.table_bytes:,}"
    page = max((largest_page(raw, chunk) for chunk in group.chunks), default=0)
    if page > options.batch_bytes:
        return "too_much_memory", f"a page of {page:,} bytes unpacked, the limit is {options.batch_bytes:,}"
    if unpacked > max(options.bomb_floor_bytes, options.bomb_ratio * packed):
        limit = f"the limit is {options.bomb_ratio:,} times as many"
        return "decompression_bomb", f"{packed:,} bytes unpack to {unpacked:,}; {limit}"
    return None


def _batch_rows(group: RowGroup) -> int:
    unpacked = max(1, sum(chunk.unpacked for chunk in group.chunks))
    most = _DICTIONARY_ROWS if any(chunk.has_dictionary for chunk in group.chunks) else _MOST_ROWS
    return max(1, min(most, _BATCH_BYTES * group.rows // unpacked))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:500]
