"""Accepted documents kept on disk between the passes, so that each input is read once."""

from __future__ import annotations

import hashlib
import struct
from array import array
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_HEADER = struct.Struct("<QQQ")
HASH_RANGE = 2**64
_BINS = 2**16


@final
class Spool:
    """Documents in order, each with two numbers drawn from the hash of its text: one for the split, one for sampling.

    The hash is of the seed and the text alone, so equal documents fall into the same split, whatever
    their files are called.
    """

    __slots__ = ("_bins", "_file", "_seed", "highest", "lowest", "path", "text_bytes")

    def __init__(self, path: Path, *, seed: int) -> None:
        self.path = path
        self._file: BinaryIO = path.open("xb")
        self._seed = f"{seed}\n".encode()
        self._bins = array("Q", bytes(8 * _BINS))
        self.lowest = HASH_RANGE
        self.highest = -1
        self.text_bytes = 0

    def add(self, text: str) -> None:
        """Append a document."""
        content = text.encode()
        digest = hashlib.sha256(self._seed + content).digest()
        place, draw = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
        self.lowest, self.highest = min(self.lowest, place), max(self.highest, place)
        self._bins[place * _BINS // HASH_RANGE] += 1
        self.text_bytes += len(content)
        self._file.write(_HEADER.pack(len(content), place, draw))
        self._file.write(content)

    def close(self) -> None:
        """End writing."""
        self._file.close()

    def held_out_below(self, fraction: float) -> int:
        """Documents whose place is below this number are held out.

        They are `fraction` of the documents, to within one bin of 65,536 (exact for small corpora), at
        least one on each side as long as two documents differ, and none for a fraction of 0.
        """
        if fraction == 0 or self.lowest >= self.highest:
            return 0
        wanted = round(fraction * sum(self._bins))
        count = bins = 0
        while count + self._bins[bins] <= wanted:
            count += self._bins[bins]
            bins += 1
        return min(max(bins * HASH_RANGE // _BINS, self.lowest + 1), self.highest)

    def documents(self) -> Iterator[tuple[bytes, int, int]]:
        """(text as UTF-8, place, draw) of each document, in order."""
        with self.path.open("rb") as file:
            while header := file.read(_HEADER.size):
                length, place, draw = _HEADER.unpack(header)
                yield file.read(length), place, draw
