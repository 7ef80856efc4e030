"""What a Parquet file says of its row groups and pages, read without unpacking anything.

pyarrow's own view of a damaged footer may end the process (an exception in C++ that nobody catches), and it does not
tell the sizes of pages, so both are read here: Thrift structures in the compact protocol.
Sources: https://parquet.apache.org/docs/file-format/metadata/, https://parquet.apache.org/docs/file-format/data-pages/
and https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_MAGIC: Final = b"PAR1"
_FOOTER_BYTES: Final = 64 << 20
_HEADER_BYTES: Final = (512, 1 << 20)
"""A page's header has some dozens of bytes, and more when it holds the least and the largest value."""
_DEPTH: Final = 32

# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
_INTEGERS: Final = frozenset((_I16, _I32, _I64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column of a row group."""

    name: str
    """Its path, joined by points."""
    packed: int
    """Bytes in the file."""
    unpacked: int
    """Bytes of its pages, unpacked."""
    start: int
    """Where its first page begins in the file."""
    has_dictionary: bool
    """Whether values may be said once and referred to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows that are stored together."""

    rows: int
    """How many."""
    packed: int
    """Bytes of all its columns in the file, or of what they unpack to where the file does not say."""
    chunks: tuple[Chunk, ...]
    """The columns asked for."""


def row_groups(raw: BinaryIO, columns: frozenset[str] = frozenset()) -> list[RowGroup]:
    """The row groups of an open Parquet file, with what it says of `columns`.

    Raises:
        ValueError: the footer is damaged, or there is none.
    """
    descriptor = raw.fileno()
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 8, max(0, size - 8))
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != _MAGIC:
        raise ValueError("the file does not end as Parquet does")
    if length > min(size - 12, _FOOTER_BYTES):
        raise ValueError(f"the footer says that it has {length:,} bytes")
    return _Compact(os.pread(descriptor, length, size - 8 - length)).file(columns)


def largest_page(raw: BinaryIO, chunk: Chunk) -> int:
    """The unpacked bytes of the largest page of a column of a row group.

    Raises:
        ValueError: the header of a page is damaged.
    """
    place, largest = chunk.start, 0
    while place < chunk.start + chunk.packed:
        unpacked, packed, length = _page(raw, place)
        largest = max(largest, unpacked)
        place += length + packed
    return largest


def _page(raw: BinaryIO, place: int) -> tuple[int, int, int]:
    """The unpacked and packed bytes of the page that begins at `place`, and of its header."""
    if place < 0:
        raise ValueError("a page begins before the file")
    for size in _HEADER_BYTES:
        header = _Compact(os.pread(raw.fileno(), size, place))
        try:
            unpacked, packed = header.page()
        except EOFError:
            continue
        if unpacked < 0 or packed < 0:
            raise ValueError(f"the page at byte {place:,} has a negative size")
        return unpacked, packed, header.place
    raise ValueError(f"the header of the page at byte {place:,} does not end")


@final
class _Compact:
    """Reads one structure after the other; what is not wanted is read past."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0
        """Bytes read."""

    def file(self, columns: frozenset[str]) -> list[RowGroup]:
        """FileMetaData."""
        groups: list[RowGroup] = []
        try:
            for field, kind in self._fields():
                if field == 4 and kind == _LIST:
                    count, _ = self._list()
                    groups.extend(self._row_group(columns) for _ in range(count))
                else:
                    self._skip(kind)
        except EOFError:
            raise ValueError("the footer ends too early") from None
        return groups

    def page(self) -> tuple[int, int]:
        """PageHeader: unpacked and packed bytes; -1 where it does not say."""
        sizes = {2: -1, 3: -1}
        for field, kind in self._fields():
            if field in sizes and kind in _INTEGERS:
                sizes[field] = self._integer()
            else:
                self._skip(kind)
        return sizes[2], sizes[3]

    def _row_group(self, columns: frozenset[str]) -> RowGroup:
        numbers = {2: 0, 3: 0, 6: 0}
        chunks: list[Chunk] = []
        for field, kind in self._fields():
            if field == 1 and kind == _LIST:
                count, _ = self._list()
                every = (self._chunk() for _ in range(count))
                chunks.extend(chunk for chunk in every if chunk is not None and chunk.name in columns)
            elif field in numbers and kind in _INTEGERS:
                numbers[field] = self._integer()
            else:
                self._skip(kind)
        if numbers[3] < 0:
            raise ValueError("a row group has a negative number of rows")
        return RowGroup(rows=numbers[3], packed=numbers[6] or numbers[2], chunks=tuple(chunks))

    def _chunk(self) -> Chunk | None:
        found = None
        for field, kind in self._fields():
            if field == 3 and kind == _STRUCT:
                found = self._column()
            else:
                self._skip(kind)
        return found

    def _column(self) -> Chunk:
        """ColumnMetaData."""
        numbers = {6: 0, 7: 0, 9: 0, 11: 0}
        path: list[str] = []
        for field, kind in self._fields():
            if field == 3 and kind == _LIST:
                count, inner = self._list()
                if inner != _BINARY:
                    raise ValueError("the path of a column is no list of strings")
                path = [self._binary().decode("utf-8", "replace") for _ in range(count)]
            elif field in numbers and kind in _INTEGERS:
                numbers[field] = self._integer()
            else:
                self._skip(kind)
        start, dictionary = numbers[9], numbers[11]
        return Chunk(
            name=".".join(path),
            packed=numbers[7],
            unpacked=numbers[6],
            start=dictionary if 0 < dictionary < start else start,
            has_dictionary=dictionary > 0,
        )

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field; whoever asks must read its value before the next."""
        field = 0
        while byte := self._byte():
            step = byte >> 4
            field = field + step if step else self._integer()
            yield field, byte & 15

    def _skip(self, kind: int, depth: int = 0) -> None:
        if depth > _DEPTH:
            raise ValueError("a structure is nested too deeply")
        if kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            self._go(self._varint())
        elif kind in {_LIST, _SET}:
            count, inner = self._list()
            for _ in range(count):
                # In a list, a truth value takes a byte.
                self._skip(_BYTE if inner in {_TRUE, _FALSE} else inner, depth + 1)
        elif kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif kind in {_BYTE, _DOUBLE}:
            self._go(1 if kind == _BYTE else 8)
        elif kind not in {_TRUE, _FALSE}:
            raise ValueError(f"a field has the unknown type {kind}")

    def _list(self) -> tuple[int, int]:
        """How many elements, and of which type."""
        byte = self._byte()
        count = byte >> 4
        return self._varint() if count == 15 else count, byte & 15

    def _binary(self) -> bytes:
        length = self._varint()
        self._go(length)
        return self._content[self.place - length : self.place]

    def _go(self, count: int) -> None:
        self.place += count
        if self.place > len(self._content):
            raise EOFError

    def _byte(self) -> int:
        self._go(1)
        return self._content[self.place - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number has more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
