"""From an `Architecture` back to plain data and YAML; defaults are left out, comments are not kept.

`read_text(to_yaml(a)).architecture == a`, and writing twice gives the same text.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitruvius.spec.node import Component, Node
from vitruvius.spec.scalars import ScalarError, read_scalar

if TYPE_CHECKING:
    from vitruvius.spec.model import Architecture

_WIDEST = 110
_PLAIN = re.compile(r"[A-Za-z]([A-Za-z0-9_ .()&|=+*/-]*[A-Za-z0-9_.)])?")


def to_data(node: Node, *, defaults: str = "omit") -> dict[str, Any]:
    """Plain data of a node; `defaults="keep"` spells every field out, as golden files do."""
    data: dict[str, Any] = {}
    for f in fields(node):  # pyright: ignore[reportArgumentType]
        value = getattr(node, f.name)
        if defaults == "omit" and not (f.name == "kind" and isinstance(node, Component)) and _is_default(f, value):
            continue
        data[f.name] = _plain(value, defaults)
    return data


def _is_default(f: Any, value: object) -> bool:
    if f.default is not MISSING:
        return bool(value == f.default and type(value) is type(f.default))
    return f.default_factory is not MISSING and value == f.default_factory()


def _plain(value: Any, defaults: str) -> Any:
    if isinstance(value, Node):
        return to_data(value, defaults=defaults)
    if isinstance(value, dict):
        return {k: _plain(v, defaults) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, defaults) for v in cast("list[Any]", value)]
    return value


_ORDER = (
    "name",
    "description",
    "vocab_size",
    "width",
    "context",
    "embedding",
    "norm",
    "head",
    "init",
    "blocks",
    "layers",
)


def write(architecture: Architecture, path: str | os.PathLike[str]) -> None:
    """Write the spec as YAML, whole or not at all: an interrupted write leaves the old file.

    Raises OSError when the file cannot be written.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(to_yaml(architecture))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_yaml(architecture: Architecture) -> str:
    """The spec as YAML text: short mappings on one line, long ones as blocks."""
    data = to_data(architecture)
    keys = [key for key in _ORDER if key in data] + [key for key in data if key not in _ORDER]
    return "".join(_entry(key, data[key], 0) for key in keys)


def _entry(key: str, value: Any, depth: int) -> str:
    indent = "  " * depth
    head = f"{indent}{_scalar(key)}:"
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        return f"{head}\n" + "".join(f"{indent}  - {flow(item)}\n" for item in items)
    one_line = f"{head} {flow(value)}\n"
    if not isinstance(value, dict) or not value:
        return one_line
    mapping = cast("dict[str, Any]", value)
    spread = key == "blocks" or (depth == 1 and "mixer" in mapping)
    if len(one_line) <= _WIDEST and not spread:
        return one_line
    return f"{head}\n" + "".join(_entry(k, v, depth + 1) for k, v in mapping.items())


def flow(value: Any) -> str:
    """Plain data as YAML on one line, which reads back as what it was."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{_scalar(k)}: {flow(v)}" for k, v in mapping.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(v) for v in cast("list[Any]", value)) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    if _needs_quotes(text):
        return f'"{"".join(map(_escaped, text))}"'
    return text


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def _escaped(character: str) -> str:
    """A character as it stands between double quotes; what does not show is written by its number."""
    if character in _ESCAPES or character.isprintable():
        return _ESCAPES.get(character, character)
    number = ord(character)
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _needs_quotes(text: str) -> bool:
    """Whether a text would be read as something else, or break a flow mapping, when written bare."""
    if not _PLAIN.fullmatch(text):
        return True
    try:
        return read_scalar(text) != text
    except ScalarError:
        return True
