"""A Python function of q and k, read as a condition: it is called once with symbols that record what is done to them.

A function that uses operators only gives the same condition for ints, arrays and tensors, because all of them are
computed from the recording; one that asks for a truth value (`if`, `and`, `or`, `not`, `a < b < c`) cannot be recorded,
and could not work on arrays either.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final, NoReturn

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import LIMIT
from vitruvius.patterns.expressions import (
    DEEPEST,
    MOST_NODES,
    Junction,
    K,
    Number,
    Q,
    Truth,
    comparison,
    junction,
    negation,
    value,
)
from vitruvius.patterns.ranges import POSITIONS, Bounded, Range, bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vitruvius.patterns.expressions import Condition

_SAMPLES: Final = (0, 1, 2, 3, 5, 7, 8, 12, 16, 31, 64, 97, 128, 1000)
_TRUTHS: Final[Mapping[object, bool]] = {True: True, False: False, -2: False, -1: True}
"""What plain ints may answer: Python makes a number of ~True, of which the last bit is right."""
_OPERATORS_ONLY: Final = "use operators on q and k: + - * // % << >> abs(), comparisons, and & | ~ between them"


def trace(function: Callable[..., object], arguments: Mapping[str, int], name: str) -> Condition:
    """The condition that a function of q, k and `arguments` computes.

    Raises PatternError when it uses more than operators, returns no truth value, or answers plain ints differently.
    """
    q, k = _Number(Bounded(Q, POSITIONS)), _Number(Bounded(K, POSITIONS))
    found = _condition(_called(function, q, k, arguments, name), name)
    for at_q in _SAMPLES:
        for at_k in _SAMPLES:
            answer = _called(function, at_q, at_k, arguments, name)
            if type(answer) not in {bool, int} or answer not in _TRUTHS:
                raise PatternError(f"{name} returned {answer!r} for q={at_q} and k={at_k}", fix="return True or False")
            if _TRUTHS[answer] is not bool(value(found, at_q, at_k)):
                raise PatternError(
                    f"{name} answers ints (q={at_q}, k={at_k}) otherwise than arrays",
                    fix="compute the answer from q and k alone, in the same way whatever they are",
                )
    return found


def _called(function: Callable[..., object], q: object, k: object, arguments: Mapping[str, int], name: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of ~ on a bool
            return function(q, k, **arguments)
    except PatternError as error:
        raise PatternError(f"{name}: {error.what}", fix=error.fix) from None
    except RecursionError:
        raise PatternError(f"{name} never ends", fix=_OPERATORS_ONLY) from None
    except Exception as error:
        raise PatternError(f"{name} failed: {type(error).__name__}: {error}", fix=_OPERATORS_ONLY) from error


def _condition(answer: object, name: str) -> Condition:
    if isinstance(answer, _Truth):
        return answer.condition
    if isinstance(answer, bool):
        return Truth(answer)
    shown = "a number" if isinstance(answer, (_Number, int)) else repr(answer)
    raise PatternError(f"{name} returned {shown}", fix="return a comparison, or several joined by & and |")


def _number(other: object) -> Bounded:
    if isinstance(other, _Number):
        return other.bounded
    if isinstance(other, (_Truth, bool)):
        raise PatternError("a truth value is used as a number", fix="compute with numbers, and join truths by & and |")
    if not isinstance(other, int):
        raise PatternError(f"{other!r} is no whole number", fix="use whole numbers, and // in place of /")
    if abs(other) >= LIMIT:
        raise PatternError("a number of 2**40 or more", fix="no sequence is that long; use smaller numbers")
    return Bounded(Number(other), Range(other, other))


def _undecided() -> NoReturn:
    raise PatternError(
        "it asks whether something holds while q and k are not known yet",
        fix="write & | ~ in place of and, or, not; (a < b) & (b < c) in place of a < b < c; and no if on q or k",
    )


class _Number:
    """A number that depends on q and k."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, number: Bounded) -> None:
        self.bounded = number

    def __bool__(self) -> bool:  # noqa: PLE0304 (it never answers)
        _undecided()

    def __index__(self) -> int:
        raise PatternError("it needs a plain int where q or k stands", fix=_OPERATORS_ONLY)

    def __truediv__(self, other: object) -> NoReturn:
        raise PatternError("a division with /", fix="use // so that numbers stay whole")

    __rtruediv__ = __truediv__

    def __pow__(self, other: object) -> NoReturn:
        raise PatternError("a power", fix="write q * q")

    __rpow__ = __pow__

    def __pos__(self) -> _Number:
        return self

    def __neg__(self) -> _Number:
        return _Number(bounded("-", _number(0), self.bounded))

    def __invert__(self) -> _Number:
        return _Number(bounded("-", _number(-1), self.bounded))

    def __abs__(self) -> _Number:
        return _Number(bounded("abs", self.bounded))


