"""From a spec file, a preset's name or plain data to a checked `Architecture`, with every finding at its line."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.spec.embeddings import Embedding
from vitruvius.spec.merge import resolve_blocks
from vitruvius.spec.model import Architecture, Block, Claim
from vitruvius.spec.node import FAMILIES, kinds
from vitruvius.spec.overrides import apply_overrides
from vitruvius.spec.rules import findings as rule_findings
from vitruvius.spec.source import load, parse_text
from vitruvius.spec.tree import to_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import TypeAdapter

    from vitruvius.spec.node import Node
    from vitruvius.spec.tree import Node as Tree

BARE_NAMES = frozenset(
    {"embedding", "expert", "ffn", "head", "init", "mixer", "norm", "position", "qk_norm", "router", "scaling"}
    | {"shared_expert"}
)
"""Fields where a bare name means a mapping with that kind: `norm: layernorm` is `norm: {kind: layernorm}`."""

SUFFIXES = (".yaml", ".yml")


Steps: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of the data to a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An architecture and what is worth knowing about it: warnings and notes, at their lines."""

    architecture: Architecture
    findings: tuple[Finding, ...]
    text: str
    """The file as it was read, without overrides."""
    file: str


def read(spec: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> Architecture:
    """The architecture in a spec file or preset; `overrides` are `path=value` texts applied before `extends`.

    Raises SpecError with every error at file:line:column, UsageError when there is no such file or preset.
    """
    return read_with_findings(spec, overrides=overrides).architecture


def read_with_findings(spec: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> Reading:
    """As `read`, with warnings and notes kept."""
    path = locate(spec)
    tree = load(path)
    text = Path(path).read_text(encoding="utf-8-sig")
    return _understand(tree, text, display_name(spec, path), overrides)


def read_text(text: str, *, file: str = "spec", overrides: Sequence[str] = ()) -> Reading:
    """As `read_with_findings`, from the text itself."""
    return _understand(parse_text(text, file=file), text, file, overrides)


def display_name(spec: str | os.PathLike[str], path: Path) -> str:
    """How messages name the file: as the user wrote it, a preset by its file name."""
    return path.name if path.parent == presets_folder() else os.fspath(spec)


def preset(name: str, *, overrides: Sequence[str] = ()) -> Architecture:
    """A preset by name. Raises UsageError with the closest names when there is none."""
    if name not in preset_names():
        raise UsageError(f"there is no preset {name!r}", fix=_closest(name, preset_names()))
    return read(presets_folder() / f"{name}.yaml", overrides=overrides)


@cache
def preset_names() -> tuple[str, ...]:
    """Names of the presets, in alphabetical order with the tiny ones last."""
    names = (Path(entry.name).stem for entry in resources.files(_PRESETS).iterdir() if entry.name.endswith(".yaml"))
    return tuple(sorted(names, key=lambda name: (name.startswith("tiny-"), name)))


_PRESETS = "vitruvius.spec.presets"


@cache
def presets_folder() -> Path:
    """Where the preset files lie."""
    return Path(str(resources.files(_PRESETS)))


def locate(spec: str | os.PathLike[str]) -> Path:
    """The file that a SPEC argument means: an existing file first, then a preset's name, then any other path.

    Raises UsageError naming close presets or files.
    """
    text = os.fspath(spec)
    if "\0" in text or not text:
        raise UsageError("a spec is named by a file or a preset, and this name is empty or holds a NUL")
    path = Path(text)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:
        raise UsageError(f"{text[:80]!r}: {error.strerror}", fix="name a spec file or a preset") from None
    if text in preset_names() and (is_folder or not exists):  # a run folder may well be called like its preset
        return presets_folder() / f"{text}.yaml"
    if exists:
        return path
    near = list(preset_names())
    if path.parent.is_dir():
        near += [str(p) for p in sorted(path.parent.iterdir())[:1000] if p.suffix in SUFFIXES]
    kind = "file" if os.sep in text or path.suffix in SUFFIXES else "file or preset"
    raise UsageError(f"there is no {kind} {text[:200]!r}", fix=_closest(text, near))


def _closest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "vitruvius presets lists the presets; any other name is a path to a YAML file"


@cache
def adapter() -> TypeAdapter[Architecture]:
    """The validator of plain data, built from the registered kinds."""
    from pydantic import TypeAdapter as Adapter

    return Adapter(Architecture)


def _understand(tree: Tree, text: str, file: str, overrides: Sequence[str]) -> Reading:
    tree = resolve_blocks(apply_overrides(tree, overrides, bare=BARE_NAMES), bare=BARE_NAMES)
    plain = to_plain(tree)
    assert isinstance(plain, dict)
    architecture = _validated(plain, tree, file)
    found = [_placed(finding, tree, file) for finding in rule_findings(architecture)]
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise SpecError(_in_order(errors))
    return Reading(architecture=architecture, findings=tuple(_in_order(found)), text=text, file=file)


def _in_order(found: list[Finding]) -> list[Finding]:
    """By place; what several blocks inherit from one line is said once."""
    distinct = {(f.file, f.line, f.column, f.what): f for f in reversed(found)}
    return sorted(distinct.values(), key=lambda f: (f.file, f.line or 0, f.column or 0))


def from_plain(plain: dict[str, Any]) -> Architecture:
    """An architecture from plain data as `to_data` writes it (run folders, reports); findings carry no lines."""
    from pydantic import ValidationError

    try:
        return adapter().validate_json(json.dumps(plain, allow_nan=False))
    except ValidationError as error:
        raise SpecError(_explain_all(error.errors(), plain)) from None


def _validated(plain: dict[str, Any], tree: Tree, file: str) -> Architecture:
    from pydantic import ValidationError

    try:
        return adapter().validate_json(json.dumps(plain, allow_nan=False))
    except ValidationError as error:
        found = [_placed(finding, tree, file) for finding in _explain_all(error.errors(), plain)]
        raise SpecError(_in_order(found)) from None


def _placed(finding: Finding, tree: Tree, file: str) -> Finding:
    """The finding at the line of its path, or of the nearest value above it."""
    node, mark = tree, tree.mark
    for key in finding.path.split(".") if finding.path else ():
        mark = node.key_marks.get(key, mark)
        below = _below(node, key)
        if below is None:
            break
        node = below
        mark = mark if isinstance(node.value, dict) else node.mark
    place = mark.file if mark.file.startswith("--set") else file
    return replace(finding, file=place, line=mark.line, column=mark.column)


def _below(node: Tree, key: str) -> Tree | None:
    """The value under a key or list index, if it is there."""
    if isinstance(node.value, dict):
        return node.value.get(key)
    if isinstance(node.value, list) and key.isdigit():
        items = node.value
        return items[int(key)] if int(key) < len(items) else None
    return None


_UNKNOWN = frozenset({"unexpected_keyword_argument", "extra_forbidden"})
_MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
_DUE = {
    "bool_type": "true or false",
    "dataclass_exact_type": "a mapping",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "list_type": "a list",
    "string_type": "text",
}
"""Pydantic's name of an error -> what should stand there."""


def _explain_all(entries: Sequence[Any], plain: dict[str, Any]) -> list[Finding]:
    """Pydantic's errors in our words, one for each place.

    A field that takes text or a list has an error for either, which become one; a missing field whose misspelt name
    is there as an unknown key is not reported a second time.
    """
    due: dict[Steps, list[str]] = {}
    misspelt: set[Steps] = set()
    for entry in entries:
        path = _walk(entry["loc"], plain)[0]
        if entry["type"] in _DUE:
            due.setdefault(path, []).append(_DUE[entry["type"]])
        if entry["type"] in _UNKNOWN:
            misspelt |= {(*path[:-1], name) for name in _nearest(path, plain)}
    found: dict[Steps, Finding] = {}
    for entry in entries:
        path, value = _walk(entry["loc"], plain)
        if entry["type"] in _DUE and path not in found:
            either = " or ".join(dict.fromkeys(due[path]))
            dotted = ".".join(map(str, path))
            found[path] = Finding(path=dotted, what=f"{_shown(value)} where {either} is due", fix=f"write {either}")
        elif not (entry["type"] in _MISSING and path in misspelt):
            found.setdefault(path, _explain(entry, plain))
    return [finding for path, finding in found.items() if not (path in due and _is_above(path, found))]


def _is_above(path: Steps, others: Iterable[Steps]) -> bool:
    """Whether another path leads to something inside: then the whole was of the right type, and a part is wrong."""
    return any(len(other) > len(path) and other[: len(path)] == path for other in others)


def _nearest(path: Steps, plain: dict[str, Any]) -> list[str]:
    """The known field whose name comes nearest to the last key of a path."""
    return difflib.get_close_matches(str(path[-1]), _fields_at(path[:-1], plain), n=1)


def _explain(entry: Any, plain: dict[str, Any]) -> Finding:
    """One of pydantic's errors in our words, with union tags stripped from its path."""
    path, value = _walk(entry["loc"], plain)
    dotted = ".".join(map(str, path))
    kind, context = entry["type"], entry.get("ctx", {})
    key = str(path[-1]) if path else "spec"
    if kind in _UNKNOWN:
        near = _nearest(path, plain)
        fix = f"did you mean {near[0]!r}?" if near else f"the fields here are {', '.join(_fields_at(path[:-1], plain))}"
        return Finding(path=dotted, what=f"unknown key {key!r}", fix=fix)
    if kind in _MISSING:
        parent = ".".join(map(str, path[:-1]))
        return Finding(path=parent, what=f"{key} is missing", fix=f"add {key}: {_hint(path, plain)}")
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _which_kind(dotted, key, value)
    if kind in {"int_type", "int_parsing", "int_from_float"}:
        return Finding(path=dotted, what=f"{_shown(value)} is not a whole number", fix=_whole(value))
    if kind == "literal_error":
        return Finding(path=dotted, what=f"{_shown(value)} is not one of the choices", fix=f"use {context['expected']}")
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than_equal": "le"}
    if kind in bounds:
        signs = {"gt": ">", "ge": ">=", "le": "<="}
        name = bounds[kind]
        shown = value if len(str(value)) <= 24 else f"{str(value)[:12]}..."
        return Finding(
            path=dotted, what=f"{shown} is out of range", fix=f"use a number {signs[name]} {context[name]:g}"
        )
    return Finding(path=dotted, what=f"{_shown(value)}: {entry['msg'].lower()}")


def _whole(value: object) -> str:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return "remove the quotes"
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    return "write digits only, e.g. 4096"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:36]} ..."


