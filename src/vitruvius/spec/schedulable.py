"""The mark of a field that may change while a model trains: it decides what is computed, and no tensor's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedulable:
    """What is known of such a field. Values have the bounds that the field has in a spec, and no others."""

    why: str
    """What it is changed for, in a line; with who did so first where that is known."""
    form: Literal["count", "number", "text"] = "number"
    """`count`: whole numbers; `number`: any; `text`: words or patterns, which have nothing between them."""
    bears_on: Literal["cost", "values"] = "values"
    """`cost`: FLOPs or memory of a step change with it; `values`: only what comes out."""


Marks = Mapping[str, Schedulable]
"""Field -> its mark."""


def marks(**fields: Schedulable) -> Marks:
    """The class attribute `schedulable` of a node."""
    return MappingProxyType(fields)


def marks_of(node: type) -> dict[str, Schedulable]:
    """The schedulable fields of a class, its own and those of its bases that it has; in the order of the fields."""
    found: dict[str, Schedulable] = {}
    for base in reversed(node.__mro__):
        found |= vars(base).get("schedulable", {})
    known: dict[str, object] = getattr(node, "__dataclass_fields__", {})
    return {name: found[name] for name in known if name in found}


ARGUMENT = Schedulable(
    form="count",
    bears_on="cost",
    why="windows and strides that grow with what the model can use: short and cheap first",
)
"""Every whole number in the text of a pattern: it says which pairs are computed, and shapes no tensor."""
