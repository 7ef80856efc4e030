"""What a spec file says, as plain values that remember where they were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of the file to a value."""


EACH: Final = "each"
"""The key of a mapping that gives a value for each layer; `vitruvius.spec.each` writes them out."""


class Mark(NamedTuple):
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and the place where it was written."""

    value: Scalar | dict[str, Node] | list[Node]
    line: int
    """Line of the value, from 1."""
    column: int
    """Column of the value in characters, from 1."""
    file: str
    key_marks: Mapping[str, Mark] = field(default_factory=dict[str, Mark])
    """Of a mapping: where each of its keys was written."""

    @property
    def mark(self) -> Mark:
        """Where the value was written."""
        return Mark(self.file, self.line, self.column)


def node_at(value: Scalar | dict[str, Node] | list[Node], mark: Mark) -> Node:
    """A node written at `mark`; a mapping's keys are placed there too."""
    key_marks = dict.fromkeys(value, mark) if isinstance(value, dict) else {}
    return Node(value=value, line=mark.line, column=mark.column, file=mark.file, key_marks=key_marks)


def with_value(node: Node, value: dict[str, Node] | list[Node], key_marks: Mapping[str, Mark] | None = None) -> Node:
    """`node` with other contents, at its own place."""
    marks = node.key_marks if key_marks is None else key_marks
    return Node(value=value, line=node.line, column=node.column, file=node.file, key_marks=marks)


def tree_of(value: Any, mark: Mark) -> Node:
    """Plain data as a tree, every part of it at `mark`."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return node_at({str(key): tree_of(child, mark) for key, child in entries.items()}, mark)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return node_at([tree_of(child, mark) for child in cast("Sequence[Any]", value)], mark)
    return node_at(value, mark)


PlainData: TypeAlias = "Scalar | dict[str, PlainData] | list[PlainData]"


def to_plain(node: Node) -> PlainData:
    """The bare data of a tree, as JSON knows it."""
    if isinstance(node.value, dict):
        return {key: to_plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(child) for child in node.value]
    return node.value


def positions(node: Node) -> dict[Path, Mark]:
    """Path of every value -> (file, line, column) where that value was written; `()` is the file itself."""
    return {path: child.mark for path, child in walk(node)}


def key_positions(node: Node) -> dict[Path, Mark]:
    """Path of every mapping entry -> (file, line, column) of its key, for findings about the key itself."""
    return {(*path, key): mark for path, child in walk(node) for key, mark in child.key_marks.items()}


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node under `node` with its path, parents first."""
    pending: list[tuple[Path, Node]] = [(path, node)]
    while pending:
        where, current = pending.pop()
        yield where, current
        pending.extend(reversed([((*where, key), child) for key, child in children(current)]))


def children(node: Node) -> Iterator[tuple[str | int, Node]]:
    """The entries of a mapping or list, by key or index; nothing for a scalar."""
    if isinstance(node.value, dict):
        yield from node.value.items()
    elif isinstance(node.value, list):
        yield from enumerate(node.value)


def is_each(node: Node) -> bool:
    """Whether a node gives values by layer: `{each: [8, 16]}`."""
    return isinstance(node.value, dict) and EACH in node.value


def dotted(path: Path) -> str:
    """`blocks.local.mixer`, as findings name a path."""
    return ".".join(str(part) for part in path)
