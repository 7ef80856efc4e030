"""`--set a.b=c`: change a spec for one command, before `extends` is resolved, so that children follow."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vitruvius.errors import Finding, SpecError
from vitruvius.spec.builder import MAX_DEPTH
from vitruvius.spec.characters import HIDDEN, describe, find_foreign
from vitruvius.spec.merge import bare_name
from vitruvius.spec.reporting import Report, did_you_mean, listed, printable, quoted
from vitruvius.spec.source import parse_text
from vitruvius.spec.tree import Mark, Node, children, node_at, walk, with_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

_LONGEST_SHOWN: Final = 100
_FORM: Final = "write `--set PATH=VALUE`, such as `--set width=512`"


def apply_overrides(tree: Node, settings: Sequence[str], *, bare: AbstractSet[str] = frozenset()) -> Node:
    """The tree with each `path=value` of `settings` put in place, later ones over earlier ones.

    A path names keys and list indices, joined by dots (`blocks.local.mixer.heads=16`, `layers.0=dense*4`); a value is
    read as in a file. The last key may be new; what it stands in must exist, in the block itself or in one that it
    extends. A bare name (`norm: rmsnorm`) becomes a mapping when a setting reaches into it.
    Positions name the setting as the file, so that findings about a value point at the argument that brought it.
    Raises SpecError with a finding for every setting that cannot be applied.
    """
    report = Report()
    for text in settings:
        try:
            setting = _read_setting(text)
            tree = _Placement(setting, tree, bare).result()
        except SpecError as error:
            for finding in error.findings:
                report.add_finding(finding)
    report.raise_if_any()
    return tree


# ---------------------------------------------------------------------------------------------------------- reading


def argument_name(text: str) -> str:
    """How findings call a `--set` argument: as the file that its value was read from."""
    return f"--set {shlex.quote(printable(text, _LONGEST_SHOWN))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    file: str
    """`--set width=512`: how findings call this setting."""
    keys: tuple[str, ...]
    columns: tuple[int, ...]
    """Where each key starts in the argument, from 1."""
    value: Node

    def mark(self, index: int) -> Mark:
        """The place of a key."""
        return Mark(self.file, 1, self.columns[index])

    def above(self, index: int) -> str:
        """Dotted path of what the key at `index` is looked for in."""
        return ".".join(self.keys[:index])


def _read_setting(text: str) -> _Setting:
    file = argument_name(text)
    path, equals, value = text.partition("=")
    if not equals:
        raise _error("no '=' between path and value", Mark(file, 1, 1), _FORM)
    keys: list[str] = []
    columns: list[int] = []
    column = 1
    for key in path.split("."):
        _refuse_bad_key(key, Mark(file, 1, column))
        keys.append(key)
        columns.append(column)
        column += len(key) + 1
    if not value.strip():
        raise _error("no value after the '='", Mark(file, 1, column), "write `null` to set nothing")
    # The path becomes spaces, so that a column in the value is a column in the argument.
    try:
        node = parse_text(" " * len(f"{path}=") + value, file=file, top="any")
    except SpecError as error:
        raise SpecError([replace(f, path=f"{path}.{f.path}".rstrip(".")) for f in error.findings]) from None
    depth = len(keys) + max(len(place) for place, _ in walk(node))
    if depth > MAX_DEPTH:
        raise _error(f"nested {depth} levels deep; the limit is {MAX_DEPTH}", Mark(file, 1, 1), "set something simpler")
    return _Setting(file=file, keys=tuple(keys), columns=tuple(columns), value=node)


def _refuse_bad_key(key: str, mark: Mark) -> None:
    if not key:
        raise _error("an empty name in the path", mark, _FORM)
    if len(key) > _LONGEST_SHOWN:
        raise _error(f"a name of {len(key):,} characters in the path; no field is called so", mark, _FORM)
    hidden, foreign = HIDDEN.search(key), find_foreign(key)
    if hidden is not None:
        raise _error(f"the path has {describe(hidden[0])} in it", _moved(mark, hidden.start()), "delete it")
    if foreign is not None:
        what = f"{quoted(key)} has {describe(foreign.character)} in it; keys are ASCII"
        fix = f"type {quoted(foreign.meant)} in ASCII" if foreign.meant else "use ASCII letters"
        raise _error(what, _moved(mark, foreign.position), fix)
    if any(c.isspace() for c in key):
        raise _error(f"a space in the path, in {quoted(key)}", mark, f"{_FORM}, without spaces around the '='")


def _moved(mark: Mark, by: int) -> Mark:
    return mark._replace(column=mark.column + by)


def _error(what: str, mark: Mark, fix: str, path: str = "") -> SpecError:
    return SpecError([Finding(what=what, fix=fix, path=path, file=mark.file, line=mark.line, column=mark.column)])


# ---------------------------------------------------------------------------------------------------------- placing


class _Placement:
    """Puts one setting into a tree: the nodes on the way are copied, all others are shared with the tree before."""

    def __init__(self, setting: _Setting, tree: Node, bare: AbstractSet[str]) -> None:
        self._setting = setting
        self._tree = tree
        self._bare = bare

    def result(self) -> Node:
        """The tree with the value in its place."""
        return self._put(self._tree, 0)

    def _put(self, node: Node, index: int) -> Node:
        """`node` with the value at the rest of the path, from the key at `index` on."""
        if index == len(self._setting.keys):
            return self._setting.value
        node = self._opened(node, index)
        if isinstance(node.value, dict):
            return self._put_in_mapping(node, node.value, index)
        if isinstance(node.value, list):
            return self._put_in_list(node, node.value, index)
        key, above = self._setting.keys[index], self._setting.above(index)
        is_absent = node.value in {None, "none"}
        found = "absent" if is_absent else f"{quoted(str(node.value))}, not a mapping"
        fix = f"set the whole: `--set '{above}={{{key}: ...}}'`" if is_absent else f"set {quoted(above)} itself"
        raise self._refused(
            index,
            f"{quoted(above)} is {found}, so it has no field {quoted(key)}",
            did_you_mean(key, self._siblings(index)) or fix,
        )

    def _opened(self, node: Node, index: int) -> Node:
        """A bare name on the way becomes a mapping with that kind; `none` does so only to be given another kind."""
        setting = self._setting
        if index == 0 or setting.keys[index - 1] not in self._bare or not isinstance(node.value, str):
            return node
        return bare_name(node, none="kind") if node.value != "none" or setting.keys[index] == "kind" else node

    def _put_in_mapping(self, node: Node, fields: dict[str, Node], index: int) -> Node:
        key, is_last = self._setting.keys[index], index + 1 == len(self._setting.keys)
        child = fields.get(key)
        if child is None and not is_last:
            child = self._started(fields, index)
        changed = self._setting.value if is_last or child is None else self._put(child, index + 1)
        marks = dict(node.key_marks)
        if is_last or key not in fields:
            marks[key] = self._setting.mark(index)
        return with_value(node, {**fields, key: changed}, marks)

    def _started(self, fields: dict[str, Node], index: int) -> Node:
        """An empty mapping for a key that the block itself lacks, and one of its ancestors has."""
        keys = self._setting.keys
        inherited = next(_inherited(self._tree, keys[: index + 1]), None)
        if inherited is not None and isinstance(inherited.value, dict | str):
            return node_at({}, self._setting.mark(index))
        if inherited is not None:
            raise self._refused(index, f"{quoted(keys[index])} is inherited, and no mapping", "set the whole")
        known = [*fields, *_inherited_keys(self._tree, keys[:index])]
        above, rest = self._setting.above(index), ".".join(keys[index + 1 :])
        whole = f"set the whole: `--set '{self._setting.above(index + 1)}={{{rest}: ...}}'`"
        near = did_you_mean(keys[index], known)
        fix = near or (whole if len(keys) == index + 2 else f"the fields are {listed(known)}")
        what = "no block" if above == "blocks" else f"{quoted(above) if above else 'the spec'} has no field"
        raise self._refused(index, f"{what} {quoted(keys[index])}", fix)

    def _put_in_list(self, node: Node, items: list[Node], index: int) -> Node:
        key, above = self._setting.keys[index], self._setting.above(index)
        if not (key.isascii() and key.isdigit() and len(key) < 8 and int(key) < len(items)):
            what = f"{quoted(above)} is a list of {len(items)}, and {quoted(key)} is no index into it"
            raise self._refused(
                index, what, f"use 0 to {len(items) - 1}" if items else f"set the whole: `--set {above}=...`"
            )
        changed = list(items)
        changed[int(key)] = self._put(items[int(key)], index + 1)
        return with_value(node, changed)

    def _siblings(self, index: int) -> Iterable[str]:
        """Keys beside the last one that was found: what a dot too many may have been meant for."""
        node = self._tree
        for key in self._setting.keys[: index - 1]:
            node = dict(children(node)).get(key, node)
        return node.value if isinstance(node.value, dict) else ()

    def _refused(self, index: int, what: str, fix: str) -> SpecError:
        return _error(what, self._setting.mark(index), fix, path=self._setting.above(index + 1))


# ------------------------------------------------------------------------------------------------------ inheritance


def _inherited(tree: Node, path: Sequence[str]) -> Iterator[Node]:
    """What a path inside `blocks.NAME` means in the blocks that NAME extends, nearest first."""
    if len(path) < 2 or path[0] != "blocks" or not isinstance(tree.value, dict):
        return
    blocks = tree.value["blocks"].value
    name, seen = path[1], set[str]()
    while isinstance(blocks, dict) and name in blocks and name not in seen:
        seen.add(name)
        extends = dict(children(blocks[name])).get("extends")
        if extends is None or not isinstance(extends.value, str):
            return
        name = extends.value
        node = blocks.get(name)
        for key in path[2:]:
            node = None if node is None else dict(children(node)).get(key)
        if node is not None:
            yield node


def _inherited_keys(tree: Node, path: Sequence[str]) -> Iterator[str]:
    for node in _inherited(tree, path):
        if isinstance(node.value, dict):
            yield from node.value
