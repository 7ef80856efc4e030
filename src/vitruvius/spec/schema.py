"""The JSON Schema of a spec file, with which editors check and complete it.

The validator's own schema says what a resolved spec is. A file may say less and say it shorter: a bare name stands
for a mapping with that kind, `none` removes, and a block that `extends` another one needs to give only what differs.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from copy import deepcopy
from dataclasses import MISSING, fields
from functools import cache
from itertools import pairwise
from typing import Any, Final, cast

from vitruvius.spec.model import PARTS, Architecture, Block, Claim
from vitruvius.spec.node import FAMILIES, Component, Node, kinds
from vitruvius.spec.reading import BARE_NAMES
from vitruvius.spec.schedulable import marks_of
from vitruvius.spec.tree import EACH
from vitruvius.spec.validating import adapter

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
PARTIAL: Final = ".partial"
"""Ends the name of a definition in which nothing is required: what a block that extends another one may give."""

_EXAMPLES: Final[dict[str, list[object]]] = {
    "layers": ["layer*32", "(dense moe)*16", "local*16 dilated*12 full*4"],
    "sees": ["causal", "causal & sliding(4096)", "causal & (sliding(4096) | global(every=128))"],
    "scale": ["sqrt(width)"],
    "says": ["8B", "16 GB"],
}

_Schema = dict[str, Any]


def json_schema() -> _Schema:
    """The schema of the file form (JSON Schema draft 2020-12), built from the registered kinds."""
    resolved = adapter(Architecture).json_schema()
    definitions: dict[str, _Schema] = resolved.pop("$defs")
    by_name = node_classes()
    whole: dict[str, _Schema] = {}
    for name, definition in {**definitions, "Architecture": resolved}.items():
        whole[name] = _in_file_form(definition, by_name.get(name))
    partial = {
        f"{name}{PARTIAL}": _partial(definition)
        for name, definition in whole.items()
        if name in by_name and issubclass(by_name[name], Component)
    }
    architecture = whole.pop("Architecture")
    block = whole.pop("Block")
    architecture["properties"]["blocks"] |= {"minProperties": 1, "additionalProperties": {"$ref": "#/$defs/Block"}}
    return {
        "$schema": DRAFT,
        "title": "Vitruvius architecture",
        **{key: value for key, value in architecture.items() if key != "title"},
        "$defs": {"Block": _block(block)} | whole | partial,
    }


def node_classes() -> dict[str, type[Node]]:
    """Every class of node that a spec may hold, by its name."""
    classes: list[type[Node]] = [Architecture, Block, Claim, *PARTS.values()]
    classes += [node for family in FAMILIES for node in kinds(family).values()]
    return {node.__name__: node for node in classes}


@cache
def field_docs(node: type[Node]) -> dict[str, str]:
    """The documentation of each field: the text written under it, in the class or where it is inherited from."""
    docs: dict[str, str] = {}
    for base in reversed(node.__mro__):
        if not issubclass(base, Node):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue  # a class made at run time has no source
        body = cast("ast.ClassDef", ast.parse(source).body[0]).body
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    docs[name] = " ".join(words.split())
                case _:
                    pass
    return docs


def summary(node: type[Node]) -> str:
    """The first paragraph of a node's own documentation, on one line."""
    return " ".join((node.__doc__ or "").strip().partition("\n\n")[0].split())


# ----------------------------------------------------------------------------------------------------------------------


def _in_file_form(definition: _Schema, node: type[Node] | None) -> _Schema:
    """A definition with its fields described and its components in all the forms that a file may use."""
    properties: dict[str, _Schema] = {
        name: _field(name, field, node) for name, field in definition.get("properties", {}).items()
    }
    required = list(definition.get("required", ()))
    if node is not None and issubclass(node, Component):
        required = ["kind", *required]
        properties["kind"] |= {"description": summary(node)}
        properties["kind"].pop("default", None)
        if node.aliases:
            properties["kind"] |= {"enum": [properties["kind"].pop("const"), *node.aliases]}
    return {**definition, "properties": properties, "required": required}


