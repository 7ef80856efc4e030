"""Compressed bytes, unpacked in bounded memory: damage and bombs end the stream with a reason and a place."""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import zlib
from typing import TYPE_CHECKING, Final, Literal, Protocol, final

from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.zstd_blocks import ZstdFrame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from vitruvius.data.reading.options import ReadOptions

Packing = Literal["gzip", "zstd", "bzip2", "xz"]

PACKING_SUFFIXES: Final[dict[str, Packing]] = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
"""How the bytes of a file are compressed, by the last part of its name."""

_OUTPUT_BYTES: Final = 1 << 20
_INPUT_BYTES: Final = 1 << 16


class BrokenStreamError(Exception):
    """The rest of a stream cannot be read; `reason` is the ledger's. Caught within this floor."""

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.offset = offset


def packing_of(path: Path) -> Packing | None:
    """How a file is compressed, by its name; None when it is not."""
    return PACKING_SUFFIXES.get(path.suffix.lower())


class _Decoder(Protocol):
    """Unpacks one member (frame, stream) of a compressed file."""

    @property
    def input_bytes(self) -> int:
        """How much to give it at most next."""
        ...

    def unpack(self, content: bytes) -> bytes:
        """The next unpacked bytes; takes `content` once, and is called with none while it is not `hungry`."""
        ...

    @property
    def hungry(self) -> bool:
        """Whether there is nothing to come before it is given more."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the member is whole."""
        ...

    @property
    def left(self) -> bytes:
        """What follows the member in what it was given."""
        ...


@final
class _Gzip:
    input_bytes = _INPUT_BYTES

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.hungry = True

    def unpack(self, content: bytes) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + content, _OUTPUT_BYTES)
        # A full buffer may have more behind it even when all of the input is taken.
        self.hungry = not self._inner.unconsumed_tail and len(found) < _OUTPUT_BYTES
        return found

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def left(self) -> bytes:
        return self._inner.unused_data


@final
class _Standard:
    """bzip2 and xz, whose decoders in the standard library look alike."""

    input_bytes = _INPUT_BYTES

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    def unpack(self, content: bytes) -> bytes:
        return self._inner.decompress(content, _OUTPUT_BYTES)

    @property
    def hungry(self) -> bool:
        return self._inner.needs_input

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def left(self) -> bytes:
        return self._inner.unused_data


@final
class Unpacked(io.RawIOBase):
    """The unpacked bytes of a file of one or more members, with damage and bombs turned into BrokenStreamError."""

    def __init__(self, raw: BinaryIO, packing: Packing, options: ReadOptions) -> None:
        super().__init__()
        self._raw = raw
        self._packing: Packing = packing
        self._options = options
        self._errors = _errors(packing)
        self._decoder = self._fresh()
        self._pending = b""
        self._waiting = memoryview(b"")
        self._rescue: Iterator[bytes] | None = None
        self._damage: BrokenStreamError | None = None
        self._offset = 0
        self._taken: int = 0
        self._bite = 0
        self._members = 0
        self._member_taken: int = 0
        self._member_offset = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fill as much of `buffer` as comes at once; 0 at the end."""
        while not self._waiting:
            content = self._next()
            if content is None:
                return 0
            self._waiting = memoryview(self._allowed(content))
            self._offset += len(self._waiting)
        count = min(len(buffer), len(self._waiting))
        buffer[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count

    def _next(self) -> bytes | None:
        """The next unpacked bytes, which may be none; None at the end."""
        if self._rescue is not None:
            content = next(self._rescue, None)
            if content is None and self._damage is not None:
                self._damage.offset = self._offset
                raise self._damage
            return content
        try:
            if self._decoder.ended:
                self._end_member()
            if not self._decoder.hungry:
                return self._decoder.unpack(b"")
            content = self._input()
            if content:
                return self._decoder.unpack(content)
        except self._errors as error:
            # A decoder that stumbles keeps what it had just unpacked to itself.
            self._damage = self._named(error)
            self._rescue = self._rescued()
            return b""
        if self._taken > self._member_taken or not self._members:
            raise BrokenStreamError("corrupt_stream", self._offset, f"the {self._packing} data ends too early")
        return None

    def _end_member(self) -> None:
        self._pending = self._decoder.left + self._pending
        self._taken -= len(self._decoder.left)
        self._decoder = self._fresh()
        self._members += 1
        self._member_taken, self._member_offset = self._taken, self._offset

    def _rescued(self) -> Iterator[bytes]:
        """What the damaged member gives beyond what was read of it, its last bite taken byte by byte."""
        decoder = self._fresh()
        known = self._offset - self._member_offset
        careful = self._taken - self._bite
        place = self._member_taken
        self._raw.seek(place)
        with contextlib.suppress(*self._errors):
            while not decoder.ended:
                content = self._raw.read(min(decoder.input_bytes, careful - place) if place < careful else 1)
                if not content:
                    return
                place += len(content)
                while True:
                    found = decoder.unpack(content)
                    content = b""
                    yield found[known:]
                    known = max(0, known - len(found))
                    if decoder.hungry or decoder.ended:
                        break

    def _named(self, error: Exception) -> BrokenStreamError:
        # Both decoders that have a limit name memory when it is passed, and by no code of their own.
        if "memory" in str(error).lower():
            detail = f"{self._packing}: {error}; the limit is {self._options.window_bytes:,} bytes"
            return BrokenStreamError("too_much_memory", self._offset, detail)
        return BrokenStreamError("corrupt_stream", self._offset, f"{self._packing}: {error}")

    def _input(self) -> bytes:
        """Compressed bytes to go on with; without the zeros that may pad a file after its last member."""
        size = self._decoder.input_bytes
        padded = self._members > 0 and self._packing in {"gzip", "xz"}
        while True:
            if not self._pending:
                self._pending = self._raw.read(_INPUT_BYTES)
                if not self._pending:
                    return b""
            if padded and self._taken == self._member_taken:
                length = len(self._pending)
                self._pending = self._pending.lstrip(b"\0")
                self._taken += length - len(self._pending)
                self._member_taken = self._taken
                if not self._pending:
                    continue
            content, self._pending = self._pending[:size], self._pending[size:]
            self._bite = len(content)
            self._taken += self._bite
            return content

    def _fresh(self) -> _Decoder:
        if self._packing == "gzip":
            return _Gzip()
        if self._packing == "zstd":
            return ZstdFrame(self._options.window_bytes)
        if self._packing == "bzip2":
            return _Standard(bz2.BZ2Decompressor())
        return _Standard(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=self._options.window_bytes))

    def _allowed(self, content: bytes) -> bytes:
        """What of the next bytes may still come before the file counts as a bomb."""
        ratio = self._options.bomb_ratio
        limit = max(self._options.bomb_floor_bytes, ratio * self._taken)
        if self._offset + len(content) <= limit:
            return content
        detail = f"{self._taken:,} bytes unpack to more than {limit:,}; the limit is {ratio:,} times as many"
        self._damage = BrokenStreamError("decompression_bomb", limit, detail)
        self._rescue = iter(())
        return content[: limit - self._offset]


def _errors(packing: Packing) -> tuple[type[Exception], ...]:
    """What the decoder raises on damaged bytes."""
    if packing == "gzip":
        return (zlib.error,)
    if packing == "bzip2":
        return (OSError, ValueError, EOFError)
    if packing == "xz":
        return (lzma.LZMAError, EOFError)
    return (library("zstandard").ZstdError,)
