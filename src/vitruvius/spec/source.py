"""From the bytes of a spec file to a tree of values that know their line, or to every reason why not.

Nothing is constructed before it is checked: the parser's events are walked once, in linear time, and what a spec
never needs (anchors, aliases, tags, several documents, endless nesting) is refused on sight. So no file can make
the reader recurse, expand or import anything.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.builder import MAX_DEPTH, MAX_NODES, TreeBuilder
from vitruvius.spec.characters import HIDDEN, describe
from vitruvius.spec.reporting import Report, printable
from vitruvius.spec.syntax import explain
from vitruvius.spec.tree import Mark, Node, key_positions, positions, to_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "Mark",
    "Node",
    "key_positions",
    "load",
    "parse_text",
    "positions",
    "to_plain",
]

MAX_BYTES: Final = 1 << 20
"""A spec file is at most 1 MiB long."""

Top: TypeAlias = Literal["mapping", "any"]
"""What a document may be: a spec file is a mapping, the value of a `--set` is anything."""

# Longer marks first: the UTF-32 one starts with the UTF-16 one.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SPECIAL_FILES: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_SAVE_AS_UTF8: Final = "save the file as UTF-8 without a byte order mark"
_WRITE_ONE: Final = "`vitruvius new` writes a spec to start from"
_QUOTE: Final = re.compile("[\"']")


def load(path: str | os.PathLike[str]) -> Node:
    """The tree of a spec file.

    Only regular files of at most 1 MiB are opened. Raises SpecError with every finding.
    """
    shown = printable(os.fsdecode(path), limit=400)
    return parse_text(_read(path, shown), file=shown)


def parse_text(text: str | bytes, file: str = "arch.yaml", *, top: Top = "mapping") -> Node:
    """The tree of a spec's text; `file` is how findings call it.

    Raises SpecError with every finding that one walk over the text can collect.
    """
    source = _newlines(_decoded(text, file))
    report = Report()
    _refuse_hidden(source, file, report)
    _refuse_tabs(source, file, report)
    report.raise_if_any()
    builder = TreeBuilder(text=source, file=file, report=report)
    _walk(source, builder, file, report)
    report.raise_if_any()
    root = builder.root
    if root is None or (root.value is None and top == "mapping"):
        raise _refusal("the document is empty", file, fix=_WRITE_ONE)
    if top == "mapping" and not isinstance(root.value, dict):
        found = "a list" if isinstance(root.value, list) else "a single value"
        raise _refusal(
            f"a spec is a mapping of fields, and this is {found}",
            file,
            mark=root.mark,
            fix="start with a field, such as `name: my-arch`",
        )
    return root


def _refusal(what: str, file: str, *, fix: str = "", mark: Mark | None = None) -> SpecError:
    line, column = (mark.line, mark.column) if mark else (None, None)
    return SpecError([Finding(what=what, fix=fix, file=file, line=line, column=column)])


# ------------------------------------------------------------------------------------------------------------ bytes


def _read(path: str | os.PathLike[str], shown: str) -> bytes:
    """The bytes of a regular file, never more than the limit and never waiting for a writer."""
    try:
        _refuse_special(os.stat(path), shown)  # noqa: PTH116 (works on any path-like)
        # The file may have become a pipe since: do not wait for its writer, and look again at what was opened.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as stream:  # noqa: PTH123 (a descriptor, not a path)
            _refuse_special(os.fstat(stream.fileno()), shown)
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refusal("no such file", shown, fix=f"check the path; {_WRITE_ONE}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise _refusal(f"cannot read it: {why}", shown, fix="check the path and its permissions") from None
    except ValueError:
        raise _refusal("the path has a NUL character in it", shown, fix="check the path") from None
    _refuse_large(len(data), shown)
    return data


def _refuse_special(status: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = next((name for is_kind, name in _SPECIAL_FILES if is_kind(status.st_mode)), "something else")
        raise _refusal(f"not a regular file: this is {found}", shown, fix="give the path of a spec file")
    _refuse_large(status.st_size, shown)


def _refuse_large(size: int, shown: str) -> None:
    if size > MAX_BYTES:
        raise _refusal(
            f"the text has {size:,} bytes; a spec has at most {MAX_BYTES:,} (1 MiB)",
            shown,
            fix="a spec holds an architecture, not weights or data; is this the right file?",
        )


def _decoded(text: str | bytes, file: str) -> str:
    """The characters of a text, which must be UTF-8 without a byte order mark."""
    if isinstance(text, str):
        _refuse_large(len(text) if len(text) > MAX_BYTES else len(text.encode(errors="surrogatepass")), file)
        if text.startswith("\ufeff"):
            raise _refusal("the text starts with a byte order mark", file, fix=_SAVE_AS_UTF8, mark=Mark(file, 1, 1))
        return text
    _refuse_large(len(text), file)
    start = Mark(file, 1, 1)
    if text.startswith(codecs.BOM_UTF8):
        raise _refusal("the text starts with a UTF-8 byte order mark (BOM)", file, fix=_SAVE_AS_UTF8, mark=start)
    for signature, encoding in _BYTE_ORDER_MARKS:
        if text.startswith(signature):
            raise _refusal(f"the text is {encoding}, not UTF-8", file, fix=_SAVE_AS_UTF8, mark=start)
    # ASCII in UTF-16 is every other byte a NUL.
    if len(text) > 1 and (text[0] == 0) != (text[1] == 0):
        raise _refusal("the text looks like UTF-16, not UTF-8", file, fix=_SAVE_AS_UTF8, mark=start)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        before = _newlines(text[: error.start].decode("utf-8"))
        raise _refusal(
            f"byte {error.start:,} (0x{text[error.start]:02X}) is not UTF-8",
            file,
            fix=_SAVE_AS_UTF8,
            mark=_mark_at(before, len(before), file),
        ) from None


# ------------------------------------------------------------------------------------------------------- characters


def _newlines(text: str) -> str:
    """`text` with every line break as one newline, so that lines are counted alike here and in the parser."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mark_at(text: str, index: int, file: str) -> Mark:
    return Mark(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _matching_lines(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """(line, first match in it) of every line that `pattern` matches in."""
    if pattern.search(text) is None:
        return
    for number, line in enumerate(text.split("\n"), start=1):
        match = pattern.search(line)
        if match is not None:
            yield number, match


def _refuse_hidden(text: str, file: str, report: Report) -> None:
    """Note the first control, bidirectional or invisible character of every line."""
    for line, match in _matching_lines(HIDDEN, text):
        report.add(
            f"a character that does not show: {describe(match[0])}",
            mark=Mark(file, line, match.start() + 1),
            fix="delete it",
        )


def _refuse_tabs(text: str, file: str, report: Report) -> None:
    """Note the first tab of every line that has one anywhere but beside a comment or at the end."""
    for line, match in _matching_lines(re.compile("\t"), text):
        code = match.string.partition("#")[0].rstrip("\t ")
        if "\t" in code or _QUOTE.search(code):
            report.add(
                "a tab; YAML wants spaces", mark=Mark(file, line, match.start() + 1), fix="replace it with spaces"
            )


# ----------------------------------------------------------------------------------------------------------- events


def _walk(text: str, builder: TreeBuilder, file: str, report: Report) -> None:
    """Feed the parser's events to `builder`; a syntax error becomes one more finding."""
    import yaml

    # A tab beside a comment is harmless, but only one of the two parsers reads it.
    events: Any = cast("Any", yaml).parse(text.replace("\t", " "), Loader=_parser())
    try:
        for event in events:
            if not builder.take(event):
                break
    except yaml.YAMLError as error:
        finding = explain(error, text, file, builder.innermost_bracket)
        report.add(finding.what, mark=finding.mark, fix=finding.fix, path=builder.path)
    except (ValueError, OverflowError):
        # The Python parser fails like this on an escape such as "\UFFFFFFFF"; the C parser reports it properly.
        report.add(
            "an escape in a quoted string names no character",
            mark=builder.last_mark,
            fix="use single quotes, in which a backslash is just a backslash",
            path=builder.path,
        )
    finally:
        events.close()


def _parser() -> Any:
    """The C parser where PyYAML was built with it, else the one written in Python."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
