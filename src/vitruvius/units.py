"""Amounts: tokens, counts, bytes and money, read and printed exactly.

Three families, never mixed:

- **tokens** are powers of two, as context lengths are: k = 1,024, m = 1,024^2, and always echoed in full (`131,072`);
- **counts** (parameters, FLOPs) and **money** are decimal: K, M, B (or G), T, P, E;
- **bytes** say which they are: GB is decimal, GiB is binary.

All arithmetic is on integers and decimals. A number that someone quotes (`8B`, `16 GB`) stands for an interval, given
by the digits that are written: see `parse_quoted`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKENS = {"": 1, "k": 1024, "m": 1024**2}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}

_DECIMAL_STEPS = (("E", 10**18), ("P", 10**15), ("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
_BYTE_STEPS = (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_BINARY_STEPS = (("PiB", 1024**5), ("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))

_AMOUNT = re.compile(
    r"(?P<number>\d{1,3}(?:[,_]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<exponent>[eE]\+?\d{1,2})?\s*(?P<unit>[A-Za-z]*)",
    re.ASCII,
)
_LONGEST = 40
"""Characters of the longest amount that is read; anything longer is not an amount."""

_EXACT = Context(prec=200, rounding=ROUND_HALF_UP)

Scale = Literal["tokens", "count", "bytes"]
"""How an amount is to be read: which units it may have."""

_SCALES: Mapping[Scale, tuple[Mapping[str, int], str]] = {
    "tokens": (_TOKENS, "a whole number of tokens, such as 4096, 128k or 1m (k = 1,024)"),
    "count": (_COUNTS, "a number such as 8B, 27.76 B, 135M or 134,515,008 (K, M, B, T are decimal)"),
    "bytes": (_BYTES, "a size such as 24GB (decimal), 24GiB (binary) or 512 MB"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """A number as someone wrote it, and the half-open interval of the exact values it may stand for.

    `8B` is written to the nearest billion, so it stands for [7.5e9, 8.5e9). Trailing zeros of a number without a
    point count as written digits: `100 GB` is [99.5, 100.5) GB.
    """

    text: str
    """As it was written."""

    low: int
    """The smallest whole amount that rounds to it."""

    value: int
    """What it says, rounded to a whole amount where it says a fraction of one."""

    high: int
    """The first whole amount above `value` that no longer rounds to it."""

    def __contains__(self, amount: float) -> bool:
        """Whether `amount` rounds to what was written."""
        return self.low <= amount < self.high


def parse_tokens(text: str) -> int:
    """The number of tokens that `text` says: `4096`, `128k` (131,072), `1m` (1,048,576), `1.5k`.

    Raises UsageError where it is not a whole number of tokens, at least one.
    """
    tokens = _whole(text, "tokens")
    if tokens < 1:
        raise _unreadable(text, "tokens", "there must be at least one token")
    return tokens


def parse_count(text: str) -> int:
    """The number of parameters, FLOPs or examples that `text` says: `7B`, `27.76 B`, `134,515,008`, `1e12`.

    Raises UsageError where it is not a whole number.
    """
    return _whole(text, "count")


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` says: `24GB` (24 * 10^9), `24GiB` (24 * 2^30), `512 MB`, `4096`.

    Raises UsageError where it is not a whole number of bytes.
    """
    return _whole(text, "bytes")


def parse_quoted(text: str, scale: Scale) -> Quoted:
    """What `text` says and the interval that its written digits stand for, to hold a claim against an exact number.

    Raises UsageError where `text` is not an amount of that scale.
    """
    number, step = _amount(text, scale)
    half = Fraction(step) / 2
    return Quoted(
        text=text.strip(), low=max(0, _up(number - half)), value=_up(number - Fraction(1, 2)), high=_up(number + half)
    )


def exact(amount: int) -> str:
    """Every digit: `8,030,261,248`."""
    return f"{amount:,}"


def format_tokens(tokens: int) -> str:
    """Every digit, as token counts are always echoed: `131,072`."""
    return exact(tokens)


def format_count(amount: float) -> str:
    """Parameters or FLOPs to four digits: `27.76 B`, `134.5 M`, `999`."""
    return _scaled(amount, _DECIMAL_STEPS, "")


def format_bytes(amount: float) -> str:
    """Bytes to four digits, decimal: `55.52 GB`, `999 B`."""
    return _scaled(amount, _BYTE_STEPS, "B")


def format_binary_bytes(amount: float) -> str:
    """Bytes to four digits, binary: `51.71 GiB`, `1,023 B`."""
    return _scaled(amount, _BINARY_STEPS, "B")


def format_money(dollars: float) -> str:
    """Dollars: to the cent below a thousand, to four digits above (`$12.50`, `$1,234`, `$3.10 M`); never `$0.00`
    for what costs something.
    """
    amount = Decimal(dollars)
    if abs(amount) >= 10**6:
        return f"${_scaled(dollars, _DECIMAL_STEPS, '')}"
    if abs(amount) >= 1000:
        return f"${amount:,.0f}"
    if amount == 0 or abs(amount) >= Decimal("0.01"):
        return f"${amount:,.2f}"
    return f"${_significant(amount, 2)}"


# ----------------------------------------------------------------------------------------------------------------------


def _amount(text: str, scale: Scale) -> tuple[Fraction, Fraction]:
    """The number that `text` says, and the worth of one unit in its last written digit."""
    units, _ = _SCALES[scale]
    match = _AMOUNT.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise _unreadable(text, scale, "not a number with a unit")
    unit = match["unit"].lower()
    if unit not in units:
        raise _unreadable(text, scale, f"unknown unit {match['unit']!r}")
    digits = match["number"].replace(",", "").replace("_", "")
    power = int(match["exponent"].lstrip("eE+")) if match["exponent"] else 0
    decimals = len(digits.partition(".")[2])
    worth = Fraction(units[unit]) * 10**power
    return Fraction(digits) * worth, worth / 10**decimals


def _whole(text: str, scale: Scale) -> int:
    number, _ = _amount(text, scale)
    if number.denominator != 1:
        raise _unreadable(text, scale, f"{text.strip()} is not a whole number")
    return number.numerator


def _unreadable(text: str, scale: Scale, why: str) -> UsageError:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return UsageError(f"cannot read {shown!r}: {why}", fix=f"write {_SCALES[scale][1]}")


def _up(number: Fraction) -> int:
    """The smallest whole number that is not below `number`."""
    return -(-number.numerator // number.denominator)


def _scaled(amount: float, steps: tuple[tuple[str, int], ...], unit: str) -> str:
    """`amount` to four digits, in the largest of `steps` of which it is at least one once rounded."""
    number = Decimal(amount)
    for name, worth in steps:
        shown = _four_digits(_EXACT.divide(number, Decimal(worth)))
        if abs(shown) >= 1:
            return f"{shown:,} {name}"
    return f"{_plain(number)} {unit}".rstrip()


def _four_digits(number: Decimal) -> Decimal:
    places = max(0, 3 - number.adjusted())
    rounded = number.quantize(Decimal(1).scaleb(-places), context=_EXACT)
    if rounded.adjusted() > number.adjusted() and places:
        rounded = rounded.quantize(Decimal(1).scaleb(1 - places), context=_EXACT)
    return rounded


def _plain(number: Decimal) -> str:
    if number == number.to_integral_value():
        return f"{int(number):,}"
    return f"{_significant(number, 4)}"


def _significant(number: Decimal, digits: int) -> str:
    rounded = Context(prec=digits, rounding=ROUND_HALF_UP).plus(number)
    return f"{rounded:f}"
