"""Formulas from code: the same methods that count with numbers are run with names in place of them.

    heads, width = Symbol.named("heads"), Symbol.named("width")
    str(2 * width * (heads + 1))          # '2*heads*width + 2*width'

A symbol is a sum of products of named numbers above one, whole powers of them included. What it cannot say (a choice by
size, a rounding up) raises `NotClosedError`, and the formula is left out rather than wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Powers = tuple[tuple[str, int], ...]
"""Names with their exponents, in alphabetical order."""


class NotClosedError(ArithmeticError):
    """The code chose by size or rounded, which no sum of products says."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A sum of products of named numbers, for which it stands in arithmetic. Source of each operation: algebra."""

    terms: tuple[tuple[Powers, Fraction], ...]
    """(product, coefficient), sorted, without zeros."""

    @classmethod
    def named(cls, name: str) -> Symbol:
        """A positive number known by its name alone."""
        return cls(terms=((((name, 1),), Fraction(1)),))

    @classmethod
    def of(cls, value: Any) -> Symbol:
        """A number as a symbol. Raises NotClosedError for what is no whole number or fraction."""
        if isinstance(value, cls):
            return value
        if isinstance(value, (int, Fraction)):
            return _sum({(): Fraction(value)})
        raise NotClosedError(value)

    def at(self, values: Mapping[str, int]) -> Fraction:
        """Its value where the names have these values."""
        total = Fraction(0)
        for powers, coefficient in self.terms:
            product = coefficient
            for name, exponent in powers:
                product *= Fraction(values[name]) ** exponent
            total += product
        return total

    @property
    def names(self) -> frozenset[str]:
        """What it is made of."""
        return frozenset(name for powers, _ in self.terms for name, _ in powers)

    def __add__(self, other: Any) -> Symbol:
        found = dict(self.terms)
        for powers, coefficient in Symbol.of(other).terms:
            found[powers] = found.get(powers, Fraction(0)) + coefficient
        return _sum(found)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Symbol:
        found: dict[Powers, Fraction] = {}
        for left, a in self.terms:
            for right, b in Symbol.of(other).terms:
                powers = _product(left, right)
                found[powers] = found.get(powers, Fraction(0)) + a * b
        return _sum(found)

    __rmul__ = __mul__

    def __neg__(self) -> Symbol:
        return self * -1

    def __sub__(self, other: Any) -> Symbol:
        return self + -Symbol.of(other)

    def __rsub__(self, other: Any) -> Symbol:
        return Symbol.of(other) - self

    def __pow__(self, exponent: float) -> Any:
        """A whole power; a root is no number, as bounds of first weights are none."""
        if not isinstance(exponent, int) or exponent < 0:
            return nan
        found = Symbol.of(1)
        for _ in range(exponent):
            found *= self
        return found

    def __truediv__(self, other: Any) -> Symbol:
        divisor = Symbol.of(other)
        if len(divisor.terms) != 1:
            raise NotClosedError(str(divisor))
        powers, coefficient = divisor.terms[0]
        inverse = tuple((name, -exponent) for name, exponent in powers)
        return self * _sum({inverse: 1 / coefficient})

    def __rtruediv__(self, other: Any) -> Symbol:
        return Symbol.of(other) / self

    def __floordiv__(self, other: Any) -> Symbol:
        """Division: dimensions of valid specs divide where code divides them."""
        return self / other

    def __rfloordiv__(self, other: Any) -> Symbol:
        return Symbol.of(other) // self

    def __mod__(self, other: Any) -> int:
        """Nothing is left over: specs in which it were would have been refused."""
        del other
        return 0

    def __bool__(self) -> bool:
        return True

    def __gt__(self, other: Any) -> bool:
        """A named number is above one: formulas are of the general case. Larger ones cannot be compared."""
        if isinstance(other, int) and other <= 1 and all(coefficient > 0 for _, coefficient in self.terms):
            return True
        raise NotClosedError(f"{self} > {other}")

    __ge__ = __gt__

    def __lt__(self, other: Any) -> bool:
        return not self > other

    __le__ = __lt__

    def __int__(self) -> int:
        raise NotClosedError(str(self))

    __index__ = __round__ = __ceil__ = __floor__ = __int__  # type: ignore[assignment]

    def __float__(self) -> float:
        """No number: bounds of first weights may be made of it, counts may not."""
        return nan

    def __str__(self) -> str:
        """As one writes it: `2*heads*width + 4*width`, the products of most names first."""
        if not self.terms:
            return "0"
        ordered = sorted(self.terms, key=lambda term: (-sum(abs(e) for _, e in term[0]), term[0]))
        text = " + ".join(_written(powers, coefficient) for powers, coefficient in ordered)
        return text.replace("+ -", "- ")


def _sum(found: Mapping[Powers, Fraction]) -> Symbol:
    return Symbol(terms=tuple(sorted((powers, c) for powers, c in found.items() if c)))


def _product(left: Powers, right: Powers) -> Powers:
    exponents = dict(left)
    for name, exponent in right:
        exponents[name] = exponents.get(name, 0) + exponent
    return tuple(sorted((name, exponent) for name, exponent in exponents.items() if exponent))


def _written(powers: Powers, coefficient: Fraction) -> str:
    above = [name if e == 1 else f"{name}^{e}" for name, e in powers if e > 0]
    below = [name if e == -1 else f"{name}^{-e}" for name, e in powers if e < 0]
    sign = "-" if coefficient < 0 else ""
    number = abs(coefficient)
    if number.numerator != 1 or not above:
        above.insert(0, f"{number.numerator:,}")
    if number.denominator != 1:
        below.insert(0, f"{number.denominator:,}")
    under = f"/({'*'.join(below)})" if len(below) > 1 else f"/{below[0]}" if below else ""
    return f"{sign}{'*'.join(above)}{under}"
