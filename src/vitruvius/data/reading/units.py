"""The inputs in units of work: some small files, or a part of a large one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitruvius.data.reading.documents import read_file
from vitruvius.data.reading.hub import dataset_identity, open_dataset, shards_of
from vitruvius.data.reading.options import InputFile
from vitruvius.data.reading.parquet_footer import row_groups
from vitruvius.data.reading.streams import UTF16_MARKS, Identity, Span, opened_raw
from vitruvius.data.reading.unpacking import packing_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.data.document import Document
    from vitruvius.data.ledger import Refusal
    from vitruvius.data.reading.inputs import Inputs
    from vitruvius.data.reading.options import ReadOptions

UNIT_BYTES = 64 * 2**20
"""About how much a unit reads."""
_UNPACKED = 4
"""A compressed file is taken to hold this many times its size: the usual ratio for text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of a unit, or a part of it."""

    file: InputFile
    """What is read."""
    start: int = 0
    """The first byte; of tables the first row group, of datasets the shard."""
    stop: int | None = None
    """The one after the last; None is the end of the file."""
    size: int | None = None
    """Bytes of the file when the work was planned; None for a dataset that lies elsewhere."""
    mtime_ns: int | None = None
    """When its content was last changed."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.file.name,
            "path": _path_text(self.file.path),
            "kind": self.file.kind,
            "start": self.start,
            "stop": self.stop,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Part:
        """What `as_json` gave."""
        file = InputFile(name=content["name"], path=_path_of(content["path"]), kind=content["kind"])
        return cls(
            file=file,
            start=content["start"],
            stop=content["stop"],
            size=content["size"],
            mtime_ns=content["mtime_ns"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of work: its parts are read one after the other."""

    parts: tuple[Part, ...]
    """Several whole files, or one part of one file."""

    @property
    def starts_inside(self) -> bool:
        """Whether its lines count from the middle of a file, so that those before it must be added."""
        return self.parts[0].file.kind == "jsonl" and self.parts[0].start > 0

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"parts": [part.as_json() for part in self.parts]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Unit:
        """What `as_json` gave."""
        parts = cast("list[dict[str, Any]]", content["parts"])
        return cls(parts=tuple(Part.from_json(part) for part in parts))


@dataclass(slots=True, kw_only=True)
class Tally:
    """What reading a unit tells beside its documents."""

    lines: int = 0
    """Lines that began in the unit's last part; the job keeps it for units of one part of a file."""


def units_of(inputs: Inputs, *, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    """Cut the inputs into units, in the order of the files' names.

    The documents of all units, one unit after the other, are the same for every `unit_bytes`, with the same ids.

    Raises:
        DataError: a file is missing.
    """
    units: list[Unit] = []
    group: list[Part] = []
    weight = 0
    for file in inputs.files:
        parts = _parts_of(file, unit_bytes)
        if len(parts) > 1:
            if group:
                units.append(Unit(parts=tuple(group)))
            units.extend(Unit(parts=(part,)) for part in parts)
            group, weight = [], 0
            continue
        more = _weight(parts[0])
        if group and weight + more > unit_bytes:
            units.append(Unit(parts=tuple(group)))
            group, weight = [], 0
        group.extend(parts)
        weight += more
    if group:
        units.append(Unit(parts=tuple(group)))
    return units


def read_unit(unit: Unit, options: ReadOptions, *, tally: Tally | None = None) -> Iterator[Document | Refusal]:
    """The documents of a unit.

    In a unit that `starts_inside` a file, lines are numbered from its own first; `first_lines` says what to add.

    Raises:
        DataError: a file is missing, no regular file, or changed since the work was planned or while it was read.
    """
    for part in unit.parts:
        span = Span(start=part.start, stop=part.stop)
        expected = None
        if part.size is not None and part.mtime_ns is not None:
            expected = Identity(size=part.size, mtime_ns=part.mtime_ns)
        yield from read_file(part.file, options, span=span, expected=expected)
        if tally is not None:
            tally.lines = span.lines


def first_lines(units: Sequence[Unit], lines: Sequence[int]) -> list[int]:
    """What must be added to the lines of each unit's documents and refusals; `lines` has `Tally.lines` of each."""
    found: list[int] = []
    before = 0
    for unit, count in zip(units, lines, strict=True):
        before = before if unit.starts_inside else 0
        found.append(before)
        before += count
    return found


def _path_text(path: Path) -> str | list[int]:
    """A path as JSON: text, or its bytes where they are no UTF-8, which JSON cannot say."""
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return list(raw)


def _path_of(content: str | list[int]) -> Path:
    return Path(content) if isinstance(content, str) else Path(os.fsdecode(bytes(content)))


def _parts_of(file: InputFile, unit_bytes: int) -> list[Part]:
    if file.kind == "hf":
        return _shards(file)
    try:
        status = file.path.stat()
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}", where=file.name, fix="check the path and its permissions"
        ) from None
    size = status.st_size
    cuts = _cuts(file, size, unit_bytes) if size > unit_bytes else []
    ends: list[int | None] = [*cuts, None]
    return [
        Part(file=file, start=start, stop=stop, size=size, mtime_ns=status.st_mtime_ns)
        for start, stop in zip([0, *cuts], ends, strict=True)
    ]


def _cuts(file: InputFile, size: int, unit_bytes: int) -> list[int]:
    """Where a large file is cut: bytes of a stream of lines, row groups of a table."""
    if file.kind == "jsonl" and packing_of(file.path) is None:
        return [] if _is_utf16(file) else list(range(unit_bytes, size, unit_bytes))
    return _row_groups(file, unit_bytes) if file.kind == "parquet" else []


def _row_groups(file: InputFile, unit_bytes: int) -> list[int]:
    """The first row group of each part but the first, so that each has about `unit_bytes` of packed columns."""
    with opened_raw(file.path, name=file.name) as raw:
        try:
            groups = row_groups(raw)
        except ValueError:
            # The reader refuses it, with its reason.
            return []
    cuts: list[int] = []
    held = 0
    for number, group in enumerate(groups):
        if held and held + group.packed > unit_bytes:
            cuts.append(number)
            held = 0
        held += group.packed
    return cuts


def _shards(file: InputFile) -> list[Part]:
    shards = shards_of(open_dataset(file))
    identity = dataset_identity(file)
    size, mtime_ns = (None, None) if identity is None else (identity.size, identity.mtime_ns)
    return [Part(file=file, start=shard, stop=shard + 1, size=size, mtime_ns=mtime_ns) for shard in range(shards)]


def _is_utf16(file: InputFile) -> bool:
    """Whether the bytes of line ends are no line ends."""
    with opened_raw(file.path, name=file.name) as raw:
        return raw.read(2) in UTF16_MARKS


def _weight(part: Part) -> int:
    size = part.size or 0
    return size if packing_of(part.file.path) is None else size * _UNPACKED
