"""Numbers in a condition as sums: which multiples of which parts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING

from vitruvius.patterns.expressions import (
    Comparison,
    Condition,
    K,
    Number,
    Operation,
    Q,
    Variable,
    Whole,
    comparison,
    operation,
    rebuilt,
)
from vitruvius.patterns.ranges import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Sum:
    """A number as multiples of units (q, k, and whatever is not a sum itself) and a constant."""

    units: Mapping[Whole, int]
    constant: int

    @staticmethod
    def of(node: Whole) -> Sum:
        """A number taken apart."""
        match node:
            case Number():
                return Sum({}, node.value)
            case Operation("+", (left, right)):
                return Sum.of(left).plus(Sum.of(right), 1)
            case Operation("-", (left, right)):
                return Sum.of(left).plus(Sum.of(right), -1)
            case Operation("*", (Number() as factor, other)) | Operation("*", (other, Number() as factor)):
                return Sum({}, 0).plus(Sum.of(other), factor.value)
            case _:
                return Sum({node: 1}, 0)

    def plus(self, other: Sum, factor: int) -> Sum:
        """This sum and a multiple of another."""
        units = dict(self.units)
        for unit, times in other.units.items():
            units[unit] = units.get(unit, 0) + factor * times
        kept = {unit: times for unit, times in units.items() if times}
        return Sum(kept, self.constant + factor * other.constant)

    def times(self, factor: int) -> Sum:
        """A multiple of this sum."""
        return Sum({}, 0).plus(self, factor)

    def less(self, number: int) -> Sum:
        """This sum without a number."""
        return Sum(self.units, self.constant - number)

    @property
    def line(self) -> Linear | None:
        """The sum as a linear function of q and k, where it is one."""
        if any(not isinstance(unit, Variable) for unit in self.units):
            return None
        return Linear(Fraction(self.units.get(Q, 0)), Fraction(self.units.get(K, 0)), Fraction(self.constant))

    @property
    def node(self) -> Whole:
        """The sum as a number in a condition."""
        terms = [unit if times == 1 else operation("*", unit, Number(times)) for unit, times in self.units.items()]
        if self.constant or not terms:
            terms.append(Number(self.constant))
        return reduce(lambda a, b: operation("+", a, b), terms)


def simplified(condition: Condition) -> Condition:
    """The condition with sums in which equal terms cancel: `q // 8 - q // 8 <= 1` always holds."""

    def change(node: Comparison) -> Condition:
        return comparison(node.operator, _cancelled(operation("-", node.left, node.right)), Number(0))

    return rebuilt(condition, change)


def _cancelled(node: Whole) -> Whole:
    if not isinstance(node, Operation):
        return node
    return Sum.of(operation(node.operator, *map(_cancelled, node.terms))).node


__all__ = ["Sum", "simplified"]