_PLAIN_TAGS = frozenset({"float", "list[str]", "str"})
"""How pydantic names the members of `float | str` and `str | list[str]`."""


def _walk(loc: Steps, plain: object) -> tuple[Steps, Any]:
    """The path in the data that pydantic's `loc` means, and the value there."""
    path: list[str | int] = []
    value: Any = plain
    for i, key in enumerate(loc):
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
        if inside:
            value = cast("Any", value)[key]
        elif key in _PLAIN_TAGS:
            continue
        elif not (isinstance(value, dict) and i == len(loc) - 1):
            continue  # the tag of a union
        else:
            value = None
        path.append(key)
    return tuple(path), cast("Any", value)


def _node_class(path: Steps, plain: dict[str, Any]) -> type[Node] | None:
    """The dataclass that the data at a path is read into."""
    match path:
        case ():
            return Architecture
        case ("blocks", _):
            return Block
        case ("embedding",):
            return Embedding
        case ("claims", _):
            return Claim
        case _:
            value = _walk(path, plain)[1]
            kind = _kind_of(value)
            family = _family_of(path)
            return kinds(family).get(str(kind)) if family else None


def _kind_of(value: object) -> object:
    return cast("dict[str, object]", value).get("kind") if isinstance(value, dict) else None


_FAMILY_OF_KEY = {"expert": "ffn", "shared_expert": "ffn", "qk_norm": "norm"}


