"""The settings of steps: how they are declared, read from a recipe with their places, and written back."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from vitruvius.errors import DataError, Finding
from vitruvius.spec.reporting import did_you_mean, listed, quoted

if TYPE_CHECKING:
    from dataclasses import Field

    from vitruvius.spec.tree import Mark, Node, PlainData

LIST_FILE_LIMIT = 1 << 30
"""A list of words or domains is at most 1 GiB long."""


def setting(
    default: Any, *, least: float | None = None, most: float | None = None, above: float | None = None, form: str = ""
) -> Any:
    """A dataclass field with bounds; `form` is a regular expression for strings, the whole of each must match."""
    return field(default=default, metadata={"least": least, "most": most, "above": above, "form": form})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFile:
    """A file of words, one a line; blank lines and lines that start with `#` are none."""

    file: str
    """Its path."""
    sha256: str
    """Of its bytes; a file that changed is refused."""

    def words(self) -> tuple[str, ...]:
        """The words.

        Raises:
            DataError: the file is missing or has changed.
        """
        return _words_of(self.file, self.sha256)


@lru_cache(maxsize=16)
def _words_of(file: str, sha256: str) -> tuple[str, ...]:
    content = _list_content(Path(file))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            "the list has changed since the recipe was read", where=file, fix="restore it, or prepare the data again"
        )
    lines = (line.strip() for line in content.decode("utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _list_content(path: Path) -> bytes:
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="give a file with one word a line")
    if path.stat().st_size > LIST_FILE_LIMIT:
        raise DataError(f"the list has more than {LIST_FILE_LIMIT:,} bytes", where=str(path), fix="split it")
    try:
        content = path.read_bytes()
        content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list cannot be read: {error}", where=str(path), fix="save it as UTF-8") from None
    return content


def list_file(path: Path) -> ListFile:
    """The list in a file, with its hash.

    Raises:
        DataError: it cannot be read.
    """
    return ListFile(file=str(path.absolute()), sha256=hashlib.sha256(_list_content(path)).hexdigest())


Words: TypeAlias = tuple[str | ListFile, ...]
"""Words of a list, and files of words: `[one, two, {file: more.txt}]` in a recipe."""


def all_words(entries: Words) -> tuple[str, ...]:
    """Every word of a list and its files, in their order.

    Raises:
        DataError: a file is missing or has changed.
    """
    found: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            found.append(entry)
        else:
            found.extend(entry.words())
    return tuple(found)


@cache
def hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a class's settings."""
    # Steps name this one for type checkers only, in their class variables.
    return get_type_hints(cls, localns={"Mapping": Mapping})


def declared(cls: type[Any]) -> tuple[Field[Any], ...]:
    """The settings of a step, in order."""
    return fields(cls)


def as_plain(value: object) -> PlainData:
    """A setting as JSON holds it."""
    if isinstance(value, ListFile):
        return {"file": value.file, "sha256": value.sha256}
    if is_dataclass(value):
        return settings_as_plain(value)
    if isinstance(value, tuple):
        return [as_plain(part) for part in cast("tuple[object, ...]", value)]
    assert value is None or isinstance(value, (str, int, float))
    return value


def settings_as_plain(owner: Any) -> dict[str, PlainData]:
    """Every setting of a step by its name."""
    return {part.name: as_plain(getattr(owner, part.name)) for part in fields(owner)}


class Findings(list[Finding]):
    """What is wrong with a recipe, gathered while it is read."""

    def note(self, mark: Mark, path: str, what: str, fix: str = "") -> None:
        """Add one at its place."""
        self.append(Finding(what=what, fix=fix, path=path, file=mark.file, line=mark.line, column=mark.column))


