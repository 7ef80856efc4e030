"""What the validator of plain data found, in our words: one finding for each place, with the way out."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vitruvius.errors import Finding
from vitruvius.spec.model import PARTS, Architecture, Block, Claim
from vitruvius.spec.node import FAMILIES, kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.spec.node import Node

Steps: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of the data to a value."""

_UNKNOWN = frozenset({"unexpected_keyword_argument", "extra_forbidden"})
_MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
_DUE = {
    "bool_type": "true or false",
    "dataclass_exact_type": "a mapping",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
}
"""Pydantic's name of an error -> what should stand there."""


def explain_all(entries: Sequence[Any], plain: dict[str, Any]) -> list[Finding]:
    """Pydantic's errors in our words, one for each place.

    A field that takes text or a list has an error for either, which become one; a missing field whose misspelt name
    is there as an unknown key is not reported a second time.
    """
    located = [(*_walk(entry["loc"], plain), entry) for entry in entries]
    due: dict[Steps, list[str]] = {}
    misspelt: set[Steps] = set()
    for path, _, entry in located:
        if entry["type"] in _DUE:
            due.setdefault(path, []).append(_DUE[entry["type"]])
        if entry["type"] in _UNKNOWN:
            misspelt |= {(*path[:-1], name) for name in _nearest(path, plain)}
    found: dict[Steps, Finding] = {}
    for path, value, entry in located:
        if path in found or (entry["type"] in _MISSING and path in misspelt):
            continue
        found[path] = _wrong_type(path, value, due[path]) if path in due else _explain(entry, path, value, plain)
    # Where something inside is wrong too, the whole was of a right type after all.
    above = {path[:length] for path in found for length in range(len(path))}
    return [finding for path, finding in found.items() if not (path in due and path in above)]


def _wrong_type(path: Steps, value: object, due: list[str]) -> Finding:
    either = " or ".join(dict.fromkeys(due))
    return Finding(path=_dotted(path), what=f"{_shown(value)} where {either} is due", fix=f"write {either}")


def _dotted(path: Steps) -> str:
    return ".".join(map(str, path))


def _nearest(path: Steps, plain: dict[str, Any]) -> list[str]:
    """The known field whose name comes nearest to the last key of a path."""
    return difflib.get_close_matches(str(path[-1]), _fields_at(path[:-1], plain), n=1)


def _explain(entry: Any, path: Steps, value: Any, plain: dict[str, Any]) -> Finding:
    """One of pydantic's errors in our words."""
    dotted = _dotted(path)
    kind, context = entry["type"], entry.get("ctx", {})
    key = str(path[-1]) if path else "spec"
    if kind in _UNKNOWN:
        near = _nearest(path, plain)
        fix = f"did you mean {near[0]!r}?" if near else f"the fields here are {', '.join(_fields_at(path[:-1], plain))}"
        return Finding(path=dotted, what=f"unknown key {key!r}", fix=fix)
    if kind in _MISSING:
        parent = _dotted(path[:-1])
        return Finding(path=parent, what=f"{key} is missing", fix=f"add {key}: {_hint(path, plain)}")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _which_kind(dotted, key, value)
    if kind in {"int_type", "int_parsing", "int_from_float"}:
        return Finding(path=dotted, what=f"{_shown(value)} is not a whole number", fix=_whole(value))
    if kind == "literal_error":
        return Finding(path=dotted, what=f"{_shown(value)} is not one of the choices", fix=f"use {context['expected']}")
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than_equal": "le"}
    if kind in bounds:
        signs = {"gt": ">", "ge": ">=", "le": "<="}
        name = bounds[kind]
        shown = value if len(str(value)) <= 24 else f"{str(value)[:12]}..."
        limit = f"{context[name]:,}".removesuffix(".0")
        return Finding(path=dotted, what=f"{shown} is out of range", fix=f"use a number {signs[name]} {limit}")
    return Finding(path=dotted, what=f"{_shown(value)}: {entry['msg'].lower()}")


def _whole(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return "remove the quotes"
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    return "write digits only, e.g. 4096"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:36]} ..."


_PLAIN_TAGS = frozenset({"float", "list[str]", "str"})
"""How pydantic names the members of `float | str` and `str | list[str]`."""


def _walk(loc: Steps, plain: object) -> tuple[Steps, Any]:
    """The path in the data that pydantic's `loc` means, and the value there."""
    path: list[str | int] = []
    value: Any = plain
    for i, key in enumerate(loc):
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
        if inside:
            value = cast("Any", value)[key]
        elif key in _PLAIN_TAGS:
            continue
        elif not (isinstance(value, dict) and i == len(loc) - 1):
            continue  # the tag of a union
        else:
            value = None
        path.append(key)
    return tuple(path), cast("Any", value)


def _node_class(path: Steps, plain: dict[str, Any]) -> type[Node] | None:
    """The dataclass that the data at a path is read into."""
    match path:
        case ():
            return Architecture
        case ("blocks", _):
            return Block
        case (key,) if key in PARTS:
            return PARTS[str(key)]
        case ("claims", _):
            return Claim
        case _:
            value = _walk(path, plain)[1]
            kind = _kind_of(value)
            family = _family_of(path)
            return kinds(family).get(str(kind)) if family else None


def _kind_of(value: object) -> object:
    return cast("dict[str, object]", value).get("kind") if isinstance(value, dict) else None


_FAMILY_OF_KEY = {"expert": "ffn", "shared_expert": "ffn", "qk_norm": "norm", "inner_norm": "norm"}


def _family_of(path: Steps) -> str | None:
    key = str(path[-1])
    name = _FAMILY_OF_KEY.get(key, key)
    return name if name in FAMILIES else None


def _fields_at(path: Steps, plain: dict[str, Any]) -> list[str]:
    node = _node_class(path, plain)
    names = [f.name for f in fields(node)] if node is not None else []
    return [*names, "extends"] if node is Block else names


def _hint(path: Steps, plain: dict[str, Any]) -> str:
    """The first words of a missing field's documentation stand in its schema; name its type here."""
    node = _node_class(path[:-1], plain)
    if node is None:
        return "..."
    annotation = next((str(f.type) for f in fields(node) if f.name == path[-1]), "...")
    return {"PositiveInt": "<a whole number>", "str": "<text>"}.get(annotation, f"<{annotation}>")


def _which_kind(dotted: str, key: str, value: object) -> Finding:
    family = _family_of((key,))
    names = list(kinds(family)) if family else []
    kind = _kind_of(value)
    if kind is None and not isinstance(value, dict):
        what = f"{_shown(value)} where a mapping with a kind is due"
        return Finding(path=dotted, what=what, fix=f"use kind: {', '.join(names)}")
    if kind is None:
        return Finding(path=dotted, what="which kind is this?", fix=f"add kind: {' | '.join(names)}")
    near = difflib.get_close_matches(str(kind), names, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    return Finding(path=f"{dotted}.kind", what=f"there is no {family} kind {_shown(kind)}", fix=fix)