def _family_of(path: Steps) -> str | None:
    key = str(path[-1])
    name = _FAMILY_OF_KEY.get(key, key)
    return name if name in FAMILIES else None


def _fields_at(path: Steps, plain: dict[str, Any]) -> list[str]:
    node = _node_class(path, plain)
    names = [f.name for f in fields(node)] if node is not None else []
    return [*names, "extends"] if node is Block else names


def _hint(path: Steps, plain: dict[str, Any]) -> str:
    """The first words of a missing field's documentation stand in its schema; name its type here."""
    node = _node_class(path[:-1], plain)
    if node is None:
        return "..."
    annotation = next(str(f.type) for f in fields(node) if f.name == path[-1])
    return {"PositiveInt": "<a whole number>", "str": "<text>"}.get(annotation, f"<{annotation}>")


def _which_kind(dotted: str, key: str, value: object) -> Finding:
    family = _family_of((key,))
    names = list(kinds(family)) if family else []
    kind = _kind_of(value)
    if kind is None and not isinstance(value, dict):
        what = f"{_shown(value)} where a mapping with a kind is due"
        return Finding(path=dotted, what=what, fix=f"use kind: {', '.join(names)}")
    if kind is None:
        return Finding(path=dotted, what="which kind is this?", fix=f"add kind: {' | '.join(names)}")
    near = difflib.get_close_matches(str(kind), names, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(names)}"
    return Finding(path=f"{dotted}.kind", what=f"there is no {family} kind {_shown(kind)}", fix=fix)
