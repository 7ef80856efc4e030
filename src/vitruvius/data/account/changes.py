"""What a rewriting changed, as a few lines that people can read."""

from __future__ import annotations

import difflib
from os.path import commonprefix
from typing import Any

CORE_LINES = 120
"""Lines from the first difference on that are compared line by line: comparing costs the square of it."""
SHOWN_LINES = 24
LINE_CHARACTERS = 160
_BEFORE = 30


def short_diff(before: str, after: str) -> dict[str, Any]:
    """The first differences between two texts: `lines` begin with `-`, `+` or a blank; `more` says whether some are
    left out.
    """
    old, new = before.split("\n"), after.split("\n")
    first = _alike(old, new)
    last = min(_alike(old[::-1], new[::-1]), min(len(old), len(new)) - first)
    core_old, core_new = old[first : len(old) - last], new[first : len(new) - last]
    more = max(len(core_old), len(core_new)) > CORE_LINES
    lines = _compared(core_old[:CORE_LINES], core_new[:CORE_LINES])
    more = more or len(lines) > SHOWN_LINES
    return {"from_line": first + 1, "lines": lines[:SHOWN_LINES], "more": more}


def _alike(old: list[str], new: list[str]) -> int:
    """How many lines two texts begin with alike."""
    return next((number for number, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _compared(old: list[str], new: list[str]) -> list[str]:
    if len(old) == 1 and len(new) == 1:
        # One line: what matters is around the place where they part.
        start = max(0, len(commonprefix((old[0], new[0]))) - _BEFORE)
        return [_shown("-", old[0], start), _shown("+", new[0], start)]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    lines: list[str] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            lines += [_shown(" ", line, 0) for line in old[a0:a1][:1]]
        else:
            lines += [_shown("-", line, 0) for line in old[a0:a1]]
            lines += [_shown("+", line, 0) for line in new[b0:b1]]
    return lines


def _shown(sign: str, line: str, start: int) -> str:
    part = line[start : start + LINE_CHARACTERS]
    return sign + ("…" if start else "") + part + ("…" if start + LINE_CHARACTERS < len(line) else "")
