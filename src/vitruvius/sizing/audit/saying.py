"""What a claim says, as numbers: `~16 GB`, `<2x`, `60-70 %`, `30 tokens/s`, `$1,000`.

A number stands for the interval that its written digits leave open: `8B` is [7.5e9, 8.5e9). A range has the low end of
its first number and the high end of its second. `<`, `at most`, `under` and their likes leave one side open.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Literal

from vitruvius.errors import UsageError
from vitruvius.units import Scale, parse_quoted

Kind = Literal["tokens", "count", "bytes", "factor", "percent", "rate", "dollars", "yes-no", "number"]
"""How the number of a topic is written."""

_BOUNDS = {
    "<": "below",
    "<=": "below",
    "at most": "below",
    "under": "below",
    "less than": "below",
    "up to": "below",
    ">": "above",
    ">=": "above",
    "at least": "above",
    "over": "above",
    "more than": "above",
}
_PREFIX = re.compile(
    r"(?P<bound><=|>=|<|>|at most|under|less than|up to|at least|over|more than)?\s*[~≈]?\s*(?P<rest>.+)"
)
_NUMBER = re.compile(r"\$?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
_RANGE = re.compile(r"(?P<first>[\d.,]+)\s*(?:-|to|–)\s*(?P<second>[\d.,]+)(?P<unit>\D*)")
_UNITS: dict[str, re.Pattern[str]] = {
    "factor": re.compile(r"\s*(?:x|×|X|times)?"),
    "percent": re.compile(r"\s*(?:%|percent)"),
    "rate": re.compile(r"\s*(?:tokens?|tok)\s*/\s*s(?:ec(?:ond)?)?|\s*tokens? per second"),
    "dollars": re.compile(r"\s*(?P<worth>[kKmM]?)\s*(?:dollars|USD)?"),
    "number": re.compile(r"\s*"),
}
_EXAMPLES: dict[Kind, str] = {
    "factor": "a factor such as 8x, <2x or 3-4x",
    "percent": "a percentage such as 75 % or 60-70 %",
    "rate": "a rate such as 30 tokens/s",
    "dollars": "dollars such as $1,000 or 2k",
    "number": "a number such as 1707 or <1e-3",
    "yes-no": "yes or no",
}
_SCALES: dict[Kind, Scale] = {"tokens": "tokens", "count": "count", "bytes": "bytes"}
_LONGEST = 60
_WORTH = {"": 1.0, "k": 1e3, "m": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The numbers that a claim stands for: from `low` up to and without `high`."""

    text: str
    low: float
    high: float

    def __contains__(self, amount: float) -> bool:
        """Whether an amount rounds to what was said, or lies within its bound."""
        return self.low <= amount < self.high

    @property
    def interval(self) -> str:
        """As messages show it."""
        if self.low == -inf:
            return f"below {self.high:,.6g}"
        return f"{self.low:,.6g} or more" if self.high == inf else f"from {self.low:,.6g} to below {self.high:,.6g}"


def parse_said(text: str, kind: Kind) -> Said:
    """The numbers that `text` says of a topic of that kind.

    Raises UsageError, with what to write, where it says none or one in other units.
    """
    if kind == "yes-no":
        return _yes_no(text)
    match = _PREFIX.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise _unreadable(text, kind)
    bound = _BOUNDS.get(match["bound"] or "")
    low, high = _interval(match["rest"].strip(), kind, text)
    if bound == "below":
        return Said(text=text, low=-inf, high=_middle(low, high))
    if bound == "above":
        return Said(text=text, low=_middle(low, high), high=inf)
    return Said(text=text, low=low, high=high)


def _middle(low: float, high: float) -> float:
    """The number itself, from the interval that its digits leave open."""
    return (low + high) / 2


def _yes_no(text: str) -> Said:
    words = {"yes": 1.0, "fits": 1.0, "true": 1.0, "no": 0.0, "does not fit": 0.0, "false": 0.0}
    value = words.get(text.strip().lower()[:_LONGEST])
    if value is None:
        raise _unreadable(text, "yes-no")
    return Said(text=text, low=value, high=value + 0.5)


def _interval(text: str, kind: Kind, whole: str) -> tuple[float, float]:
    between = _RANGE.fullmatch(text)
    if between is not None:
        first, second = (f"{between[name]}{between['unit']}" for name in ("first", "second"))
        low, high = _one(first, kind, whole)[0], _one(second, kind, whole)[1]
        if low < high:
            return low, high
        raise _unreadable(whole, kind)
    return _one(text, kind, whole)


def _one(text: str, kind: Kind, whole: str) -> tuple[float, float]:
    scale = _SCALES.get(kind)
    if scale is not None:
        quoted = parse_quoted(text, scale)
        return float(quoted.low), float(quoted.high)
    match = _NUMBER.match(text)
    unit = None if match is None else _UNITS[kind].fullmatch(text[match.end() :])
    if match is None or unit is None:
        raise _unreadable(whole, kind)
    digits = match[1].replace(",", "")
    worth = 10.0 ** int(match[2] or 0) * _WORTH[(unit.groupdict().get("worth") or "").lower()]
    decimals = len(digits.partition(".")[2])
    half = worth / 10**decimals / 2
    value = float(digits) * worth
    share = 0.01 if kind == "percent" else 1.0
    return (value - half) * share, (value + half) * share


def _unreadable(text: str, kind: Kind) -> UsageError:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    example = _EXAMPLES.get(kind, "an amount with its unit")
    return UsageError(f"{shown!r} cannot be read as what this topic is about", fix=f"write {example}")
