"""Reading bytes of any size in bounded memory."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vitruvius.data.reading.options import LINE_LIMIT, ReadOptions
from vitruvius.data.reading.unpacking import BrokenStreamError, Unpacked, packing_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["BOM", "LINE_LIMIT", "UTF16_MARKS", "BrokenStreamError", "Identity", "Line", "Span", "lines", "opened"]

BOM: Final = b"\xef\xbb\xbf"
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
"""What a file in UTF-16 (or UTF-32) begins with."""

_SKIP_BYTES: Final = 1 << 20
_BUFFER_BYTES: Final = 1 << 17


class Line(NamedTuple):
    """A line of a byte stream; a tuple, because there are very many."""

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


@final
@dataclass(slots=True, kw_only=True)
class Span:
    """A part of a file, and what is learned about it by reading: the one mutable value here."""

    start: int = 0
    """First byte (row group of a table, shard of a dataset)."""
    stop: int | None = None
    """The one after the last; None is the end of the file."""
    lines: int = 0
    """Lines that began in the span, once it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What shows that a file is still the one it was."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Last change of its content."""
    inode: int | None = None
    """Its number in the file system; None where that is not to be compared (it differs between machines)."""

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity of a file of this machine."""
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)

    def difference(self, other: Identity) -> str | None:
        """What became of the file when `other` is what it is now; None when it is the same."""
        if None not in {self.inode, other.inode} and self.inode != other.inode:
            return "was replaced by another file"
        if other.size < self.size:
            return f"was cut from {self.size:,} to {other.size:,} bytes"
        if other.size > self.size:
            return f"grew from {self.size:,} to {other.size:,} bytes"
        return "was written to" if self.mtime_ns != other.mtime_ns else None


@contextlib.contextmanager
def opened_raw(path: Path, *, name: str | None = None, expected: Identity | None = None) -> Generator[BinaryIO]:
    """Open a regular file as it is; it must stay so until the block ends, and be the `expected` one.

    Raises:
        DataError: the file is missing, unreadable, not a regular file, or changed before or while it was read.
    """
    where = name or str(path)
    try:
        # Asked before opening, because opening some devices does something.
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            # O_NONBLOCK, so that a pipe put there meanwhile does not wait for someone to write to it.
            raw = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=_BUFFER_BYTES)
        else:
            raise DataError("this is not a regular file", where=where, fix="name files and folders of files")
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}", where=where, fix="check the path and its permissions"
        ) from None
    with raw:
        status = os.fstat(raw.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DataError("this is not a regular file", where=where, fix="name files and folders of files")
        before = Identity.of(status)
        if expected is not None and (change := expected.difference(before)):
            raise DataError(
                f"the file {change} since the work was planned", where=where, fix="put it back, or prepare anew"
            )
        try:
            yield raw
        except OSError as error:
            raise DataError(
                f"the file cannot be read: {error.strerror}", where=where, fix="check the disk it lies on"
            ) from error
        after = Identity.of(os.fstat(raw.fileno()))
        try:
            here = Identity.of(path.stat())
        except OSError:
            change = "was deleted"
        else:
            change = before.difference(after) or before.difference(here)
    if change:
        raise DataError(
            f"the file changed while it was read: it {change}",
            where=where,
            fix="wait until whoever writes it is done, and prepare again",
        )


@contextlib.contextmanager
def opened(
    path: Path, *, name: str | None = None, options: ReadOptions | None = None, expected: Identity | None = None
) -> Generator[BinaryIO]:
    """Open a regular file for reading, unpacking `.gz`, `.zst`, `.bz2` and `.xz`.

    Raises:
        DataError: the file is missing, unreadable, not a regular file, or changed before or while it was read.
        MissingExtraError: a `.zst` needs zstandard, which is not installed.
    """
    packing = packing_of(path)
    with opened_raw(path, name=name, expected=expected) as raw:
        if packing is None:
            yield raw
        else:
            with io.BufferedReader(Unpacked(raw, packing, options or ReadOptions()), _BUFFER_BYTES) as unpacked:
                yield unpacked


def lines(file: BinaryIO, *, limit: int = LINE_LIMIT, span: Span | None = None) -> Iterator[Line]:
    """The lines of `file` that begin within `span`, numbered from 1.

    A line over `limit` bytes is read past in pieces and yielded without its content.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb; what came before was yielded.
    """
    span = span or Span()
    number, offset = 0, _first_line(file, span.start)
    stop = span.stop
    while (stop is None or offset < stop) and (head := file.readline(limit + 1)):
        number += 1
        span.lines = number
        length, content = len(head), head
        if length > limit and not head.endswith(b"\n"):
            content = None
            length += _rest_of_line(file)
        elif length > limit + 1:
            content = None
        yield Line(number, offset, length, content)
        offset += length


def _first_line(file: BinaryIO, start: int) -> int:
    """Go to the first line that begins at byte `start` or after, and say where that is."""
    if start == 0:
        return 0
    # A line that begins just at `start` follows the newline before it.
    file.seek(start - 1)
    return start - 1 + _rest_of_line(file)


def _rest_of_line(file: BinaryIO) -> int:
    """Read past the end of the line, in pieces, and say how many bytes that was."""
    length = 0
    while piece := file.readline(_SKIP_BYTES):
        length += len(piece)
        if piece.endswith(b"\n"):
            break
    return length
