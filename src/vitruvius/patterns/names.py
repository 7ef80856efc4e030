"""The patterns that have a name, in Python and in text, and the table that later ones join."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Final

from vitruvius.errors import PatternError
from vitruvius.patterns.algebra import Pattern
from vitruvius.patterns.arithmetic import LIMIT
from vitruvius.patterns.clause import Clause
from vitruvius.patterns.tokens import WHERE

causal: Final = Pattern((Clause(distance_low=0),))
"""Every key up to the query itself."""

everything: Final = Pattern((Clause(),))
"""Every key, before and after the query."""


def sliding(window: int) -> Pattern:
    """The last `window` keys, the query's own position included: 0 <= q - k < window. Causal by itself."""
    whole("window", window)
    return Pattern((Clause(distance_low=0, distance_high=window - 1),))


def around(window: int) -> Pattern:
    """Keys less than `window` positions away on either side: |q - k| < window."""
    whole("window", window)
    return Pattern((Clause(distance_low=1 - window, distance_high=window - 1),))


def sinks(count: int) -> Pattern:
    """The first `count` keys of the document, for every query."""
    whole("count", count)
    return Pattern((Clause(key_high=count),))


def global_(every: int, offset: int = 0) -> Pattern:
    """Keys at positions offset, offset + every, offset + 2 * every, ...; says nothing about queries."""
    whole("every", every)
    whole("offset", offset, least=0)
    if offset >= every:
        raise PatternError(f"offset must be below every, got offset={offset} and every={every}", fix="use offset=0")
    return Pattern((Clause(key_step=every, key_residue=offset),))


def dilated(window: int, every: int) -> Pattern:
    """`window` keys at distances 0, every, 2 * every, ... before the query. Causal by itself."""
    whole("window", window)
    whole("every", every)
    _bounded("window * every", window * every)
    return Pattern((Clause(distance_low=0, distance_high=(window - 1) * every, distance_multiple=every),))


def stride(every: int) -> Pattern:
    """Keys whose distance to the query is a multiple of `every`, on either side."""
    whole("every", every)
    return Pattern((Clause(distance_multiple=every),))


def block(size: int) -> Pattern:
    """Keys in the query's own block of `size` positions: q // size == k // size."""
    whole("size", size)
    return Pattern((Clause(chunks=(size,)),))


def stride2d(height: int, width: int) -> Pattern:
    """The query's own row and own column, on grids of height x width laid out row by row."""
    whole("height", height)
    whole("width", width)
    _bounded("height * width", height * width)
    return block(height * width) & (block(width) | stride(width))


def whole(name: str, value: int, least: int = 1) -> None:
    """Refuse anything but an int (not a bool) with least <= value < 2**40."""
    if type(value) is not int:
        raise PatternError(f"{name} must be a whole number, got {value!r}", fix=f"give {name} an int")
    if value < least:
        raise PatternError(f"{name} must be at least {least}, got {value}", fix=f"use {name}={least} or more")
    _bounded(name, value)


