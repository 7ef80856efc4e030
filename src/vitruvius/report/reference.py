"""The configuration reference: tables of fields and kinds, made from the dataclasses' own documentation.

A page of documentation holds marked places, and `refresh` fills them:

    <!-- fields of position rope -->    the fields of a kind, or of `architecture`, `block`, `embedding`, `claim`
    <!-- kinds of position -->          the kinds of a family, with links to their pages
    <!-- costs of position rope -->     what a kind costs, as formulas
    <!-- presets -->                    the presets, with their sizes
    <!-- schedulable fields -->         the fields that may change in training
    <!-- end -->                        closes each of them
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt

from vitruvius.errors import UsageError
from vitruvius.patterns import NAMED
from vitruvius.report.tables import markdown
from vitruvius.sizing import count_parameters
from vitruvius.spec import preset, preset_names, resolve
from vitruvius.spec.model import PARTS, Architecture, Block, Claim
from vitruvius.spec.node import FAMILIES, Component, Node, kinds
from vitruvius.spec.schedulable import ARGUMENT, marks_of
from vitruvius.spec.schema import field_docs, summary
from vitruvius.spec.writing import to_data
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACE: Final = re.compile(
    r"<!-- (?P<what>fields of|kinds of|costs of|presets|schedulable fields)(?P<names>[^>]*?) -->\n.*?<!-- end -->",
    re.DOTALL,
)
_PARTS: Final[dict[str, type[Node]]] = {
    "architecture": Architecture,
    "block": Block,
    "claim": Claim,
    **PARTS,
}


def refresh(page: str, *, components: str = "components/") -> str:
    """The page with every marked place filled anew; `components` is the way from it to the pages of kinds.

    Raises UsageError for a place that names nothing.
    """
    return _PLACE.sub(lambda place: _filled(place, components), page)


def page_of(family: str, kind: str) -> str:
    """The name of the page that documents a kind."""
    return f"{family}-{kind}.md"


def _filled(place: re.Match[str], components: str) -> str:
    names = place["names"].split()
    match place["what"], names:
        case "presets", []:
            table = _presets()
        case "schedulable fields", []:
            table = _schedulable(components)
        case "kinds of", [family] if family in FAMILIES:
            table = _kinds(family, components)
        case "fields of", [part] if part in _PARTS:
            table = _fields(_PARTS[part])
        case "fields of", [family, kind] if family in FAMILIES and kind in kinds(family):
            table = _fields(kinds(family)[kind])
        case "costs of", [family, kind] if family in FAMILIES and kind in kinds(family):
            table = _costs(family, kind)
        case _:
            raise UsageError(f"nothing is called {' '.join(names)!r}", where=place.group().partition("\n")[0])
    return f"<!-- {place['what']}{place['names']} -->\n{table}\n<!-- end -->"


# ----------------------------------------------------------------------------------------------------------------------


def _presets() -> str:
    rows: list[tuple[str, ...]] = []
    for name in preset_names():
        architecture = preset(name)
        counts = count_parameters(resolve(architecture))
        active = format_count(counts.active) if counts.active != counts.total else "all"
        row = (f"`{name}`", format_count(counts.total), active, f"{architecture.context:,}", architecture.description)
        rows.append(row)
    return markdown(("preset", "parameters", "active", "context", "what it is"), rows)


def _schedulable(components: str) -> str:
    rows: list[tuple[str, ...]] = []
    named: list[tuple[str, type[Node]]] = list(_PARTS.items())
    for family in FAMILIES:
        named += [(f"{family} [`{k}`]({components}{page_of(family, k)})", node) for k, node in kinds(family).items()]
    for name, node in named:
        rows += [(name, f"`{field}`", mark.form, mark.why) for field, mark in marks_of(node).items()]
    for entry in NAMED.values():
        if entry.parameters:
            names = ", ".join(f"`sees.{entry.name}.{parameter.name}`" for parameter in entry.parameters)
            rows.append((f"[pattern]({components}patterns.md) `{entry.name}`", names, "count", ARGUMENT.why))
    return markdown(("of", "field", "takes", "changed for"), rows)


def _kinds(family: str, components: str) -> str:
    rows = [(f"[`{kind}`]({components}{page_of(family, kind)})", summary(node)) for kind, node in kinds(family).items()]
    return markdown(("kind", "what it is"), rows)


def _costs(family: str, kind: str) -> str:
    from vitruvius.report.costs import assumed, formulas_of

    rows = [(formula.what, f"`{formula.value}`") for formula in formulas_of(family, kind)]
    if not rows:
        return "No parameters, no FLOPs that are counted, and no decode state of its own."
    return f"{markdown(('what', 'formula'), rows)}\n\nThese are formulas {assumed(family, kind)}."


def _fields(node: type[Node]) -> str:
    rows = list(_rows(node))
    if not rows:
        return "It has no fields of its own."
    return markdown(("field", "takes", "default", "what it is"), rows)


def _rows(node: type[Node]) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(node, include_extras=True)
    docs = field_docs(node)
    for field in fields(node):  # pyright: ignore[reportArgumentType]
        if field.name == "kind" and issubclass(node, Component):
            continue
        yield f"`{field.name}`", _takes(hints[field.name]), _default(field), docs.get(field.name, "")
    if node is Block:
        yield "`extends`", "the name of a block", "none", "The block this one is merged over; give only what differs."


def _default(field: Any) -> str:
    if field.default is not MISSING:
        value = field.default
        return "none" if value is None else f"`{_yaml(value)}`" if value != "" else "empty"
    if field.default_factory is MISSING:
        return "required"
    value = field.default_factory()
    if isinstance(value, Node):
        data = to_data(value)
        return f"`{data['kind']}`" if set(data) == {"kind"} else "as below" if not data else f"`{data}`"
    return "empty"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _takes(hint: Any) -> str:
    """What a field takes, in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return " or ".join(_takes(choice) for choice in inside if choice is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inside)
    if origin is Annotated:
        return _number(inside[0], inside[1:])
    if origin in {list, tuple}:
        takes = _takes(inside[0])
        return f"list of {takes}s" if " " not in takes else f"list, each a {takes}"
    if origin is dict:
        return f"mapping of names to {_takes(inside[1])}s"
    if isinstance(hint, type) and issubclass(hint, Component):
        return hint.family
    if isinstance(hint, type) and issubclass(hint, Node):
        return hint.__name__.lower()
    return _PLAIN.get(cast("object", hint), str(cast("object", hint)))


_PLAIN: Final[dict[object, str]] = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}


def _number(base: Any, bounds: tuple[Any, ...]) -> str:
    name = "whole number" if base is int else "number"
    for bound in bounds:
        if isinstance(bound, Gt):
            return f"{name} above {bound.gt:g}"  # pyright: ignore[reportUnknownMemberType]
        if isinstance(bound, Ge):
            return f"{name}, {bound.ge:g} or more"  # pyright: ignore[reportUnknownMemberType]
    return name
