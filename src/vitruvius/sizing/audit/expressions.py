"""Plain arithmetic in a claim: `32 * (512 - 1) + 1`, `exp(-delta)`. Nothing but numbers, names and five signs."""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING, Final

from vitruvius.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST: Final = 200
_LARGEST_POWER: Final = 1000
_FIX: Final = "use numbers, names of `where`, + - * / **, and sqrt, exp or log"
_FUNCTIONS: Final[Mapping[str, Callable[[float], float]]] = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log}


def calculate(text: str, names: Mapping[str, float]) -> float:
    """The number that an expression stands for, with `names` for what it names.

    Raises UsageError where it is no such expression, or its number is not finite.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"an expression may be at most {_LONGEST} characters long", fix=_FIX)
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _value(tree.body, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, ZeroDivisionError) as error:
        raise UsageError(f"{text[:60]!r} cannot be calculated: {error}", fix=_FIX) from None
    if not math.isfinite(value):
        raise UsageError(f"{text[:60]!r} is not a finite number", fix=_FIX)
    return value


def _value(node: ast.expr, names: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, names)
        case ast.BinOp(left=left, op=sign, right=right):
            return _joined(_value(left, names), sign, _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_value(inner, names))
        case ast.Name(id=name):
            raise ValueError(f"there is no {name!r} in `where`")
        case _:
            raise ValueError("only arithmetic stands here")


def _joined(left: float, sign: ast.operator, right: float) -> float:
    match sign:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if abs(right) <= _LARGEST_POWER:
            return float(left**right)
        case _:
            raise ValueError("only + - * / ** stand between numbers")
