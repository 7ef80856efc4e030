"""Fields of an architecture by path: which of them may change while it trains, what they are, and the changed spec.

    blocks.local.mixer.position.theta        a field, as `--set` names it
    blocks.*.mixer.sees                      the same field of every block that has it
    blocks.local.mixer.sees.sliding.window   an argument in the text of a pattern
    blocks.local.mixer.sees.sliding          the same, where the pattern has only one

Paths are those of the architecture as it is read: `extends` is resolved by then, so that a block does not follow the
one it extends; a `*` reaches both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import PatternError, UsageError
from vitruvius.patterns.text import Joined, Named
from vitruvius.patterns.text import read as read_pattern
from vitruvius.spec.node import Node
from vitruvius.spec.reporting import did_you_mean, listed, quoted
from vitruvius.spec.schedulable import ARGUMENT, marks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vitruvius.patterns.text import Argument
    from vitruvius.patterns.text import Node as PatternNode
    from vitruvius.spec.model import Architecture
    from vitruvius.spec.schedulable import Schedulable

Value = int | float | str | None
"""What a schedulable field may hold."""
PATTERN = "sees"
"""The field whose text has arguments of its own."""
LONGEST_PATH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A schedulable field of an architecture."""

    path: str
    """Without `*`, and with the name of a pattern's argument."""
    mark: Schedulable
    value: Value
    """As it is now."""


def fields_at(architecture: Architecture, path: str) -> tuple[Field, ...]:
    """The schedulable fields that a path names; at least one.

    Raises UsageError where there is no such field, or a schedule may not change it.
    """
    if len(path) > LONGEST_PATH:
        raise UsageError(f"a path of {len(path):,} characters names no field", fix="use a path such as mtp.loss_weight")
    keys = path.split(".")
    found = tuple(_walk(architecture, keys, 0))
    if not found:
        above = ".".join(keys[: keys.index("*") if "*" in keys else len(keys) - 1])
        raise UsageError(f"nothing under {quoted(above)} has the field {quoted(keys[-1])}", fix="see `vitruvius show`")
    return found


def all_fields(architecture: Architecture) -> tuple[Field, ...]:
    """Every schedulable field of an architecture, in its own order."""
    return tuple(_everything(architecture, ""))


def with_values(architecture: Architecture, values: Mapping[str, Value]) -> Architecture:
    """The architecture with other values in some of its schedulable fields; nothing else of it is checked.

    Raises UsageError as `fields_at` does.
    """
    for path, value in values.items():
        for field in fields_at(architecture, path):
            architecture = cast("Architecture", _put(architecture, field.path.split("."), value))
    return architecture


# ---------------------------------------------------------------------------------------------------------- walking


def _walk(node: Any, keys: Sequence[str], at: int) -> Iterator[Field]:
    key, above = keys[at], ".".join(keys[:at])
    is_last = at + 1 == len(keys)
    if isinstance(node, dict):
        mapping = cast("dict[str, Any]", node)
        names = [name for name in mapping if fnmatchcase(name, key)] if "*" in key else [key] if key in mapping else []
        if not names:
            fix = did_you_mean(key, mapping) or f"there are {listed(mapping)}"
            raise UsageError(f"{quoted(above)} has no {quoted(key)}", fix=fix)
        for name in names:
            below = [*keys[:at], name, *keys[at + 1 :]]
            if "*" not in key or _has(mapping[name], below[at + 1 :]):
                yield from _inside(mapping[name], below, at)
        return
    if not isinstance(node, Node):
        raise UsageError(f"{quoted(above)} is {node!r}, so it has no field {quoted(key)}", fix="see `vitruvius show`")
    known = [f.name for f in fields(node)]
    if key not in known:
        where = f"{quoted(above)} has" if above else "the spec has"
        raise UsageError(f"{where} no field {quoted(key)}", fix=did_you_mean(key, known) or f"it has {listed(known)}")
    marks = marks_of(type(node))
    value = getattr(node, key)
    if key in marks and is_last:
        yield Field(path=".".join(keys), mark=marks[key], value=value)
    elif key in marks and key == PATTERN:
        argument = _argument(value, keys, at + 1)
        path = ".".join([*keys[: at + 2], argument.parameter.name])
        yield Field(path=path, mark=ARGUMENT, value=argument.value)
    else:
        yield from _inside(value, keys, at, marks=tuple(marks))


