"""Text, pages and source files as documents: the bytes are decoded, and nothing more is done to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.charsets import decoded_page
from vitruvius.data.reading.streams import UTF16_MARKS, Line, lines
from vitruvius.data.reading.text import Problem, usable_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from vitruvius.data.reading.options import ReadOptions
    from vitruvius.data.reading.streams import Span


def read_text(stream: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """A text file as one document, `FILE`, or cut at line ends into several, `FILE@OFFSET`.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb; what came before was yielded.
    """
    held: list[Line] = []
    size = 0
    whole = True
    for line in lines(stream, limit=options.limit, span=span):
        if line.offset == 0 and line.content is not None and line.content.startswith(UTF16_MARKS):
            yield Refusal(file=name, line=1, byte_offset=0, reason="utf16")
            return
        if held and (size + line.length > options.document_bytes or line.content is None):
            whole = False
            yield _piece(held, name, whole=whole)
            held, size = [], 0
        if line.content is None:
            whole = False
            detail = f"{line.length:,} bytes, the limit is {options.limit:,}"
            yield Refusal(file=name, line=line.number, byte_offset=line.offset, reason="too_long", detail=detail)
            continue
        held.append(line)
        size += line.length
    if held or whole:
        yield _piece(held, name, whole=whole)


def _piece(held: list[Line], name: str, *, whole: bool) -> Document | Refusal:
    content = b"".join(line.content or b"" for line in held)
    first = held[0] if held else Line(number=1, offset=0, length=0, content=b"")
    text = _decoded(content, name, first=first)
    if isinstance(text, Refusal):
        return text
    if whole:
        return Document(id=name, file=name, line=None, byte_offset=0, text=text)
    return Document(id=f"{name}@{first.offset}", file=name, line=first.number, byte_offset=first.offset, text=text)


def read_source(stream: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """A file as one document, `FILE`.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb.
    """
    del span
    content = stream.read(options.limit + 1)
    if len(content) > options.limit:
        yield _too_long(name, options.limit)
    elif content.startswith(UTF16_MARKS):
        yield Refusal(file=name, line=1, byte_offset=0, reason="utf16")
    else:
        text = _decoded(content, name)
        yield text if isinstance(text, Refusal) else _whole(name, text)


def read_html(stream: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """A page as one document, `FILE`, its markup still in it.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb.
    """
    del span
    content = stream.read(options.limit + 1)
    if len(content) > options.limit:
        yield _too_long(name, options.limit)
        return
    page = decoded_page(content)
    if page is None:
        refused = _decoded(content, name)
        assert isinstance(refused, Refusal)
        yield refused
        return
    text = usable_unicode(page)
    if isinstance(text, Problem):
        at = page.find("\0") if text.reason == "binary" else 0
        line = 1 + page.count("\n", 0, at)
        yield Refusal(file=name, line=line, byte_offset=len(page[:at].encode()), reason=text.reason)
        return
    yield _whole(name, text, markup="html")


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
    kept = usable_unicode(text.removeprefix("\ufeff") if offset == 0 else text)
    return refuse(0, kept.reason) if isinstance(kept, Problem) else kept


def _whole(name: str, text: str, *, markup: str = "plain") -> Document:
    return Document(
        id=name, file=name, line=None, byte_offset=0, text=text, markup="html" if markup == "html" else "plain"
    )


def _too_long(name: str, limit: int) -> Refusal:
    detail = f"the file has more than {limit:,} bytes"
    return Refusal(file=name, line=None, byte_offset=0, reason="too_long", detail=detail)
