"""After how many positions a condition repeats, proved from its form.

Three repetitions matter for counting: along a row (k alone moves on), along a column (q alone) and along the diagonals
(both). `q // 64 - k // 64 <= 1` repeats along the diagonals every 64 positions, `k % 7 < 3` along rows every 7, and
whatever depends on q - k alone repeats along the diagonals every position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import gcd, lcm
from typing import TYPE_CHECKING

from vitruvius.patterns.expressions import Comparison, Condition, Junction, Number, Operation, Truth, Variable, Whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Move = tuple[int, int]
"""By how much q and k move on in one step."""

ROW: Move = (0, 1)
COLUMN: Move = (1, 0)
DIAGONAL: Move = (1, 1)


@dataclass(frozen=True, slots=True)
class _Rise:
    """Every `steps` steps a number grows by exactly `growth`."""

    steps: int
    growth: int

    def over(self, steps: int) -> int:
        """The growth in a multiple of the steps."""
        return steps // self.steps * self.growth


@cache
def period(condition: Condition, move: Move) -> int | None:
    """A number of steps after which the condition has the same value wherever it starts, or None when none is proved.

    Not always the least one.
    """
    if isinstance(condition, Truth):
        return 1
    if isinstance(condition, Junction):
        return _common(period(term, move) for term in condition.terms)
    return _of_comparison(condition, move)


def _of_comparison(node: Comparison, move: Move) -> int | None:
    left, right = _rise(node.left, move), _rise(node.right, move)
    if left is None or right is None:
        return None
    steps = lcm(left.steps, right.steps)
    return steps if left.over(steps) == right.over(steps) else None


def _common(periods: Iterable[int | None]) -> int | None:
    found = list(periods)
    known = [steps for steps in found if steps is not None]
    return lcm(*known) if len(known) == len(found) else None


@cache
def _rise(node: Whole, move: Move) -> _Rise | None:
    """How a number grows along a move, where it does so evenly."""
    match node:
        case Number():
            return _Rise(1, 0)
        case Variable():
            return _Rise(1, move[node.name == "k"])
        case Operation("%", (number, Number(divisor))):
            return _of_remainder(number, divisor, move)
        case Operation("//", (number, Number(divisor))):
            return _of_quotient(number, divisor, move)
        case Operation(">>", (number, Number(shift))):
            return _of_quotient(number, 1 << shift, move)
        case Operation("bitand", (number, Number(mask))) if mask >= 0 and mask & (mask + 1) == 0:
            return _of_remainder(number, mask + 1, move)
        case Operation():
            return _of_terms(node, [_rise(term, move) for term in node.terms])


def _of_terms(node: Operation, rises: Sequence[_Rise | None]) -> _Rise | None:
    known = [rise for rise in rises if rise is not None]
    if len(known) < len(rises):
        return None
    steps = lcm(*(rise.steps for rise in known))
    growths = [rise.over(steps) for rise in known]
    match node.operator:
        case "+":
            return _Rise(steps, growths[0] + growths[1])
        case "-":
            return _Rise(steps, growths[0] - growths[1])
        case "min" | "max" if len(set(growths)) == 1:
            return _Rise(steps, growths[0])
        case "*" | "<<" if not any(growths):
            return _Rise(steps, 0)
        case "*":
            for number, growth in ((node.terms[0], growths[1]), (node.terms[1], growths[0])):
                if isinstance(number, Number):
                    return _Rise(steps, number.value * growth)
            return None
        case "<<" if isinstance(shift := node.terms[1], Number):
            return _Rise(steps, growths[0] << shift.value)
        case _:  # any function of numbers that repeat repeats with them
            return None if any(growths) else _Rise(steps, 0)


def _of_quotient(number: Whole, divisor: int, move: Move) -> _Rise | None:
    rise = _rise(number, move)
    if rise is None:
        return None
    times = abs(divisor) // gcd(divisor, rise.growth)
    return _Rise(rise.steps * times, rise.growth * times // divisor)


def _of_remainder(number: Whole, divisor: int, move: Move) -> _Rise | None:
    steps = _steps_to_multiple(number, abs(divisor), move)
    return None if steps is None else _Rise(steps, 0)


def _steps_to_multiple(node: Whole, divisor: int, move: Move) -> int | None:
    """Steps in which a number grows by some multiple of `divisor`, not always the same one."""
    rise = _rise(node, move)
    if rise is not None:
        return rise.steps * (divisor // gcd(divisor, rise.growth))
    match node:
        case Operation("+" | "-" | "*", terms):
            return _common(_steps_to_multiple(term, divisor, move) for term in terms)
        case Operation("//", (number, Number(by))):
            return _steps_to_multiple(number, divisor * abs(by), move)
        case Operation(">>", (number, Number(shift))):
            return _steps_to_multiple(number, divisor << shift, move)
        case Operation("<<", (number, Number(shift))):
            return _steps_to_multiple(number, divisor // gcd(divisor, 1 << shift), move)
        case _:
            return None


def granules(condition: Condition) -> tuple[int, ...]:
    """The divisors in a condition, the greatest first: borders at their multiples are where it changes."""
    return tuple(sorted(set(_divisors(condition)), reverse=True))


def _divisors(node: Whole | Condition) -> Iterable[int]:
    match node:
        case Operation("//" | "%", (number, Number(divisor))):
            yield from (abs(divisor), *_divisors(number)) if abs(divisor) > 1 else _divisors(number)
        case Operation(">>", (number, Number(shift))):
            yield from (1 << shift, *_divisors(number))
        case Operation(_, terms) | Junction(_, terms):
            for term in terms:
                yield from _divisors(term)
        case Comparison():
            yield from (*_divisors(node.left), *_divisors(node.right))
        case _:
            return


__all__ = ["COLUMN", "DIAGONAL", "ROW", "Move", "granules", "period"]
