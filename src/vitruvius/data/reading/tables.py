"""Rows of tables as documents, whatever file they are in."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.libraries import library
from vitruvius.data.reading.text import Problem, usable_unicode, writable
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.data.reading.options import ReadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where a table has what a document needs."""

    text: str
    """The column of the texts."""
    url: str | None
    """The column of the addresses; None where there is none with strings."""

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        return [self.text] if self.url is None else [self.text, self.url]


def columns_of(schema: Any, name: str, options: ReadOptions) -> Columns:
    """Where a table with this Arrow schema has texts and addresses.

    Raises:
        DataError: there is no column for the text, or several, or it holds no strings.
    """
    names: list[str] = list(schema.names)
    count = names.count(options.field)
    if count != 1:
        near = difflib.get_close_matches(options.field, names, n=1)
        strings = [column for column in dict.fromkeys(names) if names.count(column) == 1 and _is_text(schema, column)]
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"the table has {'several columns' if count else 'no column'} {options.field!r}{meant}",
            where=name,
            fix=f"name the column of the text with --field; those with strings are: {', '.join(strings) or 'none'}",
        )
    if not _is_text(schema, options.field):
        raise DataError(
            f"the column {options.field!r} holds {schema.field(options.field).type}, not strings",
            where=name,
            fix="name the column of the text with --field",
        )
    url = options.url_field
    has_url = url != options.field and names.count(url) == 1 and _is_text(schema, url)
    return Columns(text=options.field, url=url if has_url else None)


def _is_text(schema: Any, column: str) -> bool:
    """Whether a column holds strings, or bytes that may be UTF-8; one of nothing but nulls may."""
    types = library("pyarrow.types")
    kind = schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in (*tests, types.is_binary_view, types.is_null))


def rows_of(
    batch: Any, columns: Columns, name: str, options: ReadOptions, *, first: int
) -> Iterator[Document | Refusal]:
    """The documents of an Arrow record batch whose first row is number `first` of the table; ids are `FILE#ROW`.

    Raises:
        pyarrow.ArrowException: the batch is damaged; nothing of it was yielded.
    """
    texts = _checked(batch.column(columns.text))
    urls = None if columns.url is None else _checked(batch.column(columns.url))
    # One row at a time: a column may say the same long text a million times in a few bytes.
    for place, scalar in enumerate(texts):
        row = first + place
        text = _text(scalar, options)
        if isinstance(text, Problem):
            yield row_refusal(name, row, text)
        else:
            url = None if urls is None else _url(urls[place], options)
            yield row_document(name, row, text, url, options)


def row_document(name: str, row: int, text: str, url: str | None, options: ReadOptions) -> Document:
    """The document of a row."""
    return Document(id=f"{name}#{row}", file=name, line=row, byte_offset=row, text=text, markup=options.markup, url=url)


def row_refusal(name: str, row: int, problem: Problem) -> Refusal:
    """The refusal of a row."""
    return Refusal(file=name, line=row, byte_offset=row, reason=problem.reason, detail=problem.detail)


def _checked(array: Any) -> Any:
    """A column as bytes, sure to refer to nothing outside itself: pyarrow trusts offsets, and ends the process.

    Raises:
        pyarrow.ArrowException: it is damaged.
    """
    pa = library("pyarrow")
    array.validate()
    if pa.types.is_dictionary(array.type):
        array = pa.DictionaryArray.from_arrays(array.indices, _checked(array.dictionary))
    else:
        # As bytes, because a row that is not UTF-8 must not cost the others.
        for of, to in ((pa.string(), pa.binary()), (pa.large_string(), pa.large_binary())):
            array = array.view(to) if array.type == of else array
        if array.type == pa.string_view():
            array = array.view(pa.binary_view())
    array.validate(full=True)
    return array


def _text(scalar: Any, options: ReadOptions) -> str | Problem:
    content = _bytes(scalar)
    if content is None:
        return Problem("wrong_type", f"column {options.field!r} is null")
    if len(content) > options.limit:
        return Problem("too_long", f"{len(content):,} bytes, the limit is {options.limit:,}")
    try:
        return usable_unicode(str(content, "utf-8"))
    except UnicodeDecodeError as error:
        return Problem("invalid_utf8", f"byte {error.start} of the text: {error.reason}")


def _url(scalar: Any, options: ReadOptions) -> str | None:
    content = _bytes(scalar)
    if content is None or len(content) > options.limit:
        return None
    try:
        return writable(str(content, "utf-8"))
    except UnicodeDecodeError:
        return None


def _bytes(scalar: Any) -> memoryview | None:
    """The bytes of a string without a copy; None for null."""
    if isinstance(scalar, library("pyarrow").DictionaryScalar):
        scalar = scalar.value
    return memoryview(scalar.as_buffer()) if scalar is not None and scalar.is_valid else None
