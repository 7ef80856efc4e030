"""Where each value of a spec comes from: a line of a file, an argument, or the default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Literal, cast

from vitruvius.spec.reading import presets_folder
from vitruvius.spec.tree import positions
from vitruvius.spec.writing import to_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vitruvius.spec.reading import Reading
    from vitruvius.spec.tree import Mark, Path

Origin = Literal["default", "file", "argument", "rule"]
"""`argument` is a flag or `--set`; `rule` a default that follows from other values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A value that has no further values in it."""

    path: str
    """Dotted."""
    value: Any
    origin: Origin
    where: str
    """`arch.yaml:3:8`, `--set width=64`; empty for defaults and rules."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"path": self.path, "value": self.value, "origin": self.origin, "where": self.where or None}


def settings_of_spec(reading: Reading) -> list[Setting]:
    """Every value of an architecture, defaults included, and where it was written.

    A value that a block inherits is named at the block where it was written.
    """
    return settings_of(to_data(reading.architecture, defaults="keep"), positions(reading.tree))


def settings_of(
    data: Mapping[str, Any], marks: Mapping[Path, Mark], *, rules: frozenset[str] = frozenset()
) -> list[Setting]:
    """The values of plain data with the places of those that were written; `rules` names dotted paths that follow."""
    return [_setting(path, value, marks, rules) for path, value in _leaves((), data)]


def _setting(path: Path, value: Any, marks: Mapping[Path, Mark], rules: frozenset[str]) -> Setting:
    name = ".".join(map(str, path))
    mark = marks.get(path)
    if mark is None:
        return Setting(path=name, value=value, origin="rule" if name in rules else "default", where="")
    if mark.file.startswith("--"):
        return Setting(path=name, value=value, origin="argument", where=mark.file)
    return Setting(path=name, value=value, origin="file", where=f"{_shown(mark.file)}:{mark.line}:{mark.column}")


def _shown(file: str) -> str:
    """A file as the user wrote it, a preset by its file name."""
    path = FilePath(file)
    return path.name if path.parent == presets_folder() else file


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, child in cast("dict[str, Any]", value).items():
            yield from _leaves((*path, key), child)
    else:
        yield path, value
