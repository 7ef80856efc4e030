"""The header of a safetensors file, read and distrusted before a single tensor is.

8 bytes: length N of the header, little-endian. N bytes: a JSON object, name -> {dtype, shape, data_offsets}.
Then the tensors' bytes; offsets count from there. Source: the safetensors format description, huggingface.co.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of one value, by the name that the format uses."""

_PREFIX = 8
_LONGEST_SHAPE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor as the header describes it."""

    dtype: str
    """As the format writes it: `BF16`, `F32`, `I64`."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the end of the header."""
    stop: int
    """One past the last byte."""


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors that a safetensors file says it holds, by name, once everything it says has been checked.

    No tensor is read and nothing is allocated from a number in the file. Raises RunError, naming the file and what is
    wrong: no such file, not this format (a pickle, text), a header longer than the file, offsets that overlap, leave
    holes or reach past the end, a size that does not follow from shape and dtype.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_PREFIX), "little")
            if size < _PREFIX or length > min(size - _PREFIX, LARGEST_HEADER):
                raise _wrong(path, _not_a_header(path, length, size))
            raw = file.read(length)
    except FileNotFoundError:
        raise RunError("there is no such file", where=str(path), fix="name a folder that holds a checkpoint") from None
    except OSError as error:
        raise RunError(f"the file cannot be read: {error.strerror}", where=str(path), fix="check the path") from None
    entries = {name: _entry(path, name, value) for name, value in _parsed(path, raw).items() if name != "__metadata__"}
    _check_layout(path, entries, size - _PREFIX - length)
    return entries


def _not_a_header(path: Path, length: int, size: int) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "this is a pickle, not a safetensors file; pickles can run code and are never opened"
    return f"the file has {size:,} bytes and says that its header has {length:,}: it is no safetensors file, or cut off"


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"the header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _wrong(path, "the header is not a JSON object")
    return cast("dict[str, Any]", header)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        raise ValueError("a name appears twice")
    return known


def _entry(path: Path, name: str, value: object) -> TensorEntry:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _wrong(path, f"the header's entry {name!r} does not have dtype, shape and data_offsets")
    shape, offsets = _whole_numbers(fields["shape"]), _whole_numbers(fields["data_offsets"])
    if shape is None or len(shape) > _LONGEST_SHAPE or offsets is None or len(offsets) != 2:
        raise _wrong(path, f"shape or offsets of {name!r} are not whole numbers from 0 on")
    bits = BITS.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if bits is None:
        raise _wrong(path, f"{name!r} has the unknown dtype {fields['dtype']!r}")
    start, stop = offsets
    if (stop - start) * 8 != prod(shape) * bits:
        raise _wrong(path, f"{name!r} is {list(shape)} of {fields['dtype']}, and {stop - start:,} bytes do not hold it")
    return TensorEntry(dtype=fields["dtype"], shape=shape, start=start, stop=stop)


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    numbers = cast("list[object]", value)
    if all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        return tuple(cast("list[int]", numbers))
    return None


def _check_layout(path: Path, entries: dict[str, TensorEntry], data_bytes: int) -> None:
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            what = "overlaps the tensor before it" if entry.start < end else "leaves a hole before it"
            raise _wrong(path, f"{name!r} starts at byte {entry.start:,}, which {what} (due: {end:,})")
        end = entry.stop
    if end != data_bytes:
        raise _wrong(path, f"the tensors end at byte {end:,}, the file's data at byte {data_bytes:,}")


def _wrong(path: Path, what: str) -> RunError:
    return RunError(what, where=str(path), fix="copy the file again, or use another checkpoint")
