"""From plain data to an `Architecture`, in strict mode, against the registered kinds."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.spec.explaining import explain_all
from vitruvius.spec.model import Architecture, Block
from vitruvius.spec.node import all_kinds
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from vitruvius.spec.node import Component


Part = TypeVar("Part", Architecture, Block)


def adapter(part: type[Part]) -> TypeAdapter[Part]:
    """The validator of the plain data of an architecture or a block, built from the kinds registered by now."""
    return _adapter(part, all_kinds())


@cache
def _adapter(part: type[Part], known: tuple[type[Component], ...]) -> TypeAdapter[Part]:
    from pydantic import TypeAdapter as Adapter

    del known
    return Adapter(part)


def from_plain(plain: dict[str, Any]) -> Architecture:
    """An architecture from plain data as `to_data` writes it (run folders, reports).

    Raises SpecError with every finding; they carry no lines.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        fix = "use numbers, texts, lists, mappings and the components of vitruvius.spec"
        raise SpecError([Finding(what=f"this is no plain data: {error}", fix=fix)]) from None
    try:
        return adapter(Architecture).validate_json(text)
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
