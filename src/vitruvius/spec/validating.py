"""From plain data to an `Architecture`, in strict mode, against the registered kinds."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.spec.explaining import explain_all
from vitruvius.spec.model import Architecture
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@cache
def adapter() -> TypeAdapter[Architecture]:
    """The validator of plain data, built from the registered kinds."""
    from pydantic import TypeAdapter as Adapter

    return Adapter(Architecture)


def from_plain(plain: dict[str, Any]) -> Architecture:
    """An architecture from plain data as `to_data` writes it (run folders, reports).

    Raises SpecError with every finding; they carry no lines.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        fix = "use numbers, texts, lists, mappings and the components of vitruvius.spec"
        raise SpecError([Finding(what=f"this is no plain data: {error}", fix=fix)]) from None
    try:
        return adapter().validate_json(text)
    except ValidationError as error:
        raise SpecError(explain_all(error.errors(), plain)) from None


def checked_types(architecture: object) -> Architecture:
    """An architecture built in Python, with every field of the type that a file would have to give it.

    Raises UsageError when it is no architecture at all, SpecError with every field that is of a wrong type.
    """
    if not isinstance(architecture, Architecture):
        raise UsageError(
            f"{type(architecture).__name__} where an Architecture is due",
            fix="vitruvius.read(path) and vitruvius.preset(name) give one",
        )
    return from_plain(to_data(architecture))
