"""`each`: values by layer, for any field of a block.

    local: {mixer: {..., position: {kind: rope, scaling: {kind: linear, factor: {each: [8, 16, 32, 64]}}}}}
    layers: local*4

The i-th layer of the block takes the i-th value, counted along `layers` (first line first) and then along the layers of
the encoder. A block with values by layer is written out as `local-1`, `local-2`, ..., one for each layer, and the layer
lines name these. A value may be anything that the field takes: a number, a name, a whole mapping. To `extends` it is
one value: it replaces what it meets, and is replaced whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vitruvius.errors import Finding
from vitruvius.spec.lines import LineError, count_blocks, number_layers
from vitruvius.spec.merge import MAX_RESOLVED_NODES, expand_bare_names
from vitruvius.spec.reporting import listed, quoted
from vitruvius.spec.tree import EACH, Node, children, dotted, is_each, node_at, walk, with_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from vitruvius.spec.tree import Path

_LINES: Final[tuple[Path, ...]] = (("layers",), ("encoder", "layers"))
"""Where layers are listed, in the order in which they are counted."""
_REFERENCES: Final = frozenset({"kv_from", "value_from"})
"""Fields of a block that name another block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """A tree without any `each`, and what was wrong with those it had."""

    tree: Node
    findings: tuple[Finding, ...] = ()
    """Errors, with paths into the tree as it was; where one took a value, the new tree has the nearest there is."""


def expand_each(tree: Node, *, bare: AbstractSet[str] = frozenset()) -> Expansion:
    """The tree with every block that has values by layer written out, once for each of its layers.

    Inheritance must be resolved before; `bare` is that of `expand_bare_names`. Layer lines that cannot be read are left
    for whoever reads them next.
    """
    places = [(path, node) for path, node in walk(tree) if is_each(node) and path not in {(), ("blocks",)}]
    if not places:
        return Expansion(tree=tree)
    found = [finding for path, node in places for finding in _misplaced(path, node)]
    lists: dict[str, list[tuple[Path, Node]]] = {}
    outer: Path | None = None
    for path, node in places:  # parents before what is inside them
        if _is_in_block(path) and not (outer is not None and path[: len(outer)] == outer):
            lists.setdefault(str(path[1]), []).append((path, node))
            outer = path
    lines = _read_lines(tree)
    if lines is None:
        return Expansion(tree=_first_values(tree, bare), findings=tuple(found))
    counts: dict[str, int] = {}
    for line in lines.values():
        for name, count in line.counts.items():
            counts[name] = counts.get(name, 0) + count
    numbered = {name: counts[name] for name in lists if counts.get(name)}
    for name, count in numbered.items():
        found += (finding for path, node in lists[name] for finding in _wrong_length(path, node, name, count))
    obstacles = [*_obstacles(tree, numbered), *_too_large(tree, numbered)]
    rewritten = tree
    try:
        rewritten = _with_numbered_lines(tree, lines, numbered)
    except _LineRefusedError as error:
        obstacles.append(error.finding)
    found += obstacles
    if obstacles:
        return Expansion(tree=_first_values(tree, bare), findings=tuple(found))
    return Expansion(tree=_written_out(rewritten, numbered, bare), findings=tuple(found))


# ---------------------------------------------------------------------------------------------------------- looking


def _is_in_block(path: Path) -> bool:
    return path[:1] == ("blocks",) and len(path) > 2


def _misplaced(path: Path, node: Node) -> Iterator[Finding]:
    """What is wrong with an `each` by itself."""
    assert isinstance(node.value, dict)
    at, values = dotted(path), node.value[EACH]
    if path[:1] != ("blocks",):
        what = "`each` gives values by layer, and this is no part of a block"
        yield Finding(path=at, what=what, fix="write one value, or move the field into the blocks")
    elif not _is_in_block(path):
        yield Finding(path=at, what="`each` stands for the value of a field, not for a block", fix=_FORM)
    elif len(node.value) > 1:
        others = [key for key in node.value if key != EACH]
        what = f"`each` stands alone, and here it stands beside {listed(others)}"
        fix = f"put {listed(others)} into its values, or write `each` for single fields"
        yield Finding(path=f"{at}.{others[0]}", what=what, fix=fix)
    elif not isinstance(values.value, list):
        yield Finding(path=f"{at}.{EACH}", what="`each` takes a list, with a value for each layer", fix=_FORM)
    elif not values.value:
        what = "an empty list, where each layer of the block needs a value"
        yield Finding(path=f"{at}.{EACH}", what=what, fix=_FORM)
    elif any(is_each(inner) for _, inner in walk(values)):
        yield Finding(path=f"{at}.{EACH}", what="an `each` inside another one", fix="write the values out")


