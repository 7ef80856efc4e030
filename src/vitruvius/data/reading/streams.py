"""Reading bytes of any size in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

LINE_LIMIT = 16 * 2**20
"""Longest line in bytes that is read into memory."""

BOMB_RATIO = 200
"""A compressed file that unpacks to more than this many times its size is a bomb: ten times what text reaches."""
_BOMB_FLOOR = 64 * 2**20
_SKIP_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"


class BrokenStreamError(Exception):
    """The rest of a stream cannot be read; `reason` is the ledger's. Caught within this floor."""

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a byte stream."""

    number: int
    """From 1."""
    offset: int
    """Bytes before it."""
    length: int
    """Bytes, with the newline."""
    content: bytes | None
    """The bytes, with the newline; None when the line is over the limit."""

    @property
    def complete(self) -> bool:
        """Whether it ends with a newline, or is too long to say."""
        return self.content is None or self.content.endswith(b"\n")


@contextlib.contextmanager
def opened(path: Path) -> Generator[BinaryIO]:
    """Open a regular file for reading, unpacking `.gz`; the file must stay as it is until the block ends.

    Raises:
        DataError: the file is missing, unreadable, not a regular file, or changed while it was read.
    """
    try:
        # O_NONBLOCK, so that opening a pipe does not wait for someone to write to it.
        raw = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}", where=str(path), fix="check the path and its permissions"
        ) from None
    with raw:
        before = os.fstat(raw.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise DataError("this is not a regular file", where=str(path), fix="name files and folders of files")
        if path.suffix == ".gz":
            with io.BufferedReader(_Unpacked(raw)) as unpacked:
                yield unpacked
        else:
            yield raw
        after = os.fstat(raw.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError(
                "the file changed while it was read",
                where=str(path),
                fix="wait until whoever writes it is done, and prepare again",
            )


def lines(file: BinaryIO, *, limit: int = LINE_LIMIT) -> Iterator[Line]:
    """The lines of `file`. A line over `limit` bytes is read past in pieces and yielded without its content.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb; what came before was yielded.
    """
    number, offset = 0, 0
    while head := file.readline(limit + 1):
        number += 1
        length, content = len(head), head
        if length > limit and not head.endswith(b"\n"):
            content = None
            while piece := file.readline(_SKIP_BYTES):
                length += len(piece)
                if piece.endswith(b"\n"):
                    break
        elif length > limit + 1:
            content = None
        yield Line(number=number, offset=offset, length=length, content=content)
        offset += length


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file, with its damage and its bombs turned into BrokenStreamError."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._raw = raw
        self._gzip = gzip.GzipFile(fileobj=raw, mode="rb")
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            count = self._gzip.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BrokenStreamError("corrupt_gzip", self._offset, str(error)) from None
        self._offset += count
        if self._offset > max(_BOMB_FLOOR, BOMB_RATIO * self._raw.tell()):
            raise BrokenStreamError("gzip_bomb", self._offset, "")
        return count
