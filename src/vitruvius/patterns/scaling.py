"""Smaller patterns of the same looks, for the small twins of architectures and for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vitruvius.errors import PatternError
from vitruvius.patterns.arithmetic import FOREVER
from vitruvius.patterns.text import Joined, Named, Node, Where, build, read

if TYPE_CHECKING:
    from collections.abc import Iterator

# What does not fit into half of a picture is shrunk to one part in so many.
_SHARE_OF_SINKS: Final = 8
_SHARE_OF_WINDOWS: Final = 4
_SHARE_OF_SPACED_KEYS: Final = 2
_SHARE_OF_CONDITIONS: Final = 2


def shrink_text(text: str, factor: float) -> str:
    """The text with its windows, blocks, grids, sinks and the steps of globals divided by `factor`.

    Each number stays large enough to show what it does (a window of 2, a global at every second key); the step of
    a dilation stays where it can. Everything but the numbers is kept as written, and so is an own condition that does
    not make sense in small; one that does is written anew. Raises `PatternError`.
    """
    if not 1 <= factor < float("inf"):
        raise PatternError(f"a pattern shrinks by a factor of at least 1, got {factor}", fix="use factor=2 or more")
    return _rewritten(text, [(term, factor) for term in _terms(read(text))])


def fit_text(text: str, n: int) -> str:
    """The text with each term shrunk just so far that its structure shows within n positions.

    Proportions between terms are lost on purpose: `sliding(4096) | global(every=128)` becomes `sliding(8) |
    global(every=8)` at n = 32. Raises `PatternError`.
    """
    return _rewritten(text, [(term, _factor_to_fit(text, term, n)) for term in _terms(read(text))])


def _terms(node: Node) -> Iterator[Named | Where]:
    if isinstance(node, Joined):
        for term in node.terms:
            yield from _terms(term)
    else:
        yield node


def _factor_to_fit(text: str, term: Named | Where, n: int) -> float:
    pattern = build(text, term)
    span = pattern.longest_reach or 1
    if 2 * span <= n:
        return 1.0
    if isinstance(term, Where):
        share = _SHARE_OF_CONDITIONS
    elif any(clause.distance_multiple > 1 and clause.distance_high < FOREVER for clause in pattern.clauses):
        share = _SHARE_OF_SPACED_KEYS
    elif all(clause.key_step == 1 and clause.restricts_keys for clause in pattern.clauses):
        share = _SHARE_OF_SINKS
    else:
        share = _SHARE_OF_WINDOWS
    return span * share / n


def _rewritten(text: str, factors: list[tuple[Named | Where, float]]) -> str:
    """The text with the numbers of each term replaced, from the last to the first so that places stay true."""
    changes: list[tuple[int, int, int | str]] = []
    for term, factor in factors:
        if isinstance(term, Where):
            from vitruvius.patterns.shrinking import smaller_condition, where

            condition = term.condition if factor == 1 else smaller_condition(term.condition, factor)
            if condition != term.condition:
                changes.append((term.start, term.stop, where(condition)))
            continue
        values = {
            parameter.name: parameter.default for parameter in term.entry.parameters if parameter.default is not None
        }
        values |= {argument.parameter.name: argument.value for argument in term.arguments}
        smaller = term.entry.smaller(values, factor)
        changes += [
            (argument.start, argument.stop, smaller[argument.parameter.name])
            for argument in term.arguments
            if smaller[argument.parameter.name] != argument.value
        ]
    for start, stop, value in sorted(changes, reverse=True):
        text = f"{text[:start]}{value}{text[stop:]}"
    return text
