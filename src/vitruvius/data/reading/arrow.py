"""Arrow IPC streams and files as documents, batch by batch; folders saved by `datasets` hold such streams.

The size of each message is looked at before pyarrow reads it, so that no batch is larger than allowed.
Source of the format: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, Final, final

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.tables import columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from vitruvius.data.document import Document
    from vitruvius.data.reading.options import ReadOptions
    from vitruvius.data.reading.streams import Span

_FILE_MAGIC: Final = b"ARROW1"
_METADATA_BYTES: Final = 16 << 20
_CONTINUATION: Final = 0xFFFFFFFF
_DICTIONARY_BATCH: Final = 2
_RECORD_BATCH: Final = 3


def read_arrow(raw: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """The documents of an Arrow stream or file; damage, or a batch of more than `batch_bytes`, loses what follows it.

    Raises:
        DataError: there is no column of texts.
        MissingExtraError: pyarrow is not installed.
    """
    del span
    pa = library("pyarrow")
    # A file is a stream between a magic word and a footer.
    if raw.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
        raw.seek(8)
    else:
        raw.seek(0)
    start = raw.tell()
    done = 0

    def refuse(reason: str, detail: str) -> Refusal:
        lost = f"from row {done + 1:,} on: {detail}"
        return Refusal(file=name, line=done + 1, byte_offset=done + 1, reason=reason, detail=lost)

    guarded = _Guarded(raw, options.batch_bytes)
    try:
        schema = pa.ipc.open_stream(pa.PythonFile(guarded, mode="r")).schema
        columns = columns_of(schema, name, options)
        raw.seek(start)
        guarded = _Guarded(raw, options.batch_bytes)
        wanted = pa.ipc.IpcReadOptions(
            included_fields=sorted(schema.get_field_index(column) for column in columns.names), use_threads=False
        )
        for batch in pa.ipc.open_stream(pa.PythonFile(guarded, mode="r"), options=wanted):
            batch.validate(full=False)
            yield from rows_of(batch, columns, name, options, first=done + 1)
            done += batch.num_rows
        if not guarded.ended:
            yield refuse("corrupt_table", "the file ends without the mark of its end")
    except _TooLargeError as error:
        yield refuse("too_much_memory", str(error))
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        yield refuse("corrupt_table", str(error).strip().partition("\n")[0][:500])


class _TooLargeError(Exception):
    """A message takes more memory than allowed."""


@final
class _Guarded:
    """A binary file as pyarrow reads it, that looks at each message of the stream before it is read."""

    def __init__(self, raw: BinaryIO, limit: int) -> None:
        self._raw = raw
        self._limit = limit
        self._head = b""
        self._body = 0
        self.ended = False
        """Whether the stream's own mark of its end was read."""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`."""
        if not self._head and not self._body:
            self._head, self._body = self._message()
        if size < 0:
            size = len(self._head) + self._body
        head, self._head = self._head[:size], self._head[size:]
        if len(head) == size or not self._body:
            return head
        body = self._raw.read(min(size - len(head), self._body))
        self._body -= len(body)
        return head + body if head else body

    def tell(self) -> int:
        """Bytes handed out."""
        return self._raw.tell() - len(self._head)

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """The file is closed by who opened it."""

    def _message(self) -> tuple[bytes, int]:
        """The next message's prefix and metadata, and how many bytes of body follow."""
        prefix = self._raw.read(4)
        if len(prefix) < 4:
            return prefix, 0
        (size,) = struct.unpack("<I", prefix)
        if size == _CONTINUATION:
            more = self._raw.read(4)
            prefix += more
            if len(more) < 4:
                return prefix, 0
            (size,) = struct.unpack("<I", more)
        if size == 0:
            self.ended = True
            return prefix, 0
        if size > _METADATA_BYTES:
            raise _TooLargeError(f"a message with {size:,} bytes of metadata, the limit is {_METADATA_BYTES:,}")
        metadata = self._raw.read(size)
        if len(metadata) < size:
            return prefix + metadata, 0
        try:
            body = self._checked_body(metadata)
        except (struct.error, IndexError):
            raise ValueError("the metadata of a message is damaged") from None
        return prefix + metadata, body

    def _checked_body(self, metadata: bytes) -> int:
        """Bytes of a message's body, when neither they nor what they unpack to are over the limit."""
        (root,) = struct.unpack_from("<I", metadata, 0)
        body = _scalar(metadata, root, 3, "<q") or 0
        if body < 0:
            raise ValueError("a message with a body of negative size")
        unpacked = body
        header = _child(metadata, root, 2)
        kind = _scalar(metadata, root, 1, "<B")
        if kind == _DICTIONARY_BATCH and header is not None:
            header = _child(metadata, header, 1)
            kind = _RECORD_BATCH
        if kind == _RECORD_BATCH and header is not None and _child(metadata, header, 3) is not None:
            unpacked = self._unpacked(metadata, header, body)
        if max(body, unpacked) > self._limit:
            raise _TooLargeError(f"a batch of {max(body, unpacked):,} bytes, the limit is {self._limit:,}")
        return body

    def _unpacked(self, metadata: bytes, header: int, body: int) -> int:
        """Bytes of all buffers of a compressed batch; each begins with its unpacked size, or -1 for as it is."""
        start = _child(metadata, header, 2)
        if start is None:
            return 0
        (count,) = struct.unpack_from("<I", metadata, start)
        here = self._raw.tell()
        total = 0
        for number in range(min(count, len(metadata) // 16)):
            offset, length = struct.unpack_from("<qq", metadata, start + 4 + 16 * number)
            if length < 8 or offset < 0 or offset + length > body:
                continue
            said = os.pread(self._raw.fileno(), 8, here + offset)
            size = struct.unpack("<q", said)[0] if len(said) == 8 else 0
            total += length if size < 0 else size
        return total


def _field(content: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table is; None where it has its default."""
    vtable: int = table - struct.unpack_from("<i", content, table)[0]
    if vtable < 0:
        raise IndexError
    (size,) = struct.unpack_from("<H", content, vtable)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", content, vtable + 4 + 2 * number)
    return table + offset if offset else None


def _scalar(content: bytes, table: int, number: int, form: str) -> Any:
    place = _field(content, table, number)
    return None if place is None else struct.unpack_from(form, content, place)[0]


def _child(content: bytes, table: int, number: int) -> int | None:
    """Where the table or vector that a field refers to is."""
    place = _field(content, table, number)
    return None if place is None else place + struct.unpack_from("<I", content, place)[0]
