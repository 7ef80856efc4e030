"""Conditions on a query position q and a key position k, as data: `(q - k) % 7 == 3`.

Both ways of writing an own condition, as text in `where(...)` and as a Python function, end in these nodes. They are
evaluated with operators only, so that ints, arrays, tensors and FlexAttention's indices work alike.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cache, reduce
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MOST_NODES: Final = 1000
"""A condition of more parts than this is refused."""
DEEPEST: Final = 64
"""So is one with more operations inside each other."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    value: int


@dataclass(frozen=True, slots=True)
class Variable:
    """The query position `q` or the key position `k`."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """Whole-number arithmetic; `bitand`, `bitor` and `bitxor` are written &, | and ^ in Python."""

    operator: str
    terms: tuple[Whole, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two whole numbers held against each other."""

    operator: str
    left: Whole
    right: Whole


@dataclass(frozen=True, slots=True)
class Junction:
    """Conditions of which all (&) or one (|) must hold."""

    operator: str
    terms: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """A condition that does not depend on anything."""

    value: bool


Whole = Number | Variable | Operation
Condition = Comparison | Junction | Truth

Q: Final = Variable("q")
K: Final = Variable("k")
DISTANCE: Final = Operation("-", (Q, K))


def _smallest(*numbers: Any) -> Any:
    return reduce(lambda a, b: b + (a - b) * (a < b), numbers)


def _greatest(*numbers: Any) -> Any:
    return reduce(lambda a, b: b + (a - b) * (a > b), numbers)


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    sign: getattr(operator, name)
    for sign, name in {
        "+": "add",
        "-": "sub",
        "*": "mul",
        "//": "floordiv",
        "%": "mod",
        "<<": "lshift",
        ">>": "rshift",
        "bitand": "and_",
        "bitor": "or_",
        "bitxor": "xor",
        "&": "and_",
        "|": "or_",
        "abs": "abs",
    }.items()
}
_ON_INTS: Final[Mapping[str, Callable[..., Any]]] = {**_FUNCTIONS, "min": min, "max": max}
_ON_ARRAYS: Final[Mapping[str, Callable[..., Any]]] = {**_FUNCTIONS, "min": _smallest, "max": _greatest}
"""The same with nothing but operators."""

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
OPPOSITE: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def computed(name: str, *numbers: int) -> int:
    """The outcome of an operation on plain ints."""
    return int(_ON_INTS[name](*numbers))


def operation(name: str, *terms: Whole) -> Whole:
    """An operation, or its outcome where it is known already."""
    if all(isinstance(term, Number) for term in terms):
        return Number(computed(name, *(term.value for term in terms if isinstance(term, Number))))
    return Operation(name, terms)


def comparison(name: str, left: Whole, right: Whole) -> Condition:
    """A comparison, or its outcome where it is known already."""
    if isinstance(left, Number) and isinstance(right, Number):
        return Truth(bool(COMPARISONS[name](left.value, right.value)))
    if left == right:
        return Truth(name in {"<=", ">=", "=="})
    return Comparison(name, left, right)


def junction(name: str, terms: Iterable[Condition]) -> Condition:
    """Conditions joined by & or |: flat, without repetitions and without what is known already."""
    kept: dict[Condition, None] = {}
    decisive = name == "|"
    for term in terms:
        for part in term.terms if isinstance(term, Junction) and term.operator == name else (term,):
            if part == Truth(decisive):
                return part
            if not isinstance(part, Truth):
                kept[part] = None
    if not kept:
        return Truth(not decisive)
    return next(iter(kept)) if len(kept) == 1 else Junction(name, tuple(kept))


def negation(condition: Condition) -> Condition:
    """The opposite condition, the `not` moved down to the comparisons and so out of sight."""
    if isinstance(condition, Truth):
        return Truth(not condition.value)
    if isinstance(condition, Comparison):
        return Comparison(OPPOSITE[condition.operator], condition.left, condition.right)
    return junction("|" if condition.operator == "&" else "&", map(negation, condition.terms))


def value(node: Whole | Condition, q: Any, k: Any) -> Any:
    """The number or truth value of a node at q and k: ints, or arrays and tensors that broadcast."""
    match node:
        case Number() | Truth():
            return node.value
        case Variable():
            return q if node.name == "q" else k
        case Operation():
            return _ON_ARRAYS[node.operator](*(value(term, q, k) for term in node.terms))
        case Comparison():
            return COMPARISONS[node.operator](value(node.left, q, k), value(node.right, q, k))
        case Junction():
            return reduce(_ON_ARRAYS[node.operator], (value(term, q, k) for term in node.terms))


