"""The header of a GGUF file, read strictly: metadata and where each tensor lies, never the weights.

Every length is held against the size of the file before anything is read, and against a cap before anything is kept,
so a hostile header costs neither memory nor time. Versions 2 and 3, little-endian.
The format: the page on GGUF in the documentation of ggml, github.com/ggml-org/ggml
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast, final

from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_T = TypeVar("_T")

MAGIC = b"GGUF"
LARGEST_HEADER = 512 * 2**20
"""Bytes; a vocabulary of 262,144 tokens with merges takes about 20 MB."""
MOST_ENTRIES = 65_536
"""Metadata entries."""
MOST_TENSORS = 1_000_000
MOST_ELEMENTS = 2**23
"""Elements of all arrays together."""
LONGEST_STRING = 16 * 2**20
"""Bytes of one text."""
LONGEST_NAME = 65_535
"""Bytes of a key or of a tensor's name."""
DEEPEST_ARRAY = 4
MOST_DIMENSIONS = 4

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
"""Type -> its code in `struct` and `array`."""
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SMALLEST = {_BOOL: 1, _STRING: 8, _ARRAY: 12} | {kind: struct.calcsize("<" + code) for kind, code in _NUMBERS.items()}
"""Type -> the fewest bytes an element takes."""

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Number of a tensor type -> name, elements of a block, bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a tensor lies."""

    name: str
    """Its name."""
    shape: tuple[int, ...]
    """Elements, the fastest dimension first."""
    type: str
    """Name of the element type, or `type N` for one that is not in `TENSOR_TYPES`."""
    offset: int
    """First byte, from the start of the file."""
    bytes: int | None
    """Length; None for a type that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the weights."""

    where: str
    """The file, for messages."""
    version: int
    """Of the format: 2 or 3."""
    metadata: dict[str, Any]
    """Key -> number, truth, text, `array` of numbers, or list of the others."""
    tensors: tuple[TensorPlace, ...]
    """In the order of the file."""
    data_start: int
    """First byte of the weights."""

    def text(self, key: str) -> str | None:
        """The text under `key`, or None without one.

        Raises:
            DataError: it is something else.
        """
        return self._typed(key, str, "text")

    def whole(self, key: str) -> int | None:
        """The whole number under `key`, or None without one. Raises DataError where it is something else."""
        return self._typed(key, int, "whole number")

    def truth(self, key: str, default: str) -> bool:
        """The truth under `key`; `default` is `true` or `false`. Raises DataError where it is something else."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(f"{key} is no truth value")
        return default == "true" if value is None else value

    def texts(self, key: str) -> list[str] | None:
        """The list of texts under `key`, or None without one. Raises DataError where it is something else."""
        found = cast("list[Any] | None", self._typed(key, list, "list of texts"))
        if found is not None and not all(isinstance(each, str) for each in found):
            raise self.wrong(f"{key} is no list of texts")
        return found

    def numbers(self, key: str) -> array[Any] | None:
        """The numbers under `key`, or None without any. Raises DataError where it is something else."""
        return cast("array[Any] | None", self._typed(key, array, "list of numbers"))

    def wrong(self, what: str) -> DataError:
        """The error that says `what` is wrong with this file."""
        return DataError(what, where=self.where, fix="copy or convert the file again")

    def _typed(self, key: str, kind: type[_T], called: str) -> _T | None:
        value = self.metadata.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise self.wrong(f"{key} is no {called}")
        return value


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        DataError: it is no GGUF file, cut short, or something in it points outside of it; the message names the
            entry and the byte.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _Reader(file, size, where).header()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=where, fix="name a GGUF file") from None


