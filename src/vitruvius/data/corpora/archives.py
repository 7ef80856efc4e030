"""The members of `ar` and `tar` archives as streams: nothing is unpacked to disk, and no link is followed."""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, final

from vitruvius.data.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 16
BOMB_RATIO = 1000
"""An archive that unpacks to more than this many times its size is a bomb; xz packs a great deal of HTML about 40:1."""
BOMB_FLOOR = 64 * 2**20
LONGEST_NAME = 4096
"""Of a path in a tar archive, in bytes; Linux opens no longer one."""
_XZ_MEMORY = 128 * 2**20
"""What the decoder of xz may take; the strongest preset needs 65 MiB."""


class BrokenArchiveError(Exception):
    """The archive is damaged, hostile, or no such archive. Caught within this floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in an archive. `content` is to be read before the next member is asked for."""

    name: str
    """As the archive has it; may be anything."""
    kind: str
    """`file`, `link` (symbolic or hard), `folder` or `special` (devices and pipes)."""
    size: int
    """Bytes."""
    content: Section


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@final
class Section:
    """The next `size` bytes of a stream."""

    __slots__ = ("_source", "left")

    def __init__(self, source: _Source, size: int) -> None:
        self._source = source
        self.left = size

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            BrokenArchiveError: the stream ends before the section does.
        """
        wanted = min(size, self.left)
        if wanted <= 0:
            return b""
        piece = self._source.read(wanted)
        if not piece:
            raise BrokenArchiveError("the archive ends in the middle of a file")
        self.left -= len(piece)
        return piece

    def all(self, limit: int) -> bytes | None:
        """The whole content, or None where it is over `limit` bytes (nothing is read then)."""
        if self.left > limit:
            return None
        return b"".join(iter(lambda: self.read(_READ_BYTES), b""))

    def skip(self) -> None:
        """Read past what is left."""
        while self.read(_READ_BYTES):
            pass


def ar_members(file: BinaryIO) -> Iterator[Member]:
    """The members of an `ar` archive, in order.

    Source: ar(5); deb(5) for the names, which are plain and end in blanks or `/`.

    Raises:
        BrokenArchiveError: it is no `ar` archive, or damaged.
    """
    if file.read(8) != b"!<arch>\n":
        raise BrokenArchiveError("this is no Debian package: it does not start with !<arch>")
    while header := file.read(60):
        if len(header) != 60 or header[58:] != b"`\n":
            raise BrokenArchiveError("the header of a member is damaged")
        size = _number(header[48:58], base=10)
        content = Section(file, size)
        name = header[:16].decode("latin-1").rstrip(" ").removesuffix("/")
        yield Member(name=name, kind="file", size=size, content=content)
        content.skip()
        if size % 2:
            file.read(1)


def tar_members(source: _Source) -> Iterator[Member]:
    """The members of a tar archive, in order: ustar and GNU's long names, which is what Debian packages hold.

    Source: deb(5), "Format of the data archive"; tar(5). Extended headers are refused there and here.

    Raises:
        BrokenArchiveError: it is damaged, ends early, or has a header of another sort.
    """
    long_name: str | None = None
    while header := _block(source):
        if not any(header):
            return
        if _checksum(header) != _number(header[148:156], base=8):
            raise BrokenArchiveError("the checksum of a header is wrong")
        size, flag = _size(header[124:136]), header[156:157]
        content = Section(source, size)
        if flag in {b"L", b"K"}:
            found = content.all(LONGEST_NAME)
            if found is None:
                raise BrokenArchiveError(f"a name has {size:,} bytes; the limit is {LONGEST_NAME:,}")
            if flag == b"L":
                long_name = _text(found)
        elif flag not in _KINDS:
            raise BrokenArchiveError(f"a header of type {flag!r} is not part of a Debian package")
        else:
            kind = _KINDS[flag]
            yield Member(
                name=long_name or _name(header), kind=kind, size=size, content=content if kind == "file" else _EMPTY
            )
            long_name = None
        content.skip()
        Section(source, -size % 512).skip()
    raise BrokenArchiveError("the archive ends without its last block")


def unpacked(content: Section, suffix: str) -> _Source:
    """A stream that unpacks `content` by the ending of its name: `.xz`, `.gz`, `.zst`, `.bz2` or none.

    Raises:
        BrokenArchiveError: the ending is unknown.
        MissingExtraError: zstandard is not installed and the ending is `.zst`.
    """
    if suffix == "":
        return content
    if suffix not in _DECODERS:
        raise BrokenArchiveError(f"compressed in a way this program does not know ({suffix!r})")
    return _Unpacked(content, _DECODERS[suffix])


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@final
class _Gzip:
    """zlib's decoder with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