def values(node: Whole | Condition, q: int | range, k: int | range) -> Iterator[Any] | int:
    """The values of a node along a row, a column or a diagonal: q, k or both are ranges, of equal length.

    An int where the node depends on neither range. The loops run in C: about 30 ns for each operation and position.
    """
    match node:
        case Number() | Truth():
            return int(node.value)
        case Variable():
            chosen = q if node.name == "q" else k
            return chosen if isinstance(chosen, int) else iter(chosen)
        case Operation():
            return _mapped(_ON_INTS[node.operator], [values(term, q, k) for term in node.terms])
        case Comparison():
            return _mapped(COMPARISONS[node.operator], [values(node.left, q, k), values(node.right, q, k)])
        case Junction():
            found, *others = (values(term, q, k) for term in node.terms)
            for other in others:
                found = _mapped(_ON_INTS[node.operator], [found, other])
            return found


def _mapped(function: Callable[..., Any], columns: list[Iterator[Any] | int]) -> Iterator[Any] | int:
    if all(isinstance(column, int) for column in columns):
        return int(function(*columns))
    return map(function, *(repeat(column) if isinstance(column, int) else column for column in columns))


def replaced(node: Whole, q: Whole, k: Whole) -> Whole:
    """A number with other numbers in the places of q and k."""
    if isinstance(node, Number):
        return node
    if isinstance(node, Variable):
        return q if node.name == "q" else k
    return operation(node.operator, *(replaced(term, q, k) for term in node.terms))


def rebuilt(condition: Condition, change: Callable[[Comparison], Condition]) -> Condition:
    """The condition with each comparison put through `change`."""
    if isinstance(condition, Truth):
        return condition
    if isinstance(condition, Comparison):
        return change(condition)
    return junction(condition.operator, (rebuilt(term, change) for term in condition.terms))


def at(condition: Condition, q: Whole, k: Whole) -> Condition:
    """The condition with other numbers in the places of q and k."""
    return rebuilt(
        condition, lambda node: comparison(node.operator, replaced(node.left, q, k), replaced(node.right, q, k))
    )


def comparisons(condition: Condition) -> Iterator[Comparison]:
    """Every comparison in a condition."""
    if isinstance(condition, Comparison):
        yield condition
    elif isinstance(condition, Junction):
        for term in condition.terms:
            yield from comparisons(term)


def parts(node: Whole | Condition) -> Iterator[Whole | Condition]:
    """The node and everything inside it."""
    yield node
    for inner in _inside(node):
        yield from parts(inner)


def _inside(node: Whole | Condition) -> tuple[Whole | Condition, ...]:
    if isinstance(node, (Operation, Junction)):
        return node.terms
    return (node.left, node.right) if isinstance(node, Comparison) else ()


@cache
def cost(condition: Condition) -> int:
    """Operations of one evaluation."""
    return sum(isinstance(part, (Operation, Comparison, Junction)) for part in parts(condition))


# ----------------------------------------------------------------------------------------------------------------------
# Text

_BINDING: Final = {"|": 1, "&": 2, "compare": 3, "<<": 7, ">>": 7, "+": 8, "-": 8, "*": 9, "//": 9, "%": 9}
_ON_BITS: Final = {"bitor": "|", "bitxor": "^", "bitand": "&"}
_LOOSEST, _TIGHTEST = 0, 10


def text_of(node: Whole | Condition, around: int = _LOOSEST) -> str:
    """The node as one would write it, with no more parentheses than it needs."""
    match node:
        case Number():
            return str(node.value) if node.value >= 0 or around < _BINDING["*"] else f"({node.value})"
        case Variable():
            return node.name
        case Truth():
            return "always" if node.value else "never"
        case Operation() if node.operator in {"abs", "min", "max"}:
            return f"{node.operator}({', '.join(text_of(term) for term in node.terms)})"
        case Operation() if node.operator in _ON_BITS:
            # Always in parentheses: between conditions the same signs mean something else.
            left, right = (text_of(term, _TIGHTEST) for term in node.terms)
            return f"({left} {_ON_BITS[node.operator]} {right})"
        case Operation():
            binding = _BINDING[node.operator]
            left, right = node.terms
            written = f"{text_of(left, binding)} {node.operator} {text_of(right, binding + 1)}"
        case Comparison():
            binding = _BINDING["compare"]
            written = f"{text_of(node.left, binding + 1)} {node.operator} {text_of(node.right, binding + 1)}"
        case Junction():
            # & and | never meet without parentheses, neither here nor in what people write.
            binding = _BINDING["&"]
            written = f" {node.operator} ".join(text_of(term, binding + 1) for term in node.terms)
    return f"({written})" if binding < around else written
