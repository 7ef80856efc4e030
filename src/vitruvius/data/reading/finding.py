"""One document of the inputs, found again by its id."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.documents import read_file
from vitruvius.data.reading.hub import open_dataset, shard_label, shards_of
from vitruvius.data.reading.parquet_footer import row_groups
from vitruvius.data.reading.streams import Span, opened, opened_raw
from vitruvius.data.reading.unpacking import BrokenStreamError, packing_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from vitruvius.data.reading.inputs import Inputs
    from vitruvius.data.reading.options import InputFile, ReadOptions

_CHUNK_BYTES = 1 << 20
_PLACE = re.compile(r"(?P<mark>[@#:])(?P<number>[0-9]{1,19})\Z")
Sort = Literal["file", "offset", "row", "line"]
_WHOLE = frozenset(("text", "html", "source"))
"""Kinds of which a file may be a document."""
_SORTS: dict[str, Sort] = {"@": "offset", "#": "row", ":": "line"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an id says."""

    file: InputFile
    """Where the document is."""
    sort: Sort
    """What the number counts."""
    number: int = 0
    """The byte where the record begins, or its row or line from 1."""
    shard: int | None = None
    """The shard of a dataset in several."""


def read_one(inputs: Inputs, document_id: str, options: ReadOptions) -> Document | Refusal:
    """The record that has this id: `FILE`, `FILE@OFFSET`, `FILE#ROW`, or `FILE:LINE` of a file of lines.

    Only its file is read, and of that only what is needed: an uncompressed file of lines, and a Parquet file, are
    entered at its place, others are read up to it.

    Raises:
        DataError: no input has such a document; says what the id may have meant.
    """
    target = _target(inputs, document_id)
    for found in _candidates(target, options):
        if _fits(found, target, document_id):
            return found
    raise _unknown(target, document_id, options)


def _target(inputs: Inputs, document_id: str) -> Target:
    """The file and the place in it that an id names."""
    files = {file.name: file for file in inputs.files}
    if document_id in files:
        return Target(file=files[document_id], sort="file")
    place = _PLACE.search(document_id)
    if place is not None:
        name = document_id[: place.start()]
        sort, number = _SORTS[place["mark"]], int(place["number"])
        if name in files:
            return Target(file=files[name], sort=sort, number=number)
        dataset, slash, shard = name.rpartition("/")
        if slash and shard.isdecimal() and dataset in files and files[dataset].kind == "hf":
            return Target(file=files[dataset], sort=sort, number=number, shard=int(shard))
    wanted = document_id if place is None else document_id[: place.start()]
    near = difflib.get_close_matches(wanted, files, n=1, cutoff=0.5)
    example = ", ".join(itertools.islice(files, 3))
    raise DataError(
        "no input has a document of this id" + (f"; did you mean a document of {near[0]}?" if near else ""),
        where=document_id,
        fix=f"ids begin with the name of an input as it was given; the first are: {example}",
    )


def _candidates(target: Target, options: ReadOptions) -> Iterator[Document | Refusal]:
    """Records, among which the target is if it exists."""
    file = target.file
    if target.sort == "file":
        whole = file.kind in _WHOLE
        return itertools.islice(read_file(file, options), 1) if whole else iter(())
    if file.kind == "jsonl" and target.sort == "offset":
        return _line_at(file, target.number, options)
    if file.kind == "parquet" and target.sort == "row":
        return read_file(file, options, span=_row_group(file, target.number))
    if file.kind == "hf":
        return _dataset_row(target, options)
    return read_file(file, options)


def _fits(found: Document | Refusal, target: Target, document_id: str) -> bool:
    if isinstance(found, Document) and found.id == document_id:
        return True
    if target.sort == "file":
        # A file that is one document has no other record than its refusal.
        return isinstance(found, Refusal)
    if target.sort == "offset":
        return found.byte_offset == target.number
    lines = target.file.kind == "jsonl" if target.sort == "line" else target.file.kind in {"parquet", "arrow", "hf"}
    return lines and found.line == target.number


def _line_at(file: InputFile, offset: int, options: ReadOptions) -> Iterator[Document | Refusal]:
    """The line that begins at byte `offset`, with its number in the file; nothing where none does."""
    with opened(file.path, name=file.name, options=options) as stream:
        try:
            before, last = _newlines(stream, offset)
        except BrokenStreamError:
            return
        if offset and last != b"\n":
            return
        if packing_of(file.path) is None:
            for record in itertools.islice(read_file(file, options, span=Span(start=offset)), 1):
                if record.byte_offset == offset and record.line is not None:
                    yield replace(record, line=before + record.line)
            return
    # What is compressed cannot be entered in the middle.
    yield from read_file(file, options)


def _newlines(stream: BinaryIO, offset: int) -> tuple[int, bytes]:
    """How many newlines the first `offset` bytes have, and the last of these bytes."""
    count, left, last = 0, offset, b""
    while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
        count += chunk.count(b"\n")
        left -= len(chunk)
        last = chunk[-1:]
    return count, b"" if left else last


def _row_group(file: InputFile, row: int) -> Span:
    """The row group that has this row; the whole file when its footer cannot be read."""
    with opened_raw(file.path, name=file.name) as raw:
        try:
            groups = row_groups(raw)
        except ValueError:
            return Span()
    before = itertools.accumulate(group.rows for group in groups)
    number = next((number for number, last in enumerate(before) if row <= last), len(groups))
    return Span(start=number, stop=number + 1)


def _dataset_row(target: Target, options: ReadOptions) -> Iterator[Document | Refusal]:
    shards = shards_of(open_dataset(target.file))
    shard = 0 if target.shard is None else target.shard
    if (target.shard is None) != (shards == 1) or shard >= shards:
        return
    label = shard_label(target.file.name, shard, shards)
    for record in read_file(target.file, options, span=Span(start=shard, stop=shard + 1)):
        assert record.file == label
        yield record
        if record.line == target.number:
            return


def _unknown(target: Target, document_id: str, options: ReadOptions) -> DataError:
    """What is said of a place where no document begins."""
    name, number = target.file.name, target.number
    what = {
        "file": f"{name} has several documents, and this is the name of the file",
        "offset": f"no document of {name} begins at byte {number:,}",
        "row": f"{name} has no row {number:,}",
        "line": f"{name} has no record of line {number:,}",
    }[target.sort]
    first = next(iter(read_file(target.file, options)), None)
    near = _line_before(target, options) if target.sort == "offset" else None
    example = near or (first.id if isinstance(first, Document) else None)
    return DataError(
        what + (f"; did you mean {near}?" if near else ""),
        where=document_id,
        fix=f"the first document is {example}"
        if example and not near
        else "take an id from the data or from its quarantine",
    )


def _line_before(target: Target, options: ReadOptions) -> str | None:
    """The id of the document whose line holds the byte that an id names."""
    if target.file.kind != "jsonl" or packing_of(target.file.path) is not None:
        return None
    with opened_raw(target.file.path, name=target.file.name) as raw:
        if target.number > os.fstat(raw.fileno()).st_size:
            return None
        start = max(0, target.number - options.limit)
        raw.seek(start)
        head = raw.read(target.number - start)
    newline = head.rfind(b"\n")
    return f"{target.file.name}@{start + newline + 1}" if newline >= 0 or start == 0 else None