def read_settings(cls: type[Any], tree: Node, path: str, folder: Path, findings: Findings) -> Any | None:
    """An object of the settings class `cls` from a mapping; None where something is noted in `findings`.

    `folder` is where relative paths of lists start. What settings refuse together, their class refuses by a DataError.
    """
    assert isinstance(tree.value, dict)
    before = len(findings)
    known = {part.name: part for part in declared(cls)}
    values: dict[str, Any] = {}
    for name, node in tree.value.items():
        part = known.get(name)
        where = f"{path}.{name}" if path else name
        if part is None:
            fix = did_you_mean(name, known) or (f"the settings here are {listed(known)}" if known else "it has none")
            findings.note(tree.key_marks.get(name, tree.mark), where, f"unknown setting {quoted(name)}", fix)
            continue
        reader = _Reader(path=where, folder=folder, findings=findings)
        values[name] = reader.value(hints(cls)[name], node, part)
    for name, part in known.items():
        if name not in values and part.default is MISSING and part.default_factory is MISSING:
            findings.note(tree.mark, path, f"the setting {quoted(name)} is missing", f"add {name}: ...")
    if len(findings) > before:
        return None
    try:
        return cls(**values)
    except DataError as error:
        findings.note(tree.mark, path, f"{error.where}: {error.what}" if error.where else error.what, error.fix)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads one setting."""

    path: str
    folder: Path
    findings: Findings

    def value(self, kind: Any, node: Node, part: Field[Any]) -> Any:
        """The value of a node as `kind`; something is noted where it is none."""
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType) and NoneType in inner:
            if node.value is None or node.value == "none":
                return None
            rest = [one for one in inner if one is not NoneType]
            return self.value(rest[0] if len(rest) == 1 else Union[tuple(rest)], node, part)  # noqa: UP007
        if origin is Literal:
            return self._name(inner, node)
        if origin is tuple:
            return self._several(inner[0], node, part)
        if kind == str | ListFile:
            return self._word(node, part)
        if kind is str:
            return self._text(node, part)
        if kind is int or kind is float:
            return self._number(kind, node, part)
        if isinstance(kind, type) and is_dataclass(kind):
            return self._nested(kind, node)
        message = f"{self.path}: a setting cannot have the type {kind!r}"
        raise TypeError(message)

    def _name(self, names: tuple[Any, ...], node: Node) -> Any:
        if isinstance(node.value, str) and node.value in names:
            return node.value
        shown = node.value if isinstance(node.value, str) else _sort_of(node)
        near = did_you_mean(node.value, names) if isinstance(node.value, str) else ""
        self._note(node, f"{quoted(shown)} is none of its names", near or f"use one of {listed(names)}")
        return None

    def _several(self, kind: Any, node: Node, part: Field[Any]) -> Any:
        if not isinstance(node.value, list):
            self._note(node, f"a list is due here, not {_sort_of(node)}", f"{part.name}: [...]")
            return ()
        return tuple(self.value(kind, child, part) for child in node.value)

    def _nested(self, kind: type[Any], node: Node) -> Any:
        if not isinstance(node.value, dict):
            self._note(node, f"a mapping is due here, not {_sort_of(node)}", f"its settings are {listed(hints(kind))}")
            return None
        return read_settings(kind, node, self.path, self.folder, self.findings)

    def _word(self, node: Node, part: Field[Any]) -> Any:
        if not isinstance(node.value, dict):
            return self._text(node, part)
        if not {"file"} <= node.value.keys() <= {"file", "sha256"}:
            self._note(node, "a word or {file: PATH} is due here", "a file has one word a line")
            return ""
        path, digest = node.value["file"].value, node.value.get("sha256")
        if not isinstance(path, str) or (digest is not None and not isinstance(digest.value, str)):
            self._note(node, "a path is due here", "{file: words.txt}")
            return ""
        try:
            found = list_file(self.folder / path)
        except DataError as error:
            self._note(node, f"{error.where}: {error.what}", error.fix)
            return ""
        if digest is not None and digest.value != found.sha256:
            self._note(node, f"{found.file}: the list has another SHA-256 than the recipe says", "restore the list")
        return found

    def _text(self, node: Node, part: Field[Any]) -> str:
        if not isinstance(node.value, str):
            self._note(node, f"text is due here, not {_sort_of(node)}", "put it in quotes")
            return ""
        form = part.metadata.get("form", "")
        if form and re.fullmatch(form, node.value) is None:
            self._note(node, f"{quoted(node.value)} has not the form {form}")
        return node.value

    def _number(self, kind: Any, node: Node, part: Field[Any]) -> Any:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and isinstance(value, float)):
            due = "a whole number" if kind is int else "a number"
            self._note(node, f"{due} is due here, not {_sort_of(node)}")
            return 0
        if not math.isfinite(value):
            self._note(node, "a finite number is due here")
        least, most, above = (part.metadata.get(name) for name in ("least", "most", "above"))
        bounds = (
            (least is None or value >= least, f"at least {least}"),
            (above is None or value > above, f"more than {above}"),
            (most is None or value <= most, f"at most {most}"),
        )
        for fine, wanted in bounds:
            if not fine:
                self._note(node, f"{value} is out of range: it must be {wanted}", f"use a value that is {wanted}")
        return kind(value)

    def _note(self, node: Node, what: str, fix: str = "") -> None:
        self.findings.note(node.mark, self.path, what, fix)


def _sort_of(node: Node) -> str:
    value = node.value
    names = (
        (bool, "a truth value"), (str, "text"), (int, "a whole number"), (float, "a number"),
        (list, "a list"), (dict, "a mapping"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "nothing")
