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

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<name>[A-Za-z_]+)|(?P<sign>[()*/]))")
_LONGEST = 100


def evaluate(value: float | str, names: Mapping[str, float]) -> float:
    """The number that `value` stands for, with `names` giving e.g. {"width": 4096}.

    Raises UsageError when the text cannot be read, names something unknown, or is not finite and positive.
    """
    if not isinstance(value, str):
        return float(value)
    tokens = _tokens(value)
    result, end = _product(tokens, 0, names, value)
    if end != len(tokens):
        raise _unreadable(value, tokens[end])
    if not isfinite(result) or result <= 0:
        raise UsageError(f"{value!r} is {result}, not a positive number")
    return result


def _tokens(text: str) -> list[str]:
    if len(text) > _LONGEST:
        raise UsageError(f"an expression may be at most {_LONGEST} characters long")
    tokens: list[str] = []
    at = 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise _unreadable(text, stripped[at:].strip()[:8])
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


def _product(tokens: list[str], at: int, names: Mapping[str, float], text: str) -> tuple[float, int]:
    value, at = _atom(tokens, at, names, text)
    while at < len(tokens) and tokens[at] in "*/":
        right, after = _atom(tokens, at + 1, names, text)
        if tokens[at] == "/" and right == 0:
            raise UsageError(f"{text!r} divides by zero")
        value = value * right if tokens[at] == "*" else value / right
        at = after
    return value, at


def _atom(tokens: list[str], at: int, names: Mapping[str, float], text: str) -> tuple[float, int]:
    if at >= len(tokens):
        raise _unreadable(text, "the end")
    token = tokens[at]
    if token[0].isdigit():
        return float(token), at + 1
    if token == "sqrt" and tokens[at + 1 : at + 2] == ["("]:
        value, after = _product(tokens, at + 2, names, text)
        if tokens[after : after + 1] != [")"]:
            raise UsageError(f"{text!r}: this sqrt( is never closed")
        return sqrt(value), after + 1
    if token in names:
        return float(names[token]), at + 1
    raise _unreadable(text, token, names)


def _unreadable(text: str, token: str, names: Mapping[str, float] | None = None) -> UsageError:
    known = ", ".join(sorted(names)) if names else "names"
    return UsageError(
        f"cannot read {token!r} in {text!r}",
        fix=f"write a number, or a product or quotient of numbers, {known} and sqrt(...)",
    )