_FORM: Final = "write `heads: {each: [8, 16, 16, 32]}` for a block of four layers"


def _values(node: Node) -> list[Node]:
    """The values of an `each`; none where it has no list."""
    assert isinstance(node.value, dict)
    values = node.value[EACH].value
    return values if isinstance(values, list) else []


def _wrong_length(path: Path, node: Node, name: str, layers: int) -> Iterator[Finding]:
    values = _values(node)
    if values and len(values) != layers:
        has = "1 layer" if layers == 1 else f"{layers:,} layers"
        what = f"{_numbers(len(values))}, and {quoted(name)} has {has}"
        fix = f"give {_numbers(layers)}, or one without `each`"
        yield Finding(path=f"{dotted(path)}.{EACH}", what=what, fix=fix)


def _numbers(count: int) -> str:
    return "1 value" if count == 1 else f"{count:,} values"


def _obstacles(tree: Node, numbered: Mapping[str, int]) -> Iterator[Finding]:
    """What stands in the way of telling the layers of these blocks apart."""
    blocks = _blocks(tree)
    for name, count in numbered.items():
        taken = [other for other in (f"{name}-{i}" for i in range(1, count + 1)) if other in blocks]
        if taken:
            what = f"this is also the name of a layer of {quoted(name)}, whose values differ by layer"
            yield Finding(path=f"blocks.{taken[0]}", what=what, fix="give this block another name")
        weights = dict(children(blocks[name])).get("weights")
        if weights is not None and weights.value == "shared":
            what = f"the layers of {quoted(name)} share their weights, and their values differ by `each`"
            yield Finding(path=f"blocks.{name}.weights", what=what, fix="remove one of the two")
    for path, node in walk(tree):
        is_reference = path == ("mtp", "block") or (_is_in_block(path) and path[-1] in _REFERENCES)
        if is_reference and isinstance(node.value, str) and node.value in numbered:
            what = f"this names {quoted(node.value)}, of which no two layers are alike: their values differ by `each`"
            yield Finding(path=dotted(path), what=what, fix="name a block whose layers are all alike")


def _too_large(tree: Node, numbered: Mapping[str, int]) -> Iterator[Finding]:
    blocks, total = _blocks(tree), 0
    for name, count in numbered.items():
        sizes = [sum(1 for _ in walk(node)) for _, node in walk(blocks[name]) if is_each(node)]
        total += count * (sum(1 for _ in walk(blocks[name])) - sum(sizes)) + sum(sizes)
        if total > MAX_RESOLVED_NODES:
            what = f"the blocks have more than {MAX_RESOLVED_NODES:,} values once their layers are written out"
            yield Finding(path=f"blocks.{name}", what=what, fix="use fewer layers with values of their own")
            return


def _blocks(tree: Node) -> dict[str, Node]:
    blocks = dict(children(tree)).get("blocks")
    return blocks.value if blocks is not None and isinstance(blocks.value, dict) else {}


# ------------------------------------------------------------------------------------------------------------ lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    text: str
    counts: dict[str, int]


class _LineRefusedError(Exception):
    """A line in which layers that differ share their weights."""

    def __init__(self, path: Path, error: LineError) -> None:
        at = "" if error.position is None else f" (character {error.position + 1})"
        self.finding = Finding(path=dotted(path), what=error.what + at, fix=error.fix)
        super().__init__(error.what)


