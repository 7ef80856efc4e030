"""Numbers written as arithmetic: `sqrt(width)`, `1/sqrt(80)`, `0.5`.

sum := product ;  product := atom (('*' | '/') atom)* ;  atom := NUMBER | NAME | 'sqrt' '(' product ')'
"""

from __future__ import annotations

import re
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORD = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z_]+)|(?P<sign>[()*/]))")
_LONGEST = 100
_FIX = "write a positive number, or a short expression such as 1/sqrt(80)"


def evaluate(value: float | str, names: Mapping[str, float]) -> float:
    """The number that `value` stands for, with `names` giving e.g. {"width": 4096}.

    Raises UsageError when the text cannot be read, names something unknown, or is not finite and positive.
    """
    if not isinstance(value, str):
        return _positive(float(value), value)
    words = _words(value)
    result, end = _product(words, 0, names, value)
    if end != len(words):
        raise _unreadable(value, words[end])
    return _positive(result, value)


def _positive(result: float, value: float | str) -> float:
    if not isfinite(result) or result <= 0:
        shown = f"{value!r}, which is {result:g}," if isinstance(value, str) else f"{value:g}"
        raise UsageError(f"{shown} where a positive number is due", fix=_FIX)
    return result


def _words(text: str) -> list[str]:
    if len(text) > _LONGEST:
        raise UsageError(f"an expression may be at most {_LONGEST} characters long", fix=_FIX)
    words: list[str] = []
    at = 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _WORD.match(stripped, at)
        if match is None:
            raise _unreadable(text, stripped[at:].strip()[:8])
        words.append(match[0].strip())
        at = match.end()
    return words


def _product(words: list[str], at: int, names: Mapping[str, float], text: str) -> tuple[float, int]:
    value, at = _atom(words, at, names, text)
    while at < len(words) and words[at] in "*/":
        right, after = _atom(words, at + 1, names, text)
        if words[at] == "/" and right == 0:
            raise UsageError(f"{text!r} divides by zero", fix=_FIX)
        value = value * right if words[at] == "*" else value / right
        at = after
    return value, at


def _atom(words: list[str], at: int, names: Mapping[str, float], text: str) -> tuple[float, int]:
    if at >= len(words):
        raise _unreadable(text, "the end")
    word = words[at]
    if word[0].isdigit():
        return float(word), at + 1
    if word == "sqrt" and words[at + 1 : at + 2] == ["("]:
        value, after = _product(words, at + 2, names, text)
        if words[after : after + 1] != [")"]:
            raise UsageError(f"{text!r} has a sqrt( that is never closed", fix="add the missing )")
        return sqrt(value), after + 1
    if word in names:
        return float(names[word]), at + 1
    raise _unreadable(text, word, names)


def _unreadable(text: str, word: str, names: Mapping[str, float] | None = None) -> UsageError:
    known = ", ".join(sorted(names)) if names else "names"
    return UsageError(
        f"cannot read {word!r} in {text!r}",
        fix=f"write a number, or a product or quotient of numbers, {known} and sqrt(...)",
    )
