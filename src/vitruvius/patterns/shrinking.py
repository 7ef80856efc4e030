"""Own conditions of a smaller size and the same looks: the numbers that measure positions are divided.

`q // 4096 - k // 4096 <= 1` shrinks to `q // 64 - k // 64 <= 1`: 4,096 divides a position, and 1 is held against a
number of blocks. A condition in which that is not plain is looked at from further away instead, every so many
positions; and one that would lose its sense is kept.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.expressions import (
    Comparison,
    Condition,
    K,
    Number,
    Operation,
    Q,
    Truth,
    Variable,
    Whole,
    at,
    comparison,
    operation,
    rebuilt,
    text_of,
    value,
)
from vitruvius.patterns.normalising import pattern_of
from vitruvius.patterns.text import parse
from vitruvius.patterns.tokens import WHERE

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT, _POSITIONS = 0, 1
_LEAST: Final = 2
_LOOKED_AT: Final = 48
"""Rows that are compared to tell whether a smaller condition lost its sense."""


class _UnclearError(Exception):
    """It is not plain which numbers measure positions."""


def where(condition: Condition) -> str:
    """The condition as a term of a pattern text."""
    return f"{WHERE}({text_of(condition)})"


def smaller_condition(condition: Condition, factor: float) -> Condition:
    """The condition with windows, blocks and periods about `factor` times shorter, as far as that makes sense."""
    for candidate in _candidates(condition, factor):
        if isinstance(candidate, Truth) or not _makes_sense(candidate, condition):
            continue
        return candidate
    return condition


def _candidates(condition: Condition, factor: float) -> Iterator[Condition]:
    with suppress(_UnclearError, PatternError):
        yield rebuilt(condition, lambda node: _scaled_comparison(node, factor))
    step = Number(max(1, round(factor)))
    if step.value > 1:
        yield at(condition, operation("*", Q, step), operation("*", K, step))


def _makes_sense(smaller: Condition, condition: Condition) -> bool:
    """Whether it is as causal as before, no query that read something reads nothing, and its text can be read."""
    try:
        before, after = pattern_of(condition), parse(where(smaller))
    except PatternError:
        return False
    if not after.clauses or (before.is_causal and not after.is_causal):
        return False
    return all(_reads(smaller, q) or not _reads(condition, q) for q in range(_LOOKED_AT))


def _reads(condition: Condition, q: int) -> bool:
    return any(value(condition, q, k) for k in range(q + 1))


def _scaled_comparison(node: Comparison, factor: float) -> Condition:
    dimension = _common([_dimension(node.left), _dimension(node.right)])
    left, right = (_scaled(side, dimension, factor) for side in (node.left, node.right))
    if dimension == _POSITIONS:
        left, right = _residue(node, left, right), _residue(node, right, left)
    return comparison(node.operator, left, right)


def _residue(node: Comparison, side: Whole, other: Whole) -> Whole:
    """A number that a remainder is held against keeps its place within the period."""
    before = node.right if isinstance(node.left, Operation) else node.left
    period = node.left if isinstance(node.left, Operation) else node.right
    match side, other, before, period:
        case Number(), Operation("%", (_, Number(after))), Number(value), Operation("%", (_, Number(length))):
            moved = value * after // length
            return Number(moved if node.operator in {"==", "!="} else max(moved, min(value, 1)))
        case _:
            return side


def _scaled(node: Whole, dimension: int | None, factor: float) -> Whole:
    """The number with what measures positions divided; bare numbers are of the dimension around them."""
    if isinstance(node, Number):
        return Number(_divided(node.value, factor)) if dimension == _POSITIONS else node
    if isinstance(node, Variable):
        return node
    own = _dimension(node)
    match node:
        case Operation("*", terms):
            return operation("*", *(t if isinstance(t, Number) else _scaled(t, dimension, factor) for t in terms))
        case Operation("//" | "%", (number, Number(divisor))):
            inner = _dimension(number)
            smaller = _divided(divisor, factor) if inner == _POSITIONS else divisor
            return operation(node.operator, _scaled(number, inner, factor), Number(smaller))
        case _:
            around = dimension if own is None else own
            return operation(node.operator, *(_scaled(term, around, factor) for term in node.terms))


def _divided(number: int, factor: float) -> int:
    if abs(number) <= _LEAST:
        return number
    return max(_LEAST, int(abs(number) / factor)) * (1 if number > 0 else -1)


def _dimension(node: Whole) -> int | None:
    """Whether a number measures positions or counts something else; None where it may be either."""
    match node:
        case Number():
            return None
        case Variable():
            return _POSITIONS
        case Operation("//", (number, Number())):
            return None if _dimension(number) is None else _COUNT
        case Operation("%", (number, Number())):
            return _dimension(number)
        case Operation("*", (Number(), number)) | Operation("*", (number, Number())):
            return _dimension(number)
        case Operation("+" | "-" | "min" | "max" | "abs", terms):
            return _common([_dimension(term) for term in terms])
        case _:
            raise _UnclearError


def _common(dimensions: list[int | None]) -> int | None:
    known = {dimension for dimension in dimensions if dimension is not None}
    if len(known) > 1:
        raise _UnclearError
    return next(iter(known), None)


__all__ = ["smaller_condition", "where"]
