"""What a JSON file of ours must hold, checked before anything in it is believed.

    {"step": COUNT, "random": {"cpu": TEXT, "cuda": [TEXT]}}

A mapping names the keys that must be there (others may be too), a list has one shape for all of its items, and a
`Rule` says what a value must be.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one value must be."""

    due: str
    """In words, for messages: `text`."""
    fits: Callable[[Any], bool]
    """Whether a value is that."""


Shape: TypeAlias = "Rule | Mapping[str, Shape] | list[Shape]"

LARGEST_NUMBER = 1e300
"""A number of ours is at most so large. A whole number in JSON may have thousands of digits, and is then no float."""

TEXT = Rule(due="text", fits=lambda value: isinstance(value, str))
COUNT = Rule(due="a whole number from 0", fits=lambda value: type(value) is int and 0 <= value < 2**63)
NUMBER = Rule(
    due="a number", fits=lambda value: type(value) in {int, float} and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
)
MAPPING = Rule(due="a mapping", fits=lambda value: isinstance(value, dict))
MAPPING_OR_NULL = Rule(due="a mapping or null", fits=lambda value: value is None or isinstance(value, dict))
TEXT_OR_NULL = Rule(due="text or null", fits=lambda value: value is None or isinstance(value, str))


def one_of(*choices: str) -> Rule:
    """One of these texts."""
    return Rule(due=f"one of {', '.join(choices)}", fits=lambda value: isinstance(value, str) and value in choices)


def matching(pattern: str, due: str) -> Rule:
    """A text that a regular expression matches as a whole."""
    return Rule(due=due, fits=lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def first_misfit(shape: Shape, value: object, place: str = "") -> str | None:
    """Where `value` first differs from `shape`, in words (`splits.train.tokens is "x" where ... is due`), or None."""
    if isinstance(shape, Rule):
        return None if shape.fits(value) else _wrong(place, value, shape.due)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(place, value, "a list")
        items = enumerate(cast("list[object]", value))
        found = (first_misfit(shape[0], item, _inside(place, str(index))) for index, item in items)
        return next(filter(None, found), None)
    if not isinstance(value, dict):
        return _wrong(place, value, "a mapping")
    fields = cast("dict[str, object]", value)
    missing = next((key for key in shape if key not in fields), None)
    if missing is not None:
        return f"{_inside(place, missing)} is missing"
    found = (first_misfit(inner, fields[key], _inside(place, key)) for key, inner in shape.items())
    return next(filter(None, found), None)


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _wrong(place: str, value: object, due: str) -> str:
    text = json.dumps(value)
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    return f"{place or 'the whole'} is {shown} where {due} is due"
