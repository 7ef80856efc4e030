"""The documents of one unit that passed every rule: texts in one file, what sorts and finds them in an array beside it.

read/00012.texts         the texts as UTF-8, one after the other
read/00012.rows          a row of `ROW` for each
read/00012.origins       a JSON line for each: id, file, line, byte offset, URL
read/00012.signatures    where near duplicates are looked for: a row for each, as `vitruvius.data.dedup` has them
read/00012.drops         a JSON line for each document that was dropped: how many were kept before it, and its row
                         of the quarantine
"""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

from vitruvius.data.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np

    from vitruvius.data.document import Document

HASH_RANGE = 2**64
"""Places and draws are below this."""

ROW: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
    ("offset", "<u8"),
    ("origin", "<u8"),
    ("bytes", "<u4"),
    ("characters", "<u4"),
    ("place", "<u8"),
    ("draw", "<u8"),
    ("digest", "u1", (16,)),
]
"""The numpy type of a row: where the text and the line of origin begin, how long the text is in bytes of UTF-8 and in
characters, two numbers drawn from the seed and the text (one decides the split, one whether the tokenizer trains on
it), and half the text's SHA-256."""
_PACKED = struct.Struct("<QQIIQQ16s")


class Origin(NamedTuple):
    """Where a document is from; the fields are those of `Document`."""

    id: str
    file: str
    line: int | None
    byte_offset: int
    url: str | None


class Kept:
    """The kept documents of a unit, read through memory maps."""

    __slots__ = ("__dict__", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        """The files' path without suffix."""

    @cached_property
    def rows(self) -> np.ndarray:
        """A row of `ROW` for each document, in the order of reading."""
        return mapped(self.path.with_suffix(".rows"), ROW)

    @cached_property
    def _texts(self) -> np.ndarray:
        return mapped(self.path.with_suffix(".texts"), "u1")

    def text(self, row: int) -> str:
        """The text of a document."""
        return self.text_at(self.rows[row])

    def text_at(self, entry: np.void) -> str:
        """The text of the document that has this row of `ROW`."""
        start = int(entry["offset"])
        return self._texts[start : start + int(entry["bytes"])].tobytes().decode()

    def texts(self) -> Iterator[str]:
        """The text of each document, in order, without keeping them."""
        with self.path.with_suffix(".texts").open("rb") as file:
            for size in self.rows["bytes"]:
                yield file.read(int(size)).decode()

    def origins(self) -> Iterator[Origin]:
        """Where each document is from, in order."""
        with self.path.with_suffix(".origins").open("rb") as file:
            for line in file:
                yield Origin(*json.loads(line))

    def origin(self, row: int) -> Origin:
        """Where a document is from."""
        with self.path.with_suffix(".origins").open("rb") as file:
            file.seek(int(self.rows[row]["origin"]))
            return Origin(*json.loads(file.readline()))

    def ids(self) -> Iterator[str]:
        """The id of each document, in order."""
        return (origin.id for origin in self.origins())

    def drops(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The unit's rows of the quarantine, each after the row of `rows` that was next when it was read."""
        with self.path.with_suffix(".drops").open("rb") as file:
            for line in file:
                following, row = json.loads(line)
                yield following, row


@final
class KeptWriter:
    """Writes a unit's documents as they are accepted or dropped; nothing of them stays in memory."""

    __slots__ = ("_files", "_offset", "_origin", "_seed", "_signing", "documents")

    def __init__(self, files: dict[str, BinaryIO], *, seed: int, sign: Callable[[str], np.ndarray] | None) -> None:
        self._files = files
        self._offset = 0
        self._origin = 0
        self._seed = f"{seed}\n".encode()
        self._signing = sign
        self.documents = 0

    @property
    def text_bytes(self) -> int:
        """Bytes of the texts written so far."""
        return self._offset

    def keep(self, document: Document) -> None:
        """Write a document that stays."""
        content = document.text.encode()
        digest = hashlib.sha256(content).digest()[:16]
        # Of the text alone, so equal documents fall into the same split, whatever their files are called.
        drawn = hashlib.sha256(self._seed + digest).digest()
        place, draw = int.from_bytes(drawn[:8], "big"), int.from_bytes(drawn[8:16], "big")
        origin = Origin(document.id, document.file, document.line, document.byte_offset, document.url)
        line = json.dumps(origin).encode() + b"\n"
        row = _PACKED.pack(self._offset, self._origin, len(content), len(document.text), place, draw, digest)
        self._files["texts"].write(content)
        self._files["rows"].write(row)
        self._files["origins"].write(line)
        if self._signing is not None:
            self._files["signatures"].write(self._signing(document.text).tobytes())
        self._offset += len(content)
        self._origin += len(line)
        self.documents += 1

    def drop(self, row: dict[str, Any]) -> None:
        """Write a row of the quarantine."""
        self._files["drops"].write(json.dumps([self.documents, row]).encode() + b"\n")


def suffixes(*, signed: bool) -> tuple[str, ...]:
    """The files of a unit."""
    return ("texts", "rows", "origins", "drops", *(("signatures",) if signed else ()))


def key_of(unit: int, row: int) -> int:
    """The key of a document: it orders documents as they are read."""
    return unit << 32 | row


def unit_and_row(key: int) -> tuple[int, int]:
    """Where the document with this key is."""
    return key >> 32, key & 0xFFFFFFFF
