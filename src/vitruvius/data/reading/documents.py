"""Files of four kinds, read as documents: each comes out as text, or as a refusal with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.markup import declared_encoding, html_text
from vitruvius.data.reading.streams import BOM, LINE_LIMIT, BrokenStreamError, Line, lines, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

Kind = Literal["text", "jsonl", "html", "source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file to read documents from."""

    name: str
    """How messages, the quarantine and the order of documents name it."""
    path: Path
    """Where it is."""
    kind: Kind
    """How its bytes become documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the readers may be told."""

    field: str = "text"
    """Key of the text in a JSON line."""
    limit: int = LINE_LIMIT
    """Longest line (JSONL, text) or file (HTML, source) in bytes; longer ones are refused unread."""
    document_bytes: int = LINE_LIMIT
    """A text file longer than this is cut, at line ends, into documents of at most this many bytes, or one line."""


def read_documents(file: InputFile, options: ReadOptions) -> Iterator[str | Refusal]:
    """The documents of a file, in order.

    Text has CRLF turned into LF and a byte-order mark at the start of the file removed; nothing else is
    normalised. A record that cannot be used comes out as a Refusal, and reading goes on after it.

    Raises:
        DataError: the file is missing, not a regular file, or changed while it was read.
    """
    with opened(file.path) as stream:
        try:
            yield from READERS[file.kind](stream, file.name, options)
        except BrokenStreamError as broken:
            yield Refusal(
                file=file.name, line=None, byte_offset=broken.offset, reason=broken.reason, detail=str(broken)
            )


def _read_jsonl(stream: BinaryIO, name: str, options: ReadOptions) -> Iterator[str | Refusal]:
    for line in lines(stream, limit=options.limit):
        content = line.content
        if content is None:
            yield _too_long(name, line, options.limit)
            continue
        if line.number == 1:
            content = content.removeprefix(BOM)
        text = _json_text(content, options.field)
        if isinstance(text, str):
            yield text
            continue
        reason, detail = text
        if reason == "invalid_json" and not line.complete:
            reason = "truncated_last_line"
        yield Refusal(file=name, line=line.number, byte_offset=line.offset, reason=reason, detail=detail)


def _json_text(content: bytes, field: str) -> str | tuple[str, str]:
    """The document in a JSON line, or the reason and detail of its refusal."""
    if not content.strip():
        return "blank_line", ""
    if b"\0" in content:
        return "binary", ""
    try:
        value: Any = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return "invalid_utf8", f"byte {error.start} of the line: {error.reason}"
    except _NotANumberError:
        return "nan_or_infinity", ""
    except RecursionError:
        return "invalid_json", "nested too deeply"
    except ValueError as error:
        return "invalid_json", str(error)
    if not isinstance(value, dict):
        return "not_an_object", f"found {_json_type(value)}"
    record = cast("dict[str, Any]", value)
    if field not in record:
        return "missing_field", f"no field {field!r}"
    text = record[field]
    if not isinstance(text, str):
        return "wrong_type", f"field {field!r} is {_json_type(text)}"
    return _usable(text)


def _read_text(stream: BinaryIO, name: str, options: ReadOptions) -> Iterator[str | Refusal]:
    held: list[Line] = []
    size = 0
    some = False
    for line in lines(stream, limit=options.limit):
        some = True
        if held and size + line.length > options.document_bytes:
            yield _text_piece(held, name)
            held, size = [], 0
        if line.content is None:
            if held:
                yield _text_piece(held, name)
                held, size = [], 0
            yield _too_long(name, line, options.limit)
            continue
        held.append(line)
        size += line.length
    if held or not some:
        yield _text_piece(held, name)


def _text_piece(held: list[Line], name: str) -> str | Refusal:
    content = b"".join(line.content or b"" for line in held)
    first = held[0] if held else Line(number=1, offset=0, length=0, content=b"")
    return _decoded(content, name, first=first)


def _read_source(stream: BinaryIO, name: str, options: ReadOptions) -> Iterator[str | Refusal]:
    content = stream.read(options.limit + 1)
    if len(content) > options.limit:
        yield _file_too_long(name, options.limit)
    else:
        yield _decoded(content, name)


def _read_html(stream: BinaryIO, name: str, options: ReadOptions) -> Iterator[str | Refusal]:
    content = stream.read(options.limit + 1)
    if len(content) > options.limit:
        yield _file_too_long(name, options.limit)
        return
    page = _decoded(content, name)
    if isinstance(page, Refusal) and page.reason == "invalid_utf8" and (encoding := declared_encoding(content)):
        try:
            page = content.decode(encoding)
        except ValueError as error:
            page = Refusal(file=name, line=None, byte_offset=0, reason="invalid_utf8", detail=str(error))
    if isinstance(page, str):
        text = _usable(html_text(page))
        page = text if isinstance(text, str) else Refusal(file=name, line=1, byte_offset=0, reason=text[0])
    yield page


def _decoded(content: bytes, name: str, *, first: Line | None = None) -> str | Refusal:
    """The text of bytes that start at line `first`, or a refusal at the first bad byte."""
    line, offset = (1, 0) if first is None else (first.number, first.offset)

    def refuse(position: int, reason: str, detail: str = "") -> Refusal:
        at = line + content.count(b"\n", 0, position)
        return Refusal(file=name, line=at, byte_offset=offset + position, reason=reason, detail=detail)

    if (position := content.find(b"\0")) >= 0:
        return refuse(position, "binary")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return refuse(error.start, "invalid_utf8", error.reason)
    usable = _usable(text.removeprefix("\ufeff") if offset == 0 else text)
    return usable if isinstance(usable, str) else refuse(0, usable[0])


def _usable(text: str) -> str | tuple[str, str]:
    """The document as it is kept, or the reason and detail of its refusal."""
    if not text or text.isspace():
        return "empty", ""
    if "\0" in text:
        return "binary", f"a NUL at character {text.index(chr(0))}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return "lone_surrogate", f"U+{ord(text[error.start]):04X} at character {error.start}"
    return text.replace("\r\n", "\n")


def _too_long(name: str, line: Line, limit: int) -> Refusal:
    detail = f"{line.length:,} bytes, the limit is {limit:,}"
    return Refusal(file=name, line=line.number, byte_offset=line.offset, reason="too_long", detail=detail)


def _file_too_long(name: str, limit: int) -> Refusal:
    detail = f"the file has more than {limit:,} bytes"
    return Refusal(file=name, line=None, byte_offset=0, reason="too_long", detail=detail)


class _NotANumberError(ValueError):
    """NaN or an infinity in JSON."""


def _refuse_constant(name: str) -> None:
    raise _NotANumberError(name)


def _json_type(value: object) -> str:
    names = (
        (bool, "a boolean"), (int | float, "a number"), (str, "a string"), (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "null")


READERS: dict[Kind, Callable[[BinaryIO, str, ReadOptions], Iterator[str | Refusal]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "html": _read_html,
    "source": _read_source,
}
"""How each kind of file is read. A new kind is a row here and a suffix in `inputs.SUFFIXES`."""