def _read_lines(tree: Node) -> dict[Path, _Line] | None:
    """Every layer line by its path, or None where one cannot be read."""
    blocks = _blocks(tree)
    found: dict[Path, _Line] = {}
    for top in _LINES:
        node = _at(tree, top)
        if node is None:
            continue
        whole = [(top, node)] if not isinstance(node.value, list) else [((*top, i), n) for i, n in children(node)]
        for path, line in whole:
            if not isinstance(line.value, str):
                return None
            try:
                found[path] = _Line(text=line.value, counts=count_blocks(line.value, blocks))
            except LineError:
                return None
    return found


def _at(tree: Node, path: Path) -> Node | None:
    node: Node | None = tree
    for key in path:
        node = None if node is None else dict(children(node)).get(key)
    return node


def _with_numbered_lines(tree: Node, lines: Mapping[Path, _Line], numbered: Mapping[str, int]) -> Node:
    """The tree whose layer lines name a block for each layer. Raises _LineRefusedError."""
    blocks = _blocks(tree)
    counts: dict[str, int] = {}
    for path, line in lines.items():
        if numbered.keys().isdisjoint(line.counts):
            continue
        try:
            text = number_layers(line.text, numbered.keys(), counts, blocks)
        except LineError as error:
            raise _LineRefusedError(path, error) from None
        tree = _replaced(tree, path, text)
    return tree


def _replaced(node: Node, path: Path, text: str) -> Node:
    """The tree with another text at a path."""
    if not path:
        return node_at(text, node.mark)
    key, *rest = path
    if isinstance(node.value, dict):
        return with_value(node, {**node.value, str(key): _replaced(node.value[str(key)], tuple(rest), text)})
    assert isinstance(node.value, list), "the path was found in this tree"
    items = list(node.value)
    items[int(key)] = _replaced(items[int(key)], tuple(rest), text)
    return with_value(node, items)


# ----------------------------------------------------------------------------------------------------------- blocks


def _written_out(tree: Node, numbered: Mapping[str, int], bare: AbstractSet[str]) -> Node:
    """The tree with one block for each layer of the numbered ones, at the place of the block."""
    assert isinstance(tree.value, dict), "a tree with blocks is a mapping"
    whole = tree.value["blocks"]
    blocks: dict[str, Node] = {}
    marks = dict(whole.key_marks)
    for name, block in _blocks(tree).items():
        if name not in numbered:
            blocks[name] = block
            continue
        for index in range(numbered[name]):
            own = f"{name}-{index + 1}"
            blocks[own] = _chosen(block, index)
            marks[own] = whole.key_marks.get(name, block.mark)
    # Blocks that no layer uses are still read, with their first values.
    return _first_values(with_value(tree, {**tree.value, "blocks": with_value(whole, blocks, marks)}), bare)


def _first_values(tree: Node, bare: AbstractSet[str]) -> Node:
    """The tree with the first value of every `each` in its place."""
    if not isinstance(tree.value, dict):
        return tree
    fields = {key: _chosen(node, 0) for key, node in tree.value.items() if key != "blocks"}
    whole = tree.value.get("blocks")
    if whole is not None:
        blocks = {name: _chosen(block, 0) for name, block in _blocks(tree).items()}
        fields["blocks"] = with_value(whole, blocks) if blocks else whole
    return expand_bare_names(with_value(tree, fields), bare)


def _chosen(node: Node, index: int) -> Node:
    """The node with the value at `index` of every `each`, or the last there is; null where there is none."""
    if is_each(node):
        values = _values(node)
        if not values:
            # Where the finding about the `each` stands, so that what is said of this null is not said twice.
            assert isinstance(node.value, dict)
            inside = node.value[EACH]
            return node_at(None, node.key_marks[EACH] if isinstance(inside.value, dict) else inside.mark)
        return _chosen(values[min(index, len(values) - 1)], index)
    if isinstance(node.value, list):
        items = [_chosen(child, index) for child in node.value]
        return node if all(a is b for a, b in zip(items, node.value, strict=True)) else with_value(node, items)
    if not isinstance(node.value, dict):
        return node
    fields = {key: _chosen(child, index) for key, child in node.value.items()}
    changed = [key for key, child in node.value.items() if fields[key] is not child]
    if not changed:
        return node
    # A finding about a mapping points at its key: that of a value by layer is the value itself.
    marks = {key: fields[key].mark for key in changed if is_each(node.value[key])}
    return with_value(node, fields, {**node.key_marks, **marks})