class _Truth:
    """A truth value that depends on q and k."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, condition: Condition, size: int = 1, depth: int = 1) -> None:
        if size > MOST_NODES or depth > DEEPEST:
            raise PatternError(
                f"the condition has more than {MOST_NODES:,} parts, or {DEEPEST} inside each other",
                fix="write a shorter condition",
            )
        self.condition, self.size, self.depth = condition, size, depth

    def __bool__(self) -> bool:  # noqa: PLE0304 (it never answers)
        _undecided()

    def __invert__(self) -> _Truth:
        return _Truth(negation(self.condition), self.size, self.depth)

    def __and__(self, other: object) -> _Truth:
        return self._joined("&", other)

    def __or__(self, other: object) -> _Truth:
        return self._joined("|", other)

    def __xor__(self, other: object) -> _Truth:
        return (self & ~_truth(other)) | (~self & _truth(other))

    def __eq__(self, other: object) -> _Truth:  # type: ignore[override]
        return ~(self ^ other)

    def __ne__(self, other: object) -> _Truth:  # type: ignore[override]
        return self ^ other

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def _joined(self, operator: str, other: object) -> _Truth:
        terms = (self, _truth(other))
        deeper = {term.depth + (_operator_of(term.condition) not in {operator, None}) for term in terms}
        condition = junction(operator, [term.condition for term in terms])
        return _Truth(condition, 1 + sum(term.size for term in terms), max(deeper))


def _operator_of(condition: Condition) -> str | None:
    return condition.operator if isinstance(condition, Junction) else None


def _truth(other: object) -> _Truth:
    if isinstance(other, _Truth):
        return other
    if isinstance(other, bool):
        return _Truth(Truth(other))
    raise PatternError(
        "& | ^ between a truth value and a number",
        fix="& binds tighter than comparisons in Python: write (q < 4) & (k < 4)",
    )


def _binary(operator: str) -> tuple[Callable[..., object], Callable[..., object]]:
    def forward(self: _Number, other: object) -> object:
        return _Number(bounded(operator, self.bounded, _number(other)))

    def backward(self: _Number, other: object) -> object:
        return _Number(bounded(operator, _number(other), self.bounded))

    return forward, backward


def _comparing(operator: str) -> Callable[..., object]:
    def compare(self: _Number, other: object) -> object:
        number = _number(other)
        condition = comparison(operator, self.bounded.node, number.node)
        return _Truth(condition, 1 + self.bounded.size + number.size)

    return compare


_METHODS: Final = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "floordiv": "//",
    "mod": "%",
    "lshift": "<<",
    "rshift": ">>",
    "and": "bitand",
    "or": "bitor",
    "xor": "bitxor",
}
_COMPARED: Final = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

for _method, _operator in _METHODS.items():
    for _prefix, _made in zip(("", "r"), _binary(_operator), strict=True):
        setattr(_Number, f"__{_prefix}{_method}__", _made)
for _method, _operator in _COMPARED.items():
    setattr(_Number, f"__{_method}__", _comparing(_operator))

__all__ = ["trace"]