def _field(name: str, field: _Schema, node: type[Node] | None) -> _Schema:
    described: _Schema = {key: value for key, value in field.items() if key != "title"}
    if family := _family_in(described):
        nullable = {"type": "null"} in described.get("anyOf", ())
        described = _component(family, name, nullable=nullable)
    elif name == "embedding" and node is Architecture:
        described = {"$ref": "#/$defs/Embedding"}
    elif described.get("default") is None:
        described.pop("default", None)
    if node is not None and issubclass(node, Component | Block) and name != "kind":
        described = _by_layer(described)
    text = field_docs(node).get(name) if node is not None else None
    if text:
        described["description"] = text
    if node is not None and name in (marks := marks_of(node)):
        described["description"] = f"{text or ''} May change in training: {marks[name].why}.".strip()
    if name in _EXAMPLES:
        described["examples"] = _EXAMPLES[name]
    return described


def _by_layer(field: _Schema) -> _Schema:
    """A field of a block, which takes one value for all layers or a list of them under `each`."""
    default = {key: field[key] for key in ("default",) if key in field}
    value = {key: part for key, part in field.items() if key != "default"}
    each: _Schema = {
        "type": "object",
        "properties": {EACH: {"type": "array", "items": value, "minItems": 1}},
        "required": [EACH],
        "additionalProperties": False,
    }
    choices = value["anyOf"] if set(value) == {"anyOf"} else [value]
    return {"anyOf": [*choices, each], **default}


def _family_in(field: _Schema) -> str | None:
    """The family of a field whose schema is a union of kinds."""
    for choice in (field, *field.get("anyOf", ())):
        if "discriminator" in choice:
            names = set(choice["discriminator"]["mapping"])
            return next((family for family in FAMILIES if names == set(kinds(family))), None)
    return None


def _component(family: str, name: str, *, nullable: bool) -> _Schema:
    """A mapping with a kind, or where the field takes them a bare name, `none` and null."""
    forms: list[_Schema] = [{"$ref": f"#/$defs/{node.__name__}"} for node in kinds(family).values()]
    if name in BARE_NAMES:
        plain = {kind: node for kind, node in kinds(family).items() if not _needs_fields(node)}
        bare = [name for kind, node in plain.items() for name in (kind, *node.aliases)]
        bare += ["none"] if nullable else []
        if bare:
            forms.append({"enum": bare})
    if nullable:
        forms.append({"type": "null"})
    return {"anyOf": forms}


def _needs_fields(node: type[Component]) -> bool:
    return any(f.default is MISSING and f.default_factory is MISSING for f in fields(node))  # pyright: ignore[reportArgumentType]


def _partial(definition: _Schema) -> _Schema:
    """The definition with nothing required, here or further in; a mapping may leave its kind to the parent."""
    loose = deepcopy(definition)
    loose.pop("required", None)

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            mapping = cast("_Schema", part)
            reference = mapping.get("$ref")
            if isinstance(reference, str) and not reference.endswith(PARTIAL):
                mapping["$ref"] = reference + PARTIAL
            for value in mapping.values():
                walk(value)
        elif isinstance(part, list):
            for value in cast("list[Any]", part):
                walk(value)

    walk(loose.get("properties", {}))
    return loose


def _block(block: _Schema) -> _Schema:
    """A block that stands alone, or one that extends another and then needs nothing else."""
    extends = {"type": "string", "description": "The block this one is merged over; give only what differs."}
    alone = {**block, "properties": {**block["properties"], "extends": extends}}
    child = _partial(alone)
    names = ("title", "description")
    return {
        **{key: block[key] for key in names if key in block},
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {key: value for key, value in child.items() if key not in names},
        "else": {key: value for key, value in alone.items() if key not in names},
    }
