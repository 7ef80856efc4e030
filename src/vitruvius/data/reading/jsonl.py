"""Lines of JSON as documents: each line has one fate, whichever parser reads it.

orjson, where it is installed, reads the lines that are plainly right. Whatever it refuses is read again by the standard
library's parser, which has the last word, within the depth that both can take.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import json
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.streams import BOM, UTF16_MARKS, lines
from vitruvius.data.reading.text import Problem, type_name, usable, usable_unicode, writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from vitruvius.data.reading.options import ReadOptions
    from vitruvius.data.reading.streams import Line, Span

    Parser = Callable[[bytes], Any]

DEPTH: Final = 1024
"""Lists and objects within each other; more is refused. It is what orjson documents that it takes."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_EASY_DEPTH: Final = 128
"""So many levels the standard library's parser takes whoever calls it."""


_LARGE: Final = 1 << 20
MOST_CONTAINERS: Final = 500_000
MOST_VALUES: Final = 2_000_000
"""Of a line over 1 MiB: more lists and objects, or values, would take over a hundred megabytes as Python's objects."""


class Record(NamedTuple):
    """What a JSON line holds."""

    text: str
    """The document's text, as it is kept."""
    url: str | None
    """Where it was published."""


def read_jsonl(stream: BinaryIO, name: str, options: ReadOptions, span: Span) -> Iterator[Document | Refusal]:
    """The documents of the lines that begin within `span`.

    Ids are `FILE@OFFSET`, where the line begins, so they do not depend on how a file is cut. Line numbers count from
    the start of the span; `span.lines` says how many lines there were.

    Raises:
        BrokenStreamError: a compressed stream is damaged or a bomb; what came before was yielded.
    """
    fast = fast_parser()
    for line in lines(stream, limit=options.limit, span=span):
        content = line.content
        if content is None:
            yield _refusal(name, line, Problem("too_long", f"{line.length:,} bytes, the limit is {options.limit:,}"))
            continue
        if line.offset == 0:
            if content.startswith(UTF16_MARKS):
                yield _refusal(name, line, Problem("utf16"))
                return
            content = content.removeprefix(BOM)
        record = json_record(content, options, fast=fast)
        if isinstance(record, Record):
            yield Document(
                id=f"{name}@{line.offset}",
                file=name,
                line=line.number,
                byte_offset=line.offset,
                text=record.text,
                markup=options.markup,
                url=record.url,
            )
            continue
        if record.reason == "invalid_json" and not line.complete:
            record = Problem("truncated_last_line", record.detail)
        yield _refusal(name, line, record)


def _refusal(name: str, line: Line, problem: Problem) -> Refusal:
    return Refusal(file=name, line=line.number, byte_offset=line.offset, reason=problem.reason, detail=problem.detail)


@cache
def fast_parser() -> Parser | None:
    """The parser of orjson, or None where that is not installed."""
    return importlib.import_module("orjson").loads if importlib.util.find_spec("orjson") else None


def json_record(content: bytes, options: ReadOptions, *, fast: Parser | None) -> Record | Problem:
    """The document in a JSON line, or why there is none; the same with and without a `fast` parser."""
    if len(content) > _LARGE and (excess := _excess(content)) is not None:
        return excess
    parsed: Any = None
    sure = False
    if fast is not None:
        with contextlib.suppress(ValueError):
            parsed = fast(content)
            sure = True
    if not sure:
        parsed = _parsed(content)
        if isinstance(parsed, Problem):
            return parsed
    if not isinstance(parsed, dict):
        return Problem("not_an_object", f"found {type_name(parsed)}")
    record = cast("dict[str, Any]", parsed)
    if options.field not in record:
        return Problem("missing_field", f"no field {options.field!r}")
    text = record[options.field]
    if not isinstance(text, str):
        return Problem("wrong_type", f"field {options.field!r} is {type_name(text)}")
    # What the fast parser takes is Unicode.
    kept = usable_unicode(text) if sure else usable(text)
    return kept if isinstance(kept, Problem) else Record(kept, writable(record.get(options.url_field)))


def _parsed(content: bytes) -> Any:
    """The value of a JSON line by the standard library's parser, or the Problem with it."""
    if not content or content.isspace():
        return Problem("blank_line")
    if b"\0" in content:
        return Problem("binary")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem("invalid_utf8", f"byte {error.start} of the line: {error.reason}")
    brackets = content.count(b"[") + content.count(b"{")
    depth = _depth(content) if brackets > _EASY_DEPTH else brackets
    if depth > DEPTH:
        return Problem("invalid_json", f"more than {DEPTH} lists and objects within each other")
    try:
        return _DECODER.decode(text) if depth <= _EASY_DEPTH else _deep_value(text, depth)
    except _NotANumberError:
        return Problem("nan_or_infinity")
    except ValueError as error:
        return Problem("invalid_json", str(error))


def _excess(content: bytes) -> Problem | None:
    """What is wrong with a line that holds too many values; None where it does not."""

    def counts(line: bytes) -> tuple[int, int]:
        containers = line.count(b"[") + line.count(b"{")
        return containers, line.count(b",") + containers

    most = (MOST_CONTAINERS, MOST_VALUES)
    if all(count <= limit for count, limit in zip(counts(content), most, strict=True)):
        return None
    # A long text may have as many commas and brackets, which cost nothing.
    containers, values = counts(_STRING.sub(b"", content))
    if containers <= MOST_CONTAINERS and values <= MOST_VALUES:
        return None
    limits = f"the limits are {MOST_CONTAINERS:,} and {MOST_VALUES:,}"
    return Problem("too_much_memory", f"{containers:,} lists and objects, about {values:,} values; {limits}")


def _depth(content: bytes) -> int:
    """How many lists and objects are within each other at most."""
    brackets = _STRING.sub(b"", content).translate(None, _NOT_BRACKETS)
    return max(itertools.accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _deep_value(text: str, depth: int) -> Any:
    """The value of a text that goes `depth` levels down, from however deep in calls this is."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 2 * depth)
    try:
        return _DECODER.decode(text)
    finally:
        sys.setrecursionlimit(before)


class _NotANumberError(ValueError):
    """NaN or an infinity in JSON."""


def _refuse_constant(name: str) -> None:
    raise _NotANumberError(name)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
"""Made once: `json.loads` makes one for each call that has options."""
