"""What the command line prints: data on stdout, talk on stderr, nothing that can move a terminal's cursor."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

STDOUT = "standard output"
"""What stdout is called where a file would be named."""

_HARMLESS = frozenset("\n\t")
_WHOLE = 400
"""Characters, of at most ten bytes each (escaped), that a pipe of Linux takes whole (PIPE_BUF, 4,096 bytes)."""


def clean(text: str) -> str:
    r"""`text` with what a terminal would obey or hide made visible: `\x1b[2J`, `\u202e`.

    Escapes, C0 and C1 controls, bidirectional overrides, zero-width characters and lone surrogates become
    backslash escapes; line breaks and tabs stay. Use it on every text that came from a file or an argument.
    """
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch in _HARMLESS else _escaped(ch) for ch in text)


def clean_line(text: str) -> str:
    """As `clean`, with line breaks and tabs escaped too: for names, which must not be able to fake a line of ours."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else _escaped(ch) for ch in text)


def _escaped(ch: str) -> str:
    return ch.encode("unicode_escape").decode("ascii")


def emit(text: str) -> None:
    """Print `text`, which is data, and a line break on stdout. An error that it meets names standard output."""
    try:
        # Where stdout has no buffer (PYTHONUNBUFFERED), Python loses the rest of a write that a signal breaks off. A
        # pipe takes pieces of this size whole or not at all.
        if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
            for start in range(0, len(text), _WHOLE):
                sys.stdout.write(text[start : start + _WHOLE])
            text = ""
        print(text, file=sys.stdout)
    except OSError as error:
        error.filename = STDOUT
        raise


def emit_json(obj: Any) -> None:
    """Print one JSON document on stdout: keys in the order given, ASCII only, no NaN or infinity.

    Raises ValueError where a number is not finite: that is a bug of the caller's.
    """
    emit(json.dumps(obj, indent=2, allow_nan=False))


def say(text: str) -> None:
    """Print `text`, which is talk, and a line break on stderr. Where nobody can hear it, nothing fails for that."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def fails(stream: TextIO) -> bool:
    """Whether `stream` cannot be written: what its buffer holds fails again."""
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return True
    return False


def abandon(stream: TextIO) -> None:
    """Point a standard stream at nothing where it fails: its buffer would fail again when the interpreter leaves.

    Python would then leave with 120, whatever the exit code was.
    """
    if fails(stream):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def path_argument(path: object) -> str:
    """A path as it is typed: quoted for the shell, what is not printable escaped, and never taken for an option."""
    text = clean_line(str(path))
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def next_step(command: str) -> None:
    """Say which command comes next in the journey."""
    say(f"next: {command}")


def wants_color(stream: TextIO | None = None) -> bool:
    """Whether `stream` (stdout by default) is a terminal whose user did not ask for plain text with NO_COLOR."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(stream) and stream.isatty()
