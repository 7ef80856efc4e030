"""From an `Architecture` back to plain data and YAML; defaults are left out, comments are not kept.

`read_text(to_yaml(a)).architecture == a`, and writing twice gives the same text.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

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


def _plain(value: object, defaults: str) -> object:
    if isinstance(value, Node):
        return to_data(value, defaults=defaults)
    if isinstance(value, dict):
        return {k: _plain(v, defaults) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_plain(v, defaults) for v in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


_ORDER = ("name", "description", "vocab_size", "width", "context", "embedding", "norm", "head", "init", "blocks", "layers")


def to_yaml(architecture: Architecture) -> str:
    """The spec as YAML text: short mappings on one line, long ones as blocks."""
    data = to_data(architecture)
    keys = [key for key in _ORDER if key in data] + [key for key in data if key not in _ORDER]
    return "".join(_entry(key, data[key], 0) for key in keys)


def _entry(key: str, value: object, depth: int) -> str:
    indent = "  " * depth
    one_line = f"{indent}{_scalar(key)}: {_flow(value)}\n"
    spread = isinstance(value, dict) and bool(value) and (key == "blocks" or depth == 1 and "mixer" in value)
    if isinstance(value, list) and value:
        return f"{indent}{_scalar(key)}:\n" + "".join(f"{indent}  - {_flow(item)}\n" for item in value)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict) or not value or (len(one_line) <= _WIDEST and not spread):
        return one_line
    return f"{indent}{_scalar(key)}:\n" + "".join(_entry(str(k), v, depth + 1) for k, v in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(str(k))}: {_flow(v)}" for k, v in value.items()) + "}"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return "[" + ", ".join(_flow(v) for v in value) + "]"  # pyright: ignore[reportUnknownVariableType]
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
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    return text


def _needs_quotes(text: str) -> bool:
    """Whether a text would be read as something else, or break a flow mapping, when written bare."""
    if not _PLAIN.fullmatch(text):
        return True
    try:
        return read_scalar(text) != text
    except ScalarError:
        return True