@final
class _Reader:
    """Takes a file apart from its start, and never takes more than there is."""

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self.file, self.size, self.where = file, size, where
        self.at = self.elements = 0
        self.name = "the start"

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            raise self.wrong("this is no GGUF file: it does not start with GGUF")
        version = self.number("I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            said = "big-endian GGUF is not supported" if swapped in (2, 3) else f"GGUF version {version} is not 2 or 3"
            raise self.wrong(said)
        tensors, entries = self.number("Q"), self.number("Q")
        self.refuse(tensors, MOST_TENSORS, "tensors", 24)
        self.refuse(entries, MOST_ENTRIES, "metadata entries", 13)
        metadata: dict[str, Any] = {}
        for index in range(entries):
            self.name = f"metadata entry {index}"
            key = self.string(LONGEST_NAME)
            self.name = f"metadata entry {key[:80]!r}"
            if key in metadata:
                raise self.wrong(f"{self.name} is there twice")
            metadata[key] = self.value(self.number("I"), DEEPEST_ARRAY)
        places = [self.place(index) for index in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 2**20 or alignment % 8:
            raise self.wrong(f"general.alignment is {str(alignment)[:40]}, which is no multiple of 8")
        start = -(-self.at // alignment) * alignment
        return Header(
            where=self.where,
            version=version,
            metadata=metadata,
            tensors=self.placed(places, start, alignment),
            data_start=start,
        )

    def value(self, kind: int, depth: int) -> Any:
        """A value of a type by its number."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _BOOL:
            return self.truth(self.take(1)[0])
        if kind == _STRING:
            return self.string(LONGEST_STRING)
        if kind != _ARRAY:
            raise self.wrong(f"{self.name} has the unknown type {kind}")
        if depth == 0:
            raise self.wrong(f"{self.name} is a list in a list in a list")
        inner, count = self.number("I"), self.number("Q")
        if inner not in _SMALLEST:
            raise self.wrong(f"{self.name} is a list of the unknown type {inner}")
        self.refuse(count, MOST_ELEMENTS - self.elements, f"elements of {self.name}", _SMALLEST[inner])
        self.elements += count
        if inner in _NUMBERS:
            return self.numbers(_NUMBERS[inner], count)
        if inner == _BOOL:
            return [self.truth(byte) for byte in self.take(count)]
        return [self.value(inner, depth - 1) for _ in range(count)]

    def place(self, index: int) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor, as the file says them."""
        self.name = f"tensor {index}"
        name = self.string(LONGEST_NAME)
        self.name = f"tensor {name[:80]!r}"
        dimensions = self.number("I")
        if dimensions > MOST_DIMENSIONS:
            raise self.wrong(f"{self.name} has {dimensions:,} dimensions; the most is {MOST_DIMENSIONS}")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        return name, shape, self.number("I"), self.number("Q")

    def placed(
        self, places: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> tuple[TensorPlace, ...]:
        """The tensors with their bytes: each inside the file, at a multiple of the alignment, none over another."""
        found: list[TensorPlace] = []
        for name, shape, kind, offset in places:
            label, block, width = TENSOR_TYPES.get(kind, (f"type {kind}", 0, 0))
            elements = prod(shape)
            row = shape[0] if shape else 1
            if block and row % block:
                raise self.wrong(f"tensor {name[:80]!r}: rows of {row:,} elements are no whole blocks of {label}")
            length = elements // block * width if block else None
            if offset % alignment:
                raise self.wrong(f"tensor {name[:80]!r} starts at {offset:,}, no multiple of {alignment}")
            if start + offset + (length or 0) > self.size:
                raise self.wrong(
                    f"tensor {name[:80]!r} ends at byte {start + offset + (length or 0):,}, past the end of the file "
                    f"({self.size:,} bytes)"
                )
            found.append(TensorPlace(name=name, shape=shape, type=label, offset=start + offset, bytes=length))
        if len({place.name for place in found}) < len(found):
            raise self.wrong("two tensors have one name")
        ordered = sorted(found, key=lambda place: (place.offset, place.bytes or 0))
        for one, two in pairwise(ordered):
            if one.offset + (one.bytes or 0) > two.offset:
                raise self.wrong(f"the tensors {one.name[:80]!r} and {two.name[:80]!r} lie over each other")
        return tuple(found)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.size - self.at:
            raise self.wrong(
                f"{self.name} needs {count:,} bytes at byte {self.at:,}; the file ends after {self.size:,} bytes"
            )
        if self.at + count > LARGEST_HEADER:
            raise self.wrong(f"the header is larger than {LARGEST_HEADER:,} bytes")
        found = self.file.read(count)
        if len(found) != count:
            raise self.wrong("the file became shorter while it was read")
        self.at += count
        return found

    def number(self, code: str) -> Any:
        """A number by its code in `struct`."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def numbers(self, code: str, count: int) -> array[Any]:
        """Numbers in a row."""
        found: array[Any] = array(code)
        found.frombytes(self.take(count * struct.calcsize("<" + code)))
        if struct.pack("=H", 1) != struct.pack("<H", 1):
            found.byteswap()
        return found

    def string(self, longest: int) -> str:
        """A text with its length before it; bytes that are not UTF-8 become lone surrogates, which never encode."""
        length = self.number("Q")
        self.refuse(length, longest, f"bytes of {self.name}", 1)
        return self.take(length).decode("utf-8", "surrogateescape")

    def truth(self, byte: int) -> bool:
        if byte > 1:
            raise self.wrong(f"{self.name} is a truth value of {byte}")
        return byte == 1

    def refuse(self, count: int, most: int, called: str, each: int) -> None:
        """Refuse a count over the cap, or of more than the rest of the file can hold."""
        if count > most:
            raise self.wrong(f"the file says {count:,} {called}; the most is {most:,}")
        if count * each > self.size - self.at:
            raise self.wrong(f"the file says {count:,} {called} at byte {self.at:,}, but ends after {self.size:,}")

    def wrong(self, what: str) -> DataError:
        return DataError(what, where=self.where, fix="copy or convert the file again")
