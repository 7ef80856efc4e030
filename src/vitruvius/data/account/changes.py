"""What a rewriting changed, as a few lines that people can read."""

from __future__ import annotations

import difflib
from typing import Any

CORE_LINES = 120
"""Lines from the first difference on that are compared one by one: comparing costs the square of it."""
CORE_WORDS = 400
"""As many words, where they are compared one by one."""
AROUND = 4
"""Words that are shown before and after."""
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


def word_diff(before: str, after: str) -> dict[str, Any]:
    """The first differences between two texts word by word, wherever their lines end: for each what was taken (`-`) and
    what was put (`+`), with the words around it; `more` says whether some are left out.
    """
    old, new = before.split(), after.split()
    first = _alike(old, new)
    last = min(_alike(old[::-1], new[::-1]), min(len(old), len(new)) - first)
    stop_old, stop_new = len(old) - last, len(new) - last
    more = max(stop_old, stop_new) - first > CORE_WORDS
    part_old, part_new = old[first : min(stop_old, first + CORE_WORDS)], new[first : min(stop_new, first + CORE_WORDS)]
    lines: list[str] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, part_old, part_new, autojunk=False).get_opcodes():
        if tag != "equal":
            lines += [_around("-", old, first + a0, first + a1)] if a1 > a0 else []
            lines += [_around("+", new, first + b0, first + b1)] if b1 > b0 else []
    return {"from_word": first + 1, "lines": lines[:SHOWN_LINES], "more": more or len(lines) > SHOWN_LINES}


def _around(sign: str, words: list[str], start: int, stop: int) -> str:
    """Some words, in brackets, between those before and after."""
    before, after = words[max(0, start - AROUND) : start], words[stop : stop + AROUND]
    some = " ".join(words[start : min(stop, start + CORE_WORDS)])
    shown = some if len(some) <= LINE_CHARACTERS else f"{some[:LINE_CHARACTERS]}…"
    return f"{sign}{' '.join([*before, f'[{shown}]', *after])[: 2 * LINE_CHARACTERS]}"


def shared_start(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves: slices are compared at once
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _alike(old: list[str], new: list[str]) -> int:
    """How many items two lists begin with alike."""
    return next(
        (number for number, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )


def _compared(old: list[str], new: list[str]) -> list[str]:
    if len(old) == 1 and len(new) == 1:
        # One line: what matters is around the place where they part.
        start = max(0, shared_start(old[0], new[0]) - _BEFORE)
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
