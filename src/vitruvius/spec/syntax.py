"""Says in plain words what the YAML parser stumbled over, and the way out."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from vitruvius.spec.reporting import printable, quoted
from vitruvius.spec.tree import Mark

_CLOSING: Final = {"{": "}", "[": "]"}


class Explanation(NamedTuple):
    """A syntax error: what, the way out, and where."""

    what: str
    fix: str
    mark: Mark


# Words of the parser's complaint (libyaml's and PyYAML's own) -> what it means, and the way out. First match wins.
_MEANINGS: Final = (
    ("found unexpected end of stream", "this quote is never closed", "close it on the same line"),
    ("unknown escape", "a backslash in double quotes starts an escape, and this is none", "use single quotes"),
    ("escape", "an escape in a quoted string names no character", "use single quotes"),
    ("anchor", "a value that starts with '&' is an anchor to YAML", "quote the whole value"),
    ("alias", "a value that starts with '*' is an alias to YAML", "quote the whole value"),
    ("tag", "a value that starts with '!' is a tag to YAML", "quote the whole value"),
    ("block scalar", "a value that starts with '|' or '>' is a text block to YAML", "quote the whole value"),
    ("directive", "a line that starts with '%' is a directive to YAML", "delete it, or quote the value"),
    ("incompatible YAML", "a YAML version that is not read", "delete the %YAML line"),
    ("sequence entries are not allowed", "a list cannot start here", "put '- ' on a line of its own, or use [a, b]"),
    ("keys are not allowed", "a '?' cannot start a value", "quote the whole value"),
    ("violates indentation", "a tab; YAML wants spaces", "replace it with spaces"),
    ("':'", "a key without ': ' after it", "write `key: value`, or indent the line if it continues the one above"),
    ("document start", "text after the end of the document", "delete it, or indent it under its field"),
    ("node content", "a bracket or comma where a value should be", "write the value, or quote it"),
    (
        "block mapping",
        "this does not continue the mapping above",
        "give the fields of one mapping the same indentation; quote a value that goes on after a bracket or a quote",
    ),
    (
        "block collection",
        "this does not continue the list above",
        "start every item of one list with '- ' in the same column",
    ),
)


def explain(error: Any, text: str, file: str, innermost: Mark | None) -> Explanation:
    """The finding that a YAML error amounts to.

    `text` is what was parsed, and `innermost` the bracket last opened and not closed.
    """
    problem: Any = getattr(error, "problem_mark", None)
    if problem is None:
        return Explanation("this is not YAML", "open it in an editor that knows YAML", Mark(file, 1, 1))
    mark = Mark(file, problem.line + 1, problem.column + 1)
    # PyYAML's own parser goes on to say what it found, in words that libyaml uses for other complaints.
    problem_text = str(error.problem or "").partition(", but ")[0]
    complaint = f"{error.context or ''} {problem_text}"
    lines = text.split("\n")
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if "flow" in complaint:
        return _open_bracket(error, text, mark, innermost)
    if "cannot start any token" in complaint:
        return _bad_start(line, problem.column, mark)
    if "mapping values are not allowed" in complaint:
        return _second_colon(line, problem.column, mark)
    start = error.context_mark if "quote" in complaint or "scalar" in complaint else None
    if start is not None:
        mark = Mark(file, start.line + 1, start.column + 1)
    for words, what, fix in _MEANINGS:
        if words in complaint:
            return Explanation(what, fix, mark)
    return Explanation(f"not YAML: {printable(complaint.strip(), 200)}", "quote the value if it is text", mark)


def _open_bracket(error: Any, text: str, mark: Mark, innermost: Mark | None) -> Explanation:
    """A `{` or `[` that is not closed, or not where the parser needed it to be."""
    context = error.context_mark
    opened = Mark(mark.file, context.line + 1, context.column + 1) if context is not None else mark
    if text[_index(text, opened) :][:1] not in _CLOSING:
        # The parser names the place where it gave up instead of the bracket.
        opened = innermost or opened
    bracket = text[_index(text, opened) :][:1]
    closing = _CLOSING.get(bracket)
    if closing is None:
        return Explanation("a bracket is not closed", "close it, or quote the value if it is text", mark)
    if not text[_index(text, mark) :].strip():
        return Explanation(f"this '{bracket}' is never closed", f"add the missing '{closing}'", opened)
    return Explanation(
        f"expected ',' or '{closing}' here, inside the '{bracket}' of line {opened.line}, column {opened.column}",
        f"add the missing ',' or '{closing}', or quote the value if this is part of it",
        mark,
    )


def _bad_start(line: str, column: int, mark: Mark) -> Explanation:
    character = line[column : column + 1]
    if character == "\t":
        return Explanation("a tab; YAML wants spaces", "replace it with spaces", mark)
    return Explanation(
        f"a value cannot start with {quoted(character)}",
        f"quote it: {_in_quotes(line[column:])}",
        mark,
    )


def _second_colon(line: str, column: int, mark: Mark) -> Explanation:
    """`a: b: c`, or a field indented under a field that has a value already."""
    first = re.match(r"\s*(?:- +)?[^\s:#\"']+:\s+", line)
    if first is not None and first.end() <= column:
        return Explanation(
            "a second ': ' in one line; the value it stands in must be quoted",
            f"quote it: {line[: first.end()].strip()} {_in_quotes(line[first.end() :])}",
            mark,
        )
    return Explanation(
        "a field cannot start here: the line above has a value already, or lacks its ': '",
        "indent it like the fields it belongs with, or move the value above into it",
        mark,
    )


def _in_quotes(value: str) -> str:
    """A value up to its comment or closing bracket, in quotes that suit it."""
    bare = re.split(r"\s#|[,}\]]\s*$", value, maxsplit=1)[0].strip()
    return printable(f"'{bare}'" if '"' in bare else f'"{bare}"', 200)


def _index(text: str, mark: Mark) -> int:
    """Index in `text` of a mark."""
    start = 0
    for _ in range(mark.line - 1):
        start = text.find("\n", start) + 1 or len(text)
    return start + mark.column - 1