def _bounded(name: str, value: int) -> None:
    if value >= LIMIT:
        shown = str(value) if value < 10**18 else f"a number of {value.bit_length()} bits"
        raise PatternError(
            f"{name} must be below 2**40, got {shown}", fix="no sequence is that long; use a smaller one"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An argument of a named pattern."""

    name: str
    """As written in text: `every=4`."""
    default: int | None
    """Value when left out; None when it must be given."""
    least: int = 1
    """Smallest value allowed."""


Smaller = Callable[[Mapping[str, int], float], Mapping[str, int]]
"""From the arguments and a factor > 1: the arguments of a pattern about that many times smaller, of the same looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPattern:
    """An entry of the table of named patterns."""

    name: str
    """As written in text."""
    make: Callable[..., Pattern]
    """Builds the pattern from its arguments, passed by name."""
    parameters: tuple[Parameter, ...]
    """In the order in which they may be given without their names."""
    meaning: str
    """One line, for help and documentation."""
    example: str
    """A call as one would write it."""
    smaller: Smaller
    """Shrinks the arguments for a twin or a picture."""


NAMED: Final[dict[str, NamedPattern]] = {}
"""Every pattern that may be written in text, by name; filled by `register`."""


def named(name: str) -> NamedPattern | None:
    """The entry of a name, looked for in installed packages too where it is not known yet. Raises PatternError."""
    if name not in NAMED:
        load_patterns()
    return NAMED.get(name)


@cache
def load_patterns() -> None:
    """Import what installed packages offer under the entry points `vitruvius.patterns`; they call `register` or
    `register_predicate`. Raises PatternError, naming the package, when one fails to load.
    """
    from importlib import metadata

    for point in metadata.entry_points(group="vitruvius.patterns"):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else "a package"
            raise PatternError(
                f"{package} offers the pattern {point.name!r} ({point.value}), which fails to load: "
                f"{type(error).__name__}: {error}",
                fix=f"update or uninstall {package}",
            ) from error


def smaller_by(**least: int) -> Smaller:
    """Divide these arguments by the factor, each down to the given smallest value; keep all others."""

    def shrink(arguments: Mapping[str, int], factor: float) -> dict[str, int]:
        return {
            name: min(value, max(least[name], int(value / factor))) if name in least else value
            for name, value in arguments.items()
        }

    return shrink


def register(
    name: str,
    make: Callable[..., Pattern],
    *,
    meaning: str,
    example: str,
    least: Mapping[str, int] | None = None,
    smaller: Smaller | None = None,
) -> None:
    """Add a named pattern to the text form; its arguments are those of `make`.

    `least` gives the smallest value of an argument where that is not 1; `smaller` says how a shrunken twin scales the
    arguments (by default it keeps them). Raises `PatternError` when the name is taken or is no plain lower-case word.
    """
    if not (name.isascii() and name.isidentifier() and name == name.lower()):
        raise PatternError(f"{name!r} cannot name a pattern", fix="use lower-case letters, digits and _")
    if name in NAMED or name == WHERE:
        raise PatternError(f"a pattern named {name!r} is registered already", fix="choose another name")
    parameters = tuple(
        Parameter(
            name=argument.name,
            default=None if argument.default is argument.empty else argument.default,
            least=(least or {}).get(argument.name, 1),
        )
        for argument in signature(make).parameters.values()
    )
    NAMED[name] = NamedPattern(
        name=name,
        make=make,
        parameters=parameters,
        meaning=meaning,
        example=example,
        smaller=smaller or smaller_by(),
    )


def _smaller_global(arguments: Mapping[str, int], factor: float) -> dict[str, int]:
    every = min(arguments["every"], max(2, int(arguments["every"] / factor)))
    return {"every": every, "offset": arguments["offset"] * every // arguments["every"]}


def _smaller_dilated(arguments: Mapping[str, int], factor: float) -> dict[str, int]:
    """Fewer keys at the same distances; only when two keys are still too far apart, smaller distances."""
    span = arguments["window"] * arguments["every"] / factor
    window = min(arguments["window"], max(2, int(arguments["window"] / factor)))
    return {"window": window, "every": min(arguments["every"], max(2, int(span / window)))}


def _smaller_grid(arguments: Mapping[str, int], factor: float) -> Mapping[str, int]:
    """Both sides by the square root, so that the grid as a whole shrinks by the factor."""
    return smaller_by(height=2, width=2)(arguments, factor**0.5)


register("causal", lambda: causal, meaning="every key up to the query itself", example="causal")
register("everything", lambda: everything, meaning="every key, before and after the query", example="everything")
register(
    "sliding",
    sliding,
    meaning="the last `window` keys, the query's own included",
    example="sliding(4096)",
    smaller=smaller_by(window=2),
)
register(
    "around",
    around,
    meaning="keys less than `window` positions away, on both sides",
    example="around(128)",
    smaller=smaller_by(window=2),
)
register("sinks", sinks, meaning="the first `count` keys", example="sinks(4)", smaller=smaller_by(count=1))
register(
    "global",
    global_,
    meaning="keys at every `every`-th position, starting at `offset`",
    example="global(every=128)",
    least={"offset": 0},
    smaller=_smaller_global,
)
register(
    "dilated",
    dilated,
    meaning="`window` keys at distances 0, every, 2 * every and so on",
    example="dilated(1024, every=4)",
    smaller=_smaller_dilated,
)
register(
    "stride",
    stride,
    meaning="keys whose distance is a multiple of `every`",
    example="stride(64)",
    smaller=smaller_by(every=2),
)
register(
    "block",
    block,
    meaning="keys in the query's own block of `size` positions",
    example="block(512)",
    smaller=smaller_by(size=2),
)
register(
    "stride2d",
    stride2d,
    meaning="the query's own row and column on grids of height x width",
    example="stride2d(32, 32)",
    smaller=_smaller_grid,
)
