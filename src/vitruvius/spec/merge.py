"""`extends`: a block that says only what differs from another one.

    full: {extends: local, mixer: {sees: causal}}

The child is merged over its parent key by key. Scalars and lists replace what they meet; a mapping is merged into
the one it meets, unless both name a `kind` and the kinds differ: then it replaces it whole. A mapping of values by
layer (`vitruvius.spec.each`) replaces, and is replaced, whole. What is inherited keeps
the place where it was written, so that a finding about it points there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from vitruvius.spec.reporting import Report, did_you_mean, listed, quoted
from vitruvius.spec.tree import Node, children, is_each, node_at, walk, with_value

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

MAX_RESOLVED_NODES: Final = 200_000
"""All blocks together have at most this many values once each is written out."""

_LONGEST_CIRCLE: Final = 8

Absence: TypeAlias = Literal["null", "kind"]
"""What the bare name `none` becomes: null, or a mapping `{kind: none}`."""


def resolve_blocks(
    tree: Node,
    *,
    bare: AbstractSet[str] = frozenset(),
    none: Absence = "null",
    own: AbstractSet[str] = frozenset(),
) -> Node:
    """The tree with bare names expanded and every block of `blocks` written out; no `extends` is left.

    `bare` and `none` are those of `expand_bare_names`; the keys in `own` are not inherited. What is not a mapping
    where one is due is left for the schema to refuse.
    Raises SpecError for unknown parents, for blocks that extend each other in a circle, and for inheritance that
    multiplies a small file into a huge one.
    """
    tree = expand_bare_names(tree, bare, none)
    if not isinstance(tree.value, dict):
        return tree
    blocks = tree.value.get("blocks")
    if blocks is None or not isinstance(blocks.value, dict):
        return tree
    resolver = _Resolver(blocks.value, own)
    resolved = {name: resolver.resolve(name) for name in blocks.value}
    resolver.report.raise_if_any()
    return with_value(tree, {**tree.value, "blocks": with_value(blocks, resolved)})


def expand_bare_names(tree: Node, bare: AbstractSet[str], none: Absence = "null") -> Node:
    """The tree with `norm: layernorm` read as `norm: {kind: layernorm}` for every key in `bare`.

    `none` there stands for the absence of the thing: it becomes null, which replaces what a block inherits, or with
    `none="kind"` the mapping `{kind: none}`. Names under `layers` are names of stacks, not fields, and stay.
    """
    if isinstance(tree.value, list):
        return with_value(tree, [expand_bare_names(child, bare, none) for child in tree.value])
    if not isinstance(tree.value, dict):
        return tree
    expanded = {
        key: bare_name(child, none)
        if key in bare and isinstance(child.value, str)
        else child
        if key == "layers"
        else expand_bare_names(child, bare, none)
        for key, child in tree.value.items()
    }
    return with_value(tree, expanded)


def bare_name(node: Node, none: Absence = "null") -> Node:
    """What a bare name stands for, at its own place."""
    if node.value == "none" and none == "null":
        return node_at(None, node.mark)
    return node_at({"kind": node_at(node.value, node.mark)}, node.mark)


def merge(parent: Node, child: Node) -> Node:
    """`child` over `parent`: mappings key by key, anything else, a mapping of another kind and `each` whole."""
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)) or is_each(parent) or is_each(child):
        return child
    old, new = parent.value.get("kind"), child.value.get("kind")
    if old is not None and new is not None and old.value != new.value:
        return child
    merged = dict(parent.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return with_value(child, merged, {**parent.key_marks, **child.key_marks})


class _Resolver:
    """Writes out blocks, each once, parents before children."""

    def __init__(self, blocks: dict[str, Node], own: AbstractSet[str]) -> None:
        self.report = Report()
        self._blocks = blocks
        self._own = own
        self._done: dict[str, Node] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0

    def resolve(self, name: str) -> Node:
        """The block `name`, written out."""
        chain: dict[str, None] = {}
        current: str | None = name
        while current is not None and current not in self._done:
            chain[current] = None
            current = self._parent(current, chain)
        for link in reversed(chain):
            self._done[link] = self._written_out(link, current)
            current = link
        return self._done[name]

    def _parent(self, name: str, chain: dict[str, None]) -> str | None:
        """The block that `name` extends, or None when it extends nothing or something it cannot."""
        block = self._blocks[name]
        extends = block.value.get("extends") if isinstance(block.value, dict) else None
        if extends is None:
            return None
        parent, path = extends.value, f"blocks.{name}.extends"
        if not isinstance(parent, str):
            fix = "write `extends: NAME`; for several parents, let one extend the other"
            self.report.add("`extends` takes the name of one block", mark=extends.mark, path=path, fix=fix)
        elif parent not in self._blocks:
            self.report.add(f"no block {quoted(parent)}", mark=extends.mark, path=path, fix=self._nearest(parent, name))
        elif parent in chain:
            links = list(chain)
            circle = [*links[links.index(parent) :], parent]
            shown = circle if len(circle) <= _LONGEST_CIRCLE else [*circle[:_LONGEST_CIRCLE], "...", parent]
            fix = "let one of them extend nothing"
            self.report.add(f"`extends` goes in a circle: {' -> '.join(shown)}", mark=extends.mark, path=path, fix=fix)
        else:
            return parent
        return None

    def _nearest(self, parent: str, name: str) -> str:
        if self.report.is_full:
            return ""
        others = [block for block in self._blocks if block != name]
        if not others:
            return "there is no other block: delete the line"
        return did_you_mean(parent, others) or f"the other blocks are {listed(others)}"

    def _written_out(self, name: str, parent: str | None) -> Node:
        """The block over its resolved parent, without its `extends`."""
        block = self._blocks[name]
        if not isinstance(block.value, dict) or not self.report.is_empty:
            return block
        body = _without(block, frozenset({"extends"}))
        size = sum(1 for _ in walk(body)) + (self._sizes.get(parent, 0) if parent else 0)
        self._sizes[name] = size
        self._total += size
        if self._total > MAX_RESOLVED_NODES:
            what = f"the blocks have more than {MAX_RESOLVED_NODES:,} values once what they inherit is written out"
            self.report.add(what, mark=block.mark, path=f"blocks.{name}", fix="extend smaller blocks, or fewer times")
            return body
        if parent is None:
            return body
        return merge(_without(self._done[parent], self._own), body)


def _without(node: Node, keys: AbstractSet[str]) -> Node:
    """A mapping without some keys; other nodes as they are."""
    if not isinstance(node.value, dict) or keys.isdisjoint(node.value):
        return node
    kept = {str(key): child for key, child in children(node) if key not in keys}
    return with_value(node, kept, {key: mark for key, mark in node.key_marks.items() if key in kept})
