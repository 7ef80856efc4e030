"""Patterns of one's own from a Python function of q and k, under a name that any spec can use.

    @register_predicate("tree")
    def tree(q, k, depth):
        '''The query's ancestors in a binary tree laid out level by level, up to `depth` levels above.'''
        allowed = q == k
        for level in range(1, depth + 1):
            allowed = allowed | ((q + 1) // 2**level == k + 1)
        return allowed

From then on `causal & tree(depth=3)` is a pattern like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter as Argument
from inspect import getdoc, signature
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER, NEVER
from vitruvius.patterns.names import NAMED, Smaller, register

if TYPE_CHECKING:
    from vitruvius.patterns.algebra import Pattern
    from vitruvius.patterns.expressions import Condition

Function = TypeVar("Function", bound=Callable[..., Any])

_EXAMPLE: Final = 4
_SAMPLED: Final = 64
"""Keys at which a function for last readers is tried."""

_OWN: Final[dict[str, tuple[str, str]]] = {}
"""Names registered here, and the module and name of their functions."""
_READERS: Final[dict[str, Callable[..., int]]] = {}
"""Functions for last readers, by the name of the predicate."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """The last reader of a key under given arguments; two of the same name and arguments are equal."""

    name: str
    arguments: tuple[tuple[str, int], ...]

    def __call__(self, k: int, /) -> int:
        last = _READERS[self.name](k, **dict(self.arguments))
        if type(last) is not int:
            raise PatternError(
                f"last_reader of {self.name} returned {last!r} for key {k}",
                fix="return an int: the last query that may read the key, or FOREVER",
            )
        return max(NEVER, min(last, FOREVER))


def _example(name: str, arguments: Sequence[Argument], least: Mapping[str, int]) -> str:
    """A text that uses the pattern, with small numbers where it has no defaults."""
    needed = (argument.name for argument in arguments if argument.default is Argument.empty)
    return _written(name, {argument: max(_EXAMPLE, least.get(argument, 1)) for argument in needed})


@overload
def register_predicate(
    name: str,
    /,
    *,
    meaning: str | None = ...,
    example: str | None = ...,
    least: Mapping[str, int] | None = ...,
    smaller: Smaller | None = ...,
    last_reader: Callable[..., int] | None = ...,
) -> Callable[[Function], Function]: ...
@overload
def register_predicate(
    name: str,
    function: Function,
    /,
    *,
    meaning: str | None = ...,
    example: str | None = ...,
    least: Mapping[str, int] | None = ...,
    smaller: Smaller | None = ...,
    last_reader: Callable[..., int] | None = ...,
) -> Function: ...
def register_predicate(
    name: str,
    function: Any = None,
    /,
    *,
    meaning: str | None = None,
    example: str | None = None,
    least: Mapping[str, int] | None = None,
    smaller: Smaller | None = None,
    last_reader: Callable[..., int] | None = None,
) -> Any:
    """Make `function(q, k, **arguments)` a named pattern; also a decorator.

    The function uses operators only (+ - * // % << >> abs(), comparisons, & | ~) and returns whether query q reads
    key k; its other arguments are whole numbers, given in the text. It is read once for each set of arguments, and
    mask, counts, cache and picture follow from what was read. `meaning` is the first line of its docstring, where not
    given; `least` the smallest value of an argument where that is not 1; `smaller` how a twin scales the arguments,
    by default those on which its reach depends. `last_reader(k, **arguments)` may say after which query a key is not
    read any more; without it, a key is kept as long as the clause around the condition reaches.

    Registering the same function again, as a notebook does, replaces it. Raises PatternError when the name is taken by
    another or the arguments do not fit; what the function does is found out when a
    text first uses it.
    """
    if function is None:

        def registered(given: Function) -> Function:
            return register_predicate(
                name,
                given,
                meaning=meaning,
                example=example,
                least=least,
                smaller=smaller,
                last_reader=last_reader,
            )

        return registered
    arguments = _arguments(name, function)
    least = dict(least or {})
    if meaning is None:
        meaning = (getdoc(function) or "an own pattern").splitlines()[0].rstrip(".")
    example = example or _example(name, arguments, least)

    def make(**values: int) -> Pattern:
        complete = {argument.name: values.get(argument.name, argument.default) for argument in arguments}
        return _pattern(name, function, tuple(complete.items()))

    origin = (getattr(function, "__module__", ""), getattr(function, "__qualname__", f"object {id(function)}"))
    if _OWN.get(name) == origin:
        unregister(name)  # a cell of a notebook that is run again
    # The table reads the arguments off the signature.
    make.__signature__ = signature(function).replace(parameters=arguments)  # type: ignore[attr-defined]
    scaled = smaller or _by_trial(make, least)
    register(name, make, meaning=meaning, example=example, least=least, smaller=scaled)
    _OWN[name] = origin
    if last_reader is not None:
        _READERS[name] = last_reader
    return function


def unregister(name: str) -> None:
    """Take an own pattern out of the table again. Raises PatternError for any other name."""
    from vitruvius.patterns import text

    if name not in _OWN:
        raise PatternError(f"{name!r} is no pattern of your own", fix=f"yours are {', '.join(_OWN) or 'none yet'}")
    del NAMED[name], _OWN[name]
    _READERS.pop(name, None)
    _pattern.cache_clear()
    text.clear()


def _arguments(name: str, function: Callable[..., object]) -> list[Argument]:
    """What a function takes besides q and k."""
    try:
        parameters = list(signature(function).parameters.values())
    except (TypeError, ValueError):
        raise PatternError(f"{name} is not a function of q and k", fix="def tree(q, k, depth): ...") from None
    places = {Argument.POSITIONAL_ONLY, Argument.POSITIONAL_OR_KEYWORD}
    if len(parameters) < 2 or any(parameter.kind not in places for parameter in parameters[:2]):
        raise PatternError(f"{name} does not take q and k first", fix="def tree(q, k, depth): ...")
    for argument in parameters[2:]:
        if argument.kind not in {Argument.POSITIONAL_OR_KEYWORD, Argument.KEYWORD_ONLY}:
            raise PatternError(f"{name} takes *args or **kwargs", fix="name each argument")
        if argument.default is not Argument.empty and type(argument.default) is not int:
            raise PatternError(f"{argument.name} of {name} has a default that is no int", fix="use a whole number")
    return parameters[2:]


def _written(name: str, arguments: Mapping[str, int]) -> str:
    return f"{name}({', '.join(f'{key}={number}' for key, number in arguments.items())})" if arguments else name


@lru_cache(maxsize=256)
def _pattern(name: str, function: Callable[..., object], arguments: tuple[tuple[str, int], ...]) -> Pattern:
    """Functions are read once for each set of arguments."""
    from vitruvius.patterns.normalising import pattern_of
    from vitruvius.patterns.tracing import trace

    shown = _written(name, dict(arguments))
    condition = trace(function, dict(arguments), shown)
    reader = _Reader(name, arguments) if name in _READERS else None
    if reader is not None:
        _try(reader, condition, shown)
    return pattern_of(condition, reader)


def _try(reader: _Reader, condition: Condition, shown: str) -> None:
    """Refuse a function for last readers that is plainly wrong."""
    from vitruvius.patterns.expressions import value

    for k in range(_SAMPLED):
        last = reader(k)
        for q in range(max(0, last + 1), 4 * _SAMPLED):
            if value(condition, q, k):
                raise PatternError(
                    f"{shown} lets query {q} read key {k}, and last_reader says {last}",
                    fix="let last_reader(k) return the last query that reads k, or a later one",
                )


def _by_trial(make: Callable[..., Pattern], least: Mapping[str, int]) -> Smaller:
    """Divide each argument whose size decides how far the pattern reaches."""

    def shrink(arguments: Mapping[str, int], factor: float) -> Mapping[str, int]:
        smaller = dict(arguments)
        for name, number in arguments.items():
            divided = min(number, max(2, least.get(name, 1), int(number / factor)))
            try:
                before, after = (make(**{**smaller, name: size}).longest_reach or 0 for size in (number, divided))
            except PatternError:
                continue
            if after < before:
                smaller[name] = divided
        return smaller

    return shrink


__all__ = ["register_predicate", "unregister"]
