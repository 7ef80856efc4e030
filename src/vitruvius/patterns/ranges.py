"""What values a number in a condition can take, and linear bounds on it: how a condition limits distances and keys."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.expressions import (
    DEEPEST,
    MOST_NODES,
    Comparison,
    Condition,
    Number,
    Operation,
    Truth,
    Variable,
    Whole,
    computed,
    operation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_POSITION: Final = 2**31 - 1
"""Conditions are held to be right for positions up to this one."""
LARGEST_NUMBER: Final = 2**62
"""Numbers on the way stay below this, so that arrays of 64-bit positions never overflow."""
_FARTHEST_SHIFT: Final = 62


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from low to high, both included."""

    low: int
    high: int


POSITIONS: Final = Range(0, LAST_POSITION)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number in a condition with the values it can take, its size and its depth."""

    node: Whole
    range: Range
    size: int = 1
    depth: int = 1


def bounded(name: str, *terms: Bounded) -> Bounded:
    """An operation on numbers whose ranges are known.

    Raises PatternError for a division that may be by zero, numbers that may not fit 64 bits, and conditions past
    the limits of size and depth.
    """
    size, depth = 1 + sum(term.size for term in terms), 1 + max(term.depth for term in terms)
    if size > MOST_NODES:
        raise PatternError(f"the condition has more than {MOST_NODES:,} parts", fix="write a shorter condition")
    if depth > DEEPEST:
        raise PatternError(f"more than {DEEPEST} operations stand inside each other", fix="nest less")
    if name in {"//", "%"} and terms[1].range.low <= 0 <= terms[1].range.high:
        what = "a division by zero" if terms[1].range == Range(0, 0) else "the divisor may be zero"
        raise PatternError(what, fix="divide by a number above 0, or by max(..., 1)")
    if name in {"<<", ">>"} and not 0 <= terms[1].range.low <= terms[1].range.high <= _FARTHEST_SHIFT:
        raise PatternError("a shift by a number that may lie outside 0 to 62", fix="shift by a constant")
    found = range_of(name, [term.range for term in terms])
    if max(-found.low, found.high) >= LARGEST_NUMBER:
        raise PatternError(
            "the numbers grow past 2**62 within 2**31 positions",
            fix="take remainders before multiplying, e.g. (q % 97) * (k % 97)",
        )
    return Bounded(operation(name, *(term.node for term in terms)), found, size, depth)


def range_of(name: str, terms: Sequence[Range]) -> Range:
    """The values that an operation can take on numbers within these ranges; divisors do not span zero."""
    a = terms[0]
    match name:
        case "+":
            return Range(a.low + terms[1].low, a.high + terms[1].high)
        case "-":
            return Range(a.low - terms[1].high, a.high - terms[1].low)
        case "abs":
            return Range(max(a.low, -a.high, 0), max(-a.low, a.high))
        case "min":
            return Range(min(term.low for term in terms), min(term.high for term in terms))
        case "max":
            return Range(max(term.low for term in terms), max(term.high for term in terms))
        case "%":
            return _remainders(a, terms[1])
        case "bitand" | "bitor" | "bitxor":
            return _bits(name, a, terms[1])
        case _:  # monotone in each term: products, quotients and shifts have their extremes at the corners
            corners = [computed(name, x, y) for x in (a.low, a.high) for y in (terms[1].low, terms[1].high)]
            return Range(min(corners), max(corners))


def _remainders(number: Range, divisor: Range) -> Range:
    if divisor.low == divisor.high and number.low // divisor.low == number.high // divisor.low:
        return Range(*sorted((number.low % divisor.low, number.high % divisor.low)))
    if divisor.low > 0:
        return Range(0, min(divisor.high - 1, number.high)) if number.low >= 0 else Range(0, divisor.high - 1)
    return Range(divisor.low + 1, 0)


def _bits(name: str, a: Range, b: Range) -> Range:
    bits = max(x.bit_length() for x in (a.low, a.high, b.low, b.high))
    if min(a.low, b.low) < 0:
        return Range(-(1 << bits), (1 << bits) - 1)
    return Range(0, min(a.high, b.high)) if name == "bitand" else Range(0, (1 << bits) - 1)


def within(node: Whole, q: Range, k: Range) -> Range:
    """The values of a number for q and k within these ranges; may be wider than needed, never narrower."""
    match node:
        case Number():
            return Range(node.value, node.value)
        case Variable():
            return q if node.name == "q" else k
        case Operation("-", (Variable("q"), Variable("k"))):
            return Range(q.low - k.high, q.high - k.low)
        case Operation():
            return range_of(node.operator, [within(term, q, k) for term in node.terms])


def known(condition: Condition, q: Range, k: Range) -> bool | None:
    """Whether the condition holds everywhere (True) or nowhere (False) within these ranges; None when not known."""
    if isinstance(condition, Truth):
        return condition.value
    if isinstance(condition, Comparison):
        return decided(condition.operator, within(condition.left, q, k), within(condition.right, q, k))
    decisive = condition.operator == "|"
    open_terms = False
    for term in condition.terms:
        found = known(term, q, k)
        if found is decisive:
            return decisive
        open_terms = open_terms or found is None
    return None if open_terms else not decisive


def decided(name: str, a: Range, b: Range) -> bool | None:
    """The outcome of a comparison of any numbers in two ranges, or None when it depends on them."""
    match name:
        case "<":
            return True if a.high < b.low else False if a.low >= b.high else None
        case "<=":
            return True if a.high <= b.low else False if a.low > b.high else None
        case ">" | ">=":
            return decided("<" if name == ">" else "<=", b, a)
        case _:
            if a.high < b.low or b.high < a.low:
                return name == "!="
            return name == "==" if a.low == a.high == b.low == b.high else None


# ----------------------------------------------------------------------------------------------------------------------
# Linear bounds


@dataclass(frozen=True, slots=True)
class Linear:
    """query * q + key * k + constant."""

    query: Fraction = Fraction(0)
    key: Fraction = Fraction(0)
    constant: Fraction = Fraction(0)

    def __add__(self, other: Linear) -> Linear:
        """Their sum."""
        return Linear(self.query + other.query, self.key + other.key, self.constant + other.constant)

    def times(self, factor: Fraction | int) -> Linear:
        """The product with a number."""
        return Linear(self.query * factor, self.key * factor, self.constant * factor)

    @property
    def is_constant(self) -> bool:
        """Whether it depends on neither position."""
        return not (self.query or self.key)


Bounds = tuple[Linear | None, Linear | None]
"""A linear function below a number everywhere, and one above; None where none is known."""


def linear_bounds(node: Whole) -> Bounds:
    """Linear functions of q and k between which a number lies for all positions from 0 on."""
    match node:
        case Number():
            return (constant := Linear(constant=Fraction(node.value))), constant
        case Variable():
            return (line := Linear(query=Fraction(node.name == "q"), key=Fraction(node.name == "k"))), line
        case Operation():
            low, high = _bounds_of(node)
    found = within(node, POSITIONS, POSITIONS)
    # A range that comes from 2**31 positions is no bound at all; one that does not is as good as a line.
    if low is None and found.low > -LAST_POSITION:
        low = Linear(constant=Fraction(found.low))
    if high is None and found.high < LAST_POSITION:
        high = Linear(constant=Fraction(found.high))
    return low, high


def _bounds_of(node: Operation) -> Bounds:
    terms = [linear_bounds(term) for term in node.terms]
    low, high = terms[0]
    match node.operator:
        case "+":
            return _sum(low, terms[1][0]), _sum(high, terms[1][1])
        case "-":
            return _sum(low, _times(terms[1][1], -1)), _sum(high, _times(terms[1][0], -1))
        case "*":
            for number, other in ((node.terms[0], terms[1]), (node.terms[1], terms[0])):
                if isinstance(number, Number):
                    return _scaled(other, Fraction(number.value))
        case "//" if isinstance(divisor := node.terms[1], Number):
            below, above = _scaled(terms[0], Fraction(1, divisor.value))
            slack = Linear(constant=Fraction(1 - abs(divisor.value), abs(divisor.value)))
            return _sum(below, slack), above
        case ">>" if isinstance(shift := node.terms[1], Number):
            below, above = _scaled(terms[0], Fraction(1, 1 << shift.value))
            return _sum(below, Linear(constant=Fraction(1 - (1 << shift.value), 1 << shift.value))), above
        case "<<" if isinstance(shift := node.terms[1], Number):
            return _scaled(terms[0], Fraction(1 << shift.value))
        case "max":
            return _common(terms, 0) or next((low for low, _ in terms if low is not None), None), _common(terms, 1)
        case "min":
            return _common(terms, 0), _common(terms, 1) or next((high for _, high in terms if high is not None), None)
        case "abs":
            return low, None
        case _:
            pass
    return None, None


def _common(terms: Sequence[Bounds], side: int) -> Linear | None:
    """The outermost bound of several that rise alike."""
    bounds = [bound for term in terms if (bound := term[side]) is not None]
    if len(bounds) < len(terms) or len({(bound.query, bound.key) for bound in bounds}) > 1:
        return None
    return (max if side else min)(bounds, key=lambda bound: bound.constant)


def _sum(a: Linear | None, b: Linear | None) -> Linear | None:
    return None if a is None or b is None else a + b


def _times(line: Linear | None, factor: Fraction | int) -> Linear | None:
    return None if line is None else line.times(factor)


def _scaled(bounds: Bounds, factor: Fraction) -> Bounds:
    low, high = (_times(bound, factor) for bound in bounds)
    return (low, high) if factor >= 0 else (high, low)


def least_distance(line: Linear) -> int:
    """The least q - k at which `line` can be 0 or more, for positions from 0 on; -FOREVER when there is none."""
    query, key, constant = line.query, line.key, line.constant
    if query + key > 0:
        return -FOREVER
    # The line is (query + key) q - key d + constant, because k = q - d, and (query + key) k + query d + constant.
    slopes = [slope for slope in (query, -key) if slope > 0]
    return max((-(constant // slope) for slope in slopes), default=-FOREVER)


__all__ = [
    "LAST_POSITION",
    "POSITIONS",
    "Bounded",
    "Bounds",
    "Linear",
    "Range",
    "bounded",
    "decided",
    "known",
    "least_distance",
    "linear_bounds",
    "range_of",
    "within",
]
