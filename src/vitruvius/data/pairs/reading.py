"""JSON lines with two texts each: every line becomes a pair, or a refusal with its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.jsonl import Record, fast_parser, json_record
from vitruvius.data.reading.options import ReadOptions
from vitruvius.data.reading.streams import BOM, UTF16_MARKS, BrokenStreamError, lines, opened
from vitruvius.data.reading.text import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.reading.jsonl import Parser
    from vitruvius.data.reading.options import InputFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The keys of a record that matter."""

    source: str
    """What is read."""
    target: str
    """What is to be written."""
    group: str | None = None
    """Pairs that have the same text here go to the same split; None: those of equal sources do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What one record holds."""

    id: str
    """`FILE@OFFSET`, where the record begins."""
    file: str
    line: int
    byte_offset: int
    source: str
    target: str
    group: str
    """What keeps it in one split with others: the text of the group's field, or the source."""


def read_pairs(file: InputFile, fields: Fields, options: ReadOptions | None = None) -> Iterator[Pair | Refusal]:
    """The pairs of a file of JSON lines, in order; CRLF becomes LF, nothing else is normalised.

    Raises:
        DataError: the file is missing, not a regular file, or changed while it was read.
    """
    options = options or ReadOptions()
    fast = fast_parser()
    with opened(file.path, name=file.name, options=options) as stream:
        try:
            for line in lines(stream, limit=options.limit):
                place: dict[str, Any] = {"file": file.name, "line": line.number, "byte_offset": line.offset}
                content = line.content
                if content is None:
                    detail = f"{line.length:,} bytes, the limit is {options.limit:,}"
                    yield Refusal(**place, reason="too_long", detail=detail)
                    continue
                if line.offset == 0:
                    if content.startswith(UTF16_MARKS):
                        yield Refusal(**place, reason="utf16")
                        return
                    content = content.removeprefix(BOM)
                found = _pair(content, fields, options, fast)
                if isinstance(found, Problem):
                    cut = found.reason == "invalid_json" and not line.complete
                    reason = "truncated_last_line" if cut else found.reason
                    yield Refusal(**place, reason=reason, detail=found.detail)
                    continue
                source, target, group = found
                yield Pair(**place, id=f"{file.name}@{line.offset}", source=source, target=target, group=group)
        except BrokenStreamError as broken:
            yield Refusal(
                file=file.name, line=None, byte_offset=broken.offset, reason=broken.reason, detail=str(broken)
            )


def _pair(content: bytes, fields: Fields, options: ReadOptions, fast: Parser | None) -> tuple[str, str, str] | Problem:
    """Source, target and group of a JSON line, or why there are none."""
    found: list[str] = []
    for field in (fields.source, fields.target, fields.group):
        if field is None:
            found.append(found[0])
            continue
        record = json_record(content, replace(options, field=field), fast=fast)
        if not isinstance(record, Record):
            # Of one text that is blank the reader cannot say which it was.
            detail = record.detail or (f"field {field!r}" if record.reason == "empty" else "")
            return Problem(record.reason, detail)
        found.append(record.text)
    source, target, group = found
    return source, target, group
