"""Other names that kinds are known by (`Component.aliases`): understood in files, and never written.

They are replaced right after a file was read, before blocks inherit from each other, so that nothing further on knows
of them: a block that says `cable` inherits the settings of one that says `fox`, and both are written as `fox`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vitruvius.spec.node import all_kinds
from vitruvius.spec.tree import EACH, Node, node_at, with_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from vitruvius.spec.node import Component


def canonical_names(tree: Node, bare: AbstractSet[str]) -> Node:
    """The tree with every alias of a kind replaced by its name, after `kind:` and as the value of a key in `bare`."""
    return _renamed(tree, "", bare, _names(all_kinds()))


@cache
def _names(known: tuple[type[Component], ...]) -> Mapping[str, str]:
    return {alias: node.__dataclass_fields__["kind"].default for node in known for alias in node.aliases}


def _renamed(node: Node, key: str, bare: AbstractSet[str], names: Mapping[str, str]) -> Node:
    value = node.value
    if isinstance(value, dict):
        # The values of `each` stand for the field that it is given to.
        fields = {k: _renamed(child, key if k == EACH else k, bare, names) for k, child in value.items()}
        return node if all(fields[k] is child for k, child in value.items()) else with_value(node, fields)
    if isinstance(value, list):
        items = [_renamed(child, key, bare, names) for child in value]
        return node if all(new is old for new, old in zip(items, value, strict=True)) else with_value(node, items)
    if isinstance(value, str) and value in names and (key == "kind" or key in bare):
        return node_at(names[value], node.mark)
    return node