@final
class _Unpacked:
    """The unpacked bytes of a stream, a bounded piece at a time, with its damage and its bombs named."""

    def __init__(self, content: Section, decoder: Callable[[], _Decoder]) -> None:
        self._content = content
        self._new = decoder
        self._decoder = decoder()
        self._packed = content.left
        self._done = 0

    def read(self, size: int, /) -> bytes:
        piece = b""
        try:
            while not piece and (data := self._input()) is not None:
                piece = self._decoder.decompress(data, min(size, _READ_BYTES))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise BrokenArchiveError(f"the compressed data is damaged: {error}") from None
        self._done += len(piece)
        if self._done > max(BOMB_FLOOR, BOMB_RATIO * self._packed):
            raise BrokenArchiveError(f"it unpacks to more than {BOMB_RATIO:,} times its size")
        return piece

    def _input(self) -> bytes | None:
        """What the decoder is to be fed (maybe nothing, when it still has some), or None at the end."""
        if self._decoder.eof:
            # Packed files may follow one another (`cat a.xz b.xz`).
            rest = self._decoder.unused_data or self._content.read(_READ_BYTES)
            if not rest.strip(b"\0"):
                self._content.skip()
                return None
            self._decoder = self._new()
            return rest
        if not self._decoder.needs_input:
            return b""
        data = self._content.read(_READ_BYTES)
        if not data:
            raise BrokenArchiveError("the compressed data ends early")
        return data


@final
class _Zstandard:
    """zstandard's decoder with the interface of the others: fed little, since what it gives out has no limit."""

    _FEED = 1 << 8
    # A block of 4 bytes may stand for 128 KiB, so this is 8 MiB at most.

    def __init__(self) -> None:
        require("zstandard")
        import zstandard

        self._error = zstandard.ZstdError
        # The window is memory: 128 MiB is what `zstd -d` allows, and dpkg packs with less.
        self._decoder = zstandard.ZstdDecompressor(max_window_size=128 * 2**20).decompressobj()
        self._input = memoryview(b"")
        self._output = memoryview(b"")
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._decoder.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            assert not self._input
            self._input = memoryview(data)
        while not self._output and self._input and not self._decoder.eof:
            feed, self._input = self._input[: self._FEED], self._input[self._FEED :]
            try:
                self._output = memoryview(self._decoder.decompress(feed))
            except self._error as error:
                raise OSError(str(error)) from None
            if self._decoder.eof:
                self.unused_data, self._input = self._decoder.unused_data + self._input, memoryview(b"")
        piece, self._output = bytes(self._output[:max_length]), self._output[max_length:]
        return piece


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    ".xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    ".gz": _Gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".zst": _Zstandard,
}

_KINDS = {
    b"0": "file", b"\0": "file", b"": "file", b"7": "file", b"1": "link", b"2": "link", b"3": "special",
    b"4": "special", b"5": "folder", b"6": "special",
}  # fmt: skip


class _Nothing:
    def read(self, size: int, /) -> bytes:  # noqa: ARG002 (there is nothing to read, however much is asked for)
        return b""


_EMPTY = Section(_Nothing(), 0)


def _block(source: _Source) -> bytes:
    header = b""
    while len(header) < 512 and (piece := source.read(512 - len(header))):
        header += piece
    if header and len(header) < 512:
        raise BrokenArchiveError("the archive ends in the middle of a header")
    return header


def _checksum(header: bytes) -> int:
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _size(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return _number(field, base=8)


def _number(field: bytes, *, base: int) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit():
        if digits:
            raise BrokenArchiveError("a number in a header is damaged")
        return 0
    try:
        return int(digits, base)
    except ValueError:
        raise BrokenArchiveError("a number in a header is damaged") from None


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")