def _inside(value: Any, keys: Sequence[str], at: int, *, marks: Sequence[str] = ()) -> Iterator[Field]:
    """What the rest of a path names inside a value that the key at `at` led to."""
    if at + 1 < len(keys):
        yield from _walk(value, keys, at + 1)
        return
    path = ".".join(keys)
    fix = f"beside it, a schedule may change {listed(marks)}" if marks else "docs/training/architecture-schedules.md"
    raise UsageError(f"{quoted(path)} is no field that may change in training: weights depend on it", fix=fix)


def _has(node: Any, keys: Sequence[str]) -> bool:
    """Whether a path leads anywhere, so that a `*` means this node too."""
    for number, key in enumerate(keys):
        if isinstance(node, dict):
            node = cast("dict[str, Any]", node).get(key)
        elif isinstance(node, Node) and key in {f.name for f in fields(node)}:
            if key == PATTERN and number + 1 < len(keys):
                return keys[number + 1] in {named.entry.name for named in _named(getattr(node, key))}
            node = getattr(node, key)
        else:
            return False
    return True


def _everything(node: Any, above: str) -> Iterator[Field]:
    if isinstance(node, dict):
        for name, part in cast("dict[str, Any]", node).items():
            yield from _everything(part, f"{above}{name}.")
    elif isinstance(node, Node):
        marks = marks_of(type(node))
        for f in fields(node):
            value = getattr(node, f.name)
            if f.name in marks:
                yield Field(path=above + f.name, mark=marks[f.name], value=value)
                if f.name == PATTERN:
                    yield from _arguments_in(value, above + f.name)
            else:
                yield from _everything(value, f"{above}{f.name}.")


# --------------------------------------------------------------------------------------------------------- patterns


def _named(text: str) -> list[Named]:
    """The named patterns in a text, in order; none where it cannot be read."""

    def walk(node: PatternNode) -> Iterator[Named]:
        if isinstance(node, Named):
            yield node
        elif isinstance(node, Joined):
            for term in node.terms:
                yield from walk(term)

    try:
        return list(walk(read_pattern(text)))
    except PatternError:
        return []


def _arguments_in(text: str, path: str) -> Iterator[Field]:
    names = [named.entry.name for named in _named(text)]
    for named in _named(text):
        if names.count(named.entry.name) == 1:
            for argument in named.arguments:
                name = f"{path}.{named.entry.name}.{argument.parameter.name}"
                yield Field(path=name, mark=ARGUMENT, value=argument.value)


def _argument(text: str, keys: Sequence[str], at: int) -> Argument:
    """The number in a pattern's text that the keys from `at` on name."""
    above, name, rest = ".".join(keys[:at]), keys[at], list(keys[at + 1 :])
    among = _named(text)
    found = [named for named in among if named.entry.name == name]
    if len(found) != 1:
        known = [named.entry.name for named in among if named.arguments]
        what = f"{quoted(above)} is {quoted(text)}, which has {len(found) or 'no'} {quoted(name)}"
        whole = f"schedule {quoted(above)} itself, whose values are whole patterns"
        raise UsageError(what, fix=whole if found else did_you_mean(name, known) or whole)
    arguments = found[0].arguments
    if not arguments:
        parameters = [parameter.name for parameter in found[0].entry.parameters]
        fix = f"write its {parameters[0]} out in the spec" if parameters else f"schedule {quoted(above)} itself"
        raise UsageError(f"{quoted(name)} in {quoted(text)} has no number to change", fix=fix)
    names = [argument.parameter.name for argument in arguments]
    if not rest and len(arguments) == 1:
        return arguments[0]
    if len(rest) == 1 and rest[0] in names:
        return arguments[names.index(rest[0])]
    what = f"{quoted('.'.join(keys[at:]))} names no number in {quoted(text)}"
    raise UsageError(what, fix=f"use {' or '.join(f'{above}.{name}.{one}' for one in names)}")


# ---------------------------------------------------------------------------------------------------------- putting


def _put(node: Any, keys: Sequence[str], value: Value) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(node, dict):
        mapping = cast("dict[str, Any]", node)
        return {**mapping, key: _put(mapping[key], rest, value)}
    now = getattr(node, key)
    if not rest:
        return replace(node, **{key: value})
    if key == PATTERN and isinstance(now, str):
        argument = _argument(now, keys, 1)
        return replace(node, **{key: f"{now[: argument.start]}{value}{now[argument.stop :]}"})
    return replace(node, **{key: _put(now, rest, value)})
