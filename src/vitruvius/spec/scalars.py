"""Plain scalars by the core schema of YAML 1.2, narrowed to what a spec can mean.

    true false        truth values               null ~ (nothing)   no value
    7  -3  128_256    integers                   1e-3  .5  4.0      numbers with a fraction or an exponent
    no  on  1:30      strings, like everything else

Refused, because two readers would disagree about them: leading zeros (`012`), hexadecimal, octal and binary
integers, infinities and NaN, numbers of more than 20 digits, and numbers too large for a double.
Source: YAML 1.2.2, section 10.3.
"""

from __future__ import annotations

import re
from math import isinf
from typing import TYPE_CHECKING, Final

from vitruvius.errors import VitruviusError
from vitruvius.spec.reporting import printable, quoted

if TYPE_CHECKING:
    from vitruvius.spec.tree import Scalar

MAX_DIGITS: Final = 20

_WORDS: Final[dict[str, bool | None]] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_NUMBER_STARTS: Final = frozenset("+-.0123456789")
_NUMBER_LETTERS: Final = frozenset("+-.0123456789_eE")
_LONGEST_NUMBER: Final = 100
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<whole>{_DIGITS})(?P<point>\.(?:{_DIGITS})?)?|(?P<fraction>\.{_DIGITS}))"
    rf"(?P<exponent>[eE][-+]?{_DIGITS})?"
)
_OTHER_BASE = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class ScalarError(VitruviusError):
    """A plain scalar looks like a number, but not like one that every reader takes for the same."""


def read_scalar(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar; a quoted one is always a string and never comes here.

    Raises ScalarError for numbers that are refused.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if len(text) > _LONGEST_NUMBER:
        digits = _count_digits(text)
        if _NUMBER_LETTERS.issuperset(text) and digits > MAX_DIGITS:
            raise _too_many_digits(text, digits)
        return text
    number = _NUMBER.fullmatch(text)
    if number is not None:
        return _number(text, number)
    if _OTHER_BASE.fullmatch(text):
        raise ScalarError(f"{quoted(text)} is not a decimal number", fix=_decimal_of(text))
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"{quoted(text)} is not a finite number", fix="write a finite number, or leave the field out")
    return text


def _number(text: str, match: re.Match[str]) -> int | float:
    exponent = match["exponent"] or ""
    mantissa = text.removesuffix(exponent)
    # The zeros before the first digit of 0.00012 add no precision; a double never needs more than 17 digits.
    digits = max(_count_digits(mantissa.lstrip("+-0_.")), _count_digits(exponent))
    if digits > MAX_DIGITS:
        raise _too_many_digits(text, digits)
    whole = (match["whole"] or "0").replace("_", "")
    if len(whole) > 1 and whole.startswith("0"):
        without = match["sign"] + (whole.lstrip("0") or "0") + text[match.end("whole") :]
        raise ScalarError(
            f"{quoted(text)} has a leading zero, which some readers take for octal",
            fix=f'write {without}, or "{text}" if it is text',
        )
    bare = text.replace("_", "")
    if match["point"] is None and match["fraction"] is None and not exponent:
        return int(bare)
    value = float(bare)
    if isinf(value):
        raise ScalarError(f"{quoted(text)} is too large for a double", fix="the largest is about 1.8e308")
    if value == 0 and re.search(r"[1-9]", bare.lower().partition("e")[0]):
        raise ScalarError(f"{quoted(text)} is too small for a double", fix="the smallest is about 5e-324; or write 0")
    return value


def _count_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _too_many_digits(text: str, digits: int) -> ScalarError:
    return ScalarError(
        f"{quoted(text, 24)} has {digits:,} digits; a number may have {MAX_DIGITS}",
        fix="round it, or quote it if it is text",
    )


def _decimal_of(text: str) -> str:
    """The way out of a number in another base; long ones are not converted."""
    digits = text.replace("_", "")
    if len(digits) > MAX_DIGITS or digits[-1] in "xXoObB":
        return f'write it in decimal, or "{printable(text)}" if it is text'
    return f'write {int(digits, 0)}, or "{text}" if it is text'
