"""The sizes of the pages of a Parquet column, read from their headers: what unpacking one would take is known before.

A page header is a Thrift structure in the compact protocol; its second and third fields are the sizes.
Source: https://parquet.apache.org/docs/file-format/data-pages/ and the Thrift compact protocol specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from typing import BinaryIO

_HEADER_BYTES: Final = 1 << 16
_UNPACKED_SIZE: Final = 2
_PACKED_SIZE: Final = 3
_DEPTH: Final = 16


def largest_page(raw: BinaryIO, chunk: Any) -> int:
    """The unpacked bytes of the largest page of a column chunk; leaves `raw` where it was.

    Raises:
        ValueError: a header is damaged.
    """
    here = raw.tell()
    try:
        return _largest(raw, chunk)
    finally:
        raw.seek(here)


def _largest(raw: BinaryIO, chunk: Any) -> int:
    place: int = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end = place + chunk.total_compressed_size
    largest = 0
    while place < end:
        raw.seek(place)
        header = _Compact(raw.read(_HEADER_BYTES))
        sizes = header.integers()
        unpacked, packed = sizes.get(_UNPACKED_SIZE), sizes.get(_PACKED_SIZE)
        if unpacked is None or packed is None or unpacked < 0 or packed < 0:
            raise ValueError(f"the page header at byte {place:,} is damaged")
        largest = max(largest, unpacked)
        place += header.place + packed
    return largest


@final
class _Compact:
    """Reads one Thrift structure; keeps nothing but its integers."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0
        """Bytes read."""

    def integers(self) -> dict[int, int]:
        """Field number -> value of the structure's own integers.

        Raises:
            ValueError: the structure is damaged.
        """
        try:
            return self._structure(0)
        except IndexError:
            raise ValueError("a page header is damaged or longer than 64 KiB") from None

    def _structure(self, depth: int) -> dict[int, int]:
        if depth > _DEPTH:
            raise ValueError("a page header is nested too deeply")
        found: dict[int, int] = {}
        field = 0
        while byte := self._byte():
            step, kind = byte >> 4, byte & 15
            field = field + step if step else self._zigzag()
            if kind in {4, 5, 6}:
                found[field] = self._zigzag()
            else:
                self._skip(kind, depth)
        return found

    def _skip(self, kind: int, depth: int) -> None:
        if kind in {1, 2}:
            return
        if kind in {4, 5, 6}:
            self._varint()
        elif kind == 3:
            self._go(1)
        elif kind == 7:
            self._go(8)
        elif kind == 8:
            self._go(self._varint())
        elif kind in {9, 10}:
            byte = self._byte()
            count, inner = byte >> 4, byte & 15
            for _ in range(self._varint() if count == 15 else count):
                # In a list, a truth value takes a byte.
                self._skip(3 if inner in {1, 2} else inner, depth + 1)
        elif kind == 12:
            self._structure(depth + 1)
        else:
            raise ValueError("a page header has a field of an unknown type")

    def _go(self, count: int) -> None:
        self.place += count
        if self.place > len(self._content):
            raise IndexError

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
                raise ValueError("a page header has a number that is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
