"""Amounts as a hardware file writes them: always with their unit, so that no unit can be mistaken for another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BYTES = {f"{letter}B": worth for letter, worth in _DECIMAL.items()} | {
    f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)
}
_NUMBER = re.compile(r"(\$?)\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,15}(?:\.\d{1,12})?)(?![\d.eE])\s*(.*)", re.ASCII)
_LONGEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One kind of amount: its units, an example, and the range outside which it must be a mistake."""

    what: str
    units: Mapping[str, Fraction]
    example: str
    low: float
    high: float

    def read(self, value: object) -> Fraction:
        """The amount in the base unit. Raises ValueError saying what is wrong."""
        if not isinstance(value, str):
            message = f"{_shown(value)} is not {self.what} with its unit"
            raise ValueError(message)  # noqa: TRY004 (one kind of error for all that is wrong with a file)
        match = _NUMBER.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        if match is None:
            message = f"cannot read {_shown(value)} as {self.what}"
            raise ValueError(message)
        unit = match[1] + match[3].strip()
        if unit not in self.units:
            why = "has no unit" if not unit else f"has the unit {unit!r}"
            bits = "; a byte is 8 bits" if "bit" in unit.lower() or unit in {"Gb", "Gb/s", "Tb/s"} else ""
            message = f"{_shown(value)} {why}, where {self.what} is due{bits}"
            raise ValueError(message)
        amount = Fraction(match[2].replace(",", "")) * self.units[unit]
        if not self.low <= amount <= self.high:
            message = (
                f"{_shown(value)} is beyond what any device has ({self.what} from {self.low:.3g} to {self.high:.3g})"
            )
            raise ValueError(message)
        return amount

    @property
    def fix(self) -> str:
        """The way out of whatever was wrong."""
        return f'write it like "{self.example}"'


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fractions(units: Mapping[str, int]) -> dict[str, Fraction]:
    return {unit: Fraction(worth) for unit, worth in units.items()}


MEMORY = Measure(
    what="an amount of memory", units=_fractions(_BYTES), example="24 GiB", low=64 * 1024**2, high=64 * 1024**4
)
RESERVED = Measure(what="an amount of memory", units=_fractions(_BYTES), example="512 MiB", low=0, high=64 * 1024**4)
RATE = Measure(
    what="bytes per second",
    units=_fractions({f"{unit}/s": worth for unit, worth in _BYTES.items()}),
    example="1008 GB/s",
    low=1e8,
    high=1e15,
)
FLOPS = Measure(
    what="operations per second",
    units=_fractions({f"{p}{op}/s": w for p, w in _DECIMAL.items() for op in ("FLOP", "OP")}),
    example="165.2 TFLOP/s",
    low=1e9,
    high=1e18,
)
POWER = Measure(what="power", units={"W": Fraction(1), "kW": Fraction(1000)}, example="450 W", low=1, high=1e5)
PRICE = Measure(what="a price in US dollars", units={"$": Fraction(1)}, example="$1,599", low=1, high=1e7)
RENT = Measure(what="a price in US dollars an hour", units={"$/h": Fraction(1)}, example="$2.69/h", low=1e-3, high=1e4)
