"""What may be the text of a document, whatever it was read from."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """Why a record is no document; its place is the reader's to say."""

    reason: str
    """A key of `reasons.HARMLESS` or `reasons.DAMAGE`."""
    detail: str = ""
    """What exactly, where there is more to say."""


def usable(text: str) -> str | Problem:
    """The text of a document as it is kept, with CRLF as LF, or why there is none."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if "\0" not in text:
                return Problem("lone_surrogate", f"U+{ord(text[error.start]):04X} at character {error.start}")
    return usable_unicode(text)


def usable_unicode(text: str) -> str | Problem:
    """As `usable`, of a text that is known to have no lone surrogate."""
    if not text or text.isspace():
        return Problem("empty")
    if "\0" in text:
        return Problem("binary", f"a NUL at character {text.index(chr(0))}")
    return text.replace("\r\n", "\n") if "\r" in text else text


def writable(value: object) -> str | None:
    """A name or address that can be written down: a string without NUL and lone surrogates, or None."""
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return value


def type_name(value: object) -> str:
    """What JSON calls the type of a value."""
    names = (
        (bool, "a boolean"), (int | float, "a number"), (str, "a string"), (bytes, "bytes"),
        (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    if value is None:
        return "null"
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
