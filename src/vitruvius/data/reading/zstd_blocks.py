"""zstd, a block at a time: its decoder gives all that it is given at once, and a block is at most 128 KiB of output.

Source of the format: RFC 8878, section 3.1.
"""

from __future__ import annotations

from typing import Any, Final, Literal, final

from vitruvius.data.reading.libraries import library

_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)
_MOST_BYTES: Final = 1 << 16
_RLE: Final = 1
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_SIZE_BYTES: Final = (0, 2, 4, 8)

_Part = Literal["magic", "skip-size", "skip", "descriptor", "header", "block", "checksum"]


@final
class ZstdFrame:
    """Unpacks one frame; `input_bytes` says how much to give it next, so that it never unpacks two blocks at once."""

    hungry = True

    def __init__(self, window_bytes: int) -> None:
        self._inner: Any = library("zstandard").ZstdDecompressor(max_window_size=window_bytes).decompressobj()
        self._part: _Part = "magic"
        self._needed = 4
        self._held = b""
        self._checksum = False

    @property
    def input_bytes(self) -> int:
        """At most so many bytes may come next."""
        return min(self._needed, _MOST_BYTES)

    def unpack(self, content: bytes) -> bytes:
        """What follows in the output.

        Raises:
            zstandard.ZstdError: the frame is damaged, or needs more memory than allowed.
        """
        self._follow(content)
        return self._inner.decompress(content)

    @property
    def ended(self) -> bool:
        """Whether the frame is whole."""
        return self._inner.eof

    @property
    def left(self) -> bytes:
        """What follows the frame in what it was given."""
        return self._inner.unused_data

    def _follow(self, content: bytes) -> None:
        """Keep up with where in the frame this is. What makes no sense is the decoder's to refuse."""
        self._needed -= len(content)
        # Of a block, only the header of the next one, at its end, has to be understood.
        self._held = (self._held + content[-16:])[-16:]
        if self._needed > 0:
            return
        self._part, self._needed = self._next()

    def _next(self) -> tuple[_Part, int]:
        """The part of the frame that begins now, and its bytes."""
        held = self._held
        if self._part == "magic":
            skippable = int.from_bytes(held[-4:], "little") in _SKIPPABLE
            return ("skip-size", 4) if skippable else ("descriptor", 1)
        if self._part == "skip-size":
            return "skip", max(1, int.from_bytes(held[-4:], "little"))
        if self._part == "descriptor":
            descriptor = held[-1]
            single = descriptor >> 5 & 1
            self._checksum = bool(descriptor & 4)
            size = _SIZE_BYTES[descriptor >> 6] or single
            # With the header of the first block.
            return "header", (0 if single else 1) + _DICTIONARY_BYTES[descriptor & 3] + size + 3
        if self._part in {"header", "block"}:
            return self._block(int.from_bytes(held[-3:], "little"))
        return "checksum", 1

    def _block(self, header: int) -> tuple[_Part, int]:
        """The content of a block, with the header of the next one where there is one."""
        size = 1 if header >> 1 & 3 == _RLE else header >> 3
        if not header & 1:
            return "block", size + 3
        return "checksum", max(1, size + (4 if self._checksum else 0))
