"""A sources file: the parts of a corpus by name, each with its inputs, its recipe and its weight in the mixture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitruvius.data.cleaning.recipe import BUILT_IN, read_recipe
from vitruvius.data.cleaning.settings import Findings, read_settings, setting
from vitruvius.data.options import Source
from vitruvius.data.reading.inputs import InputKind  # noqa: TC001 (read for the types of the settings)
from vitruvius.data.reading.options import LINE_LIMIT, ReadOptions
from vitruvius.errors import UsageError, VitruviusError
from vitruvius.spec.reporting import refusal
from vitruvius.spec.source import load

if TYPE_CHECKING:
    from vitruvius.spec.tree import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What stands under a source's name."""

    inputs: tuple[str, ...] = ()
    recipe: str = "plain"
    weight: float | None = setting(None, above=0)
    kind: InputKind = "auto"
    field: str = "text"
    url_field: str = "url"
    markup: Literal["plain", "html"] = "plain"
    extensions: tuple[str, ...] = (".py",)
    document_bytes: int = setting(LINE_LIMIT, least=1)
    line_bytes: int = setting(LINE_LIMIT, least=1, most=2**31 - 1)


def read_sources(path: Path) -> tuple[Source, ...]:
    """The sources of a YAML file:

        web:
          inputs: [pages/*.jsonl.zst]
          recipe: web
          weight: 0.7
        code:
          inputs: [src/]
          kind: source
          recipe: code
          weight: 0.3

    Relative paths, patterns (`*`) and recipe files are looked for beside the file.

    Raises:
        SpecError: every finding at its line.
        UsageError: there is no such file.
        DataError: a recipe's list of words is wrong.
    """
    if not path.is_file():
        raise UsageError("there is no such file", where=f"--sources {path}", fix="name a YAML file of sources")
    tree = load(path)
    findings = Findings()
    sources: list[Source] = []
    if isinstance(tree.value, dict) and tree.value:
        for name, node in tree.value.items():
            source = _source(name, node, path.parent, findings)
            if source is not None:
                sources.append(source)
    else:
        findings.note(tree.mark, "", "a mapping of sources is due here", "web: {inputs: [pages/], recipe: web}")
    if findings:
        raise refusal(findings)
    return tuple(sources)


def _source(name: str, node: Node, folder: Path, findings: Findings) -> Source | None:
    if not isinstance(node.value, dict):
        findings.note(node.mark, name, "the settings of a source are a mapping", "{inputs: [pages/], recipe: web}")
        return None
    entry = read_settings(_Entry, node, name, folder, findings)
    if entry is None:
        return None
    if not entry.inputs:
        findings.note(node.mark, f"{name}.inputs", "the source has no inputs", "inputs: [pages/]")
        return None
    try:
        recipe = read_recipe(entry.recipe if entry.recipe in BUILT_IN else folder / entry.recipe)
        return Source(
            name=name,
            inputs=tuple(found for pattern in entry.inputs for found in _matching(folder, pattern)),
            weight=entry.weight,
            recipe=recipe,
            kind=entry.kind,
            reading=ReadOptions(
                field=entry.field,
                url_field=entry.url_field,
                markup=entry.markup,
                document_bytes=entry.document_bytes,
                limit=entry.line_bytes,
            ),
            extensions=entry.extensions,
        )
    except UsageError as error:
        findings.note(node.mark, name, VitruviusError(error.what).what, error.fix)
        return None


def _matching(folder: Path, pattern: str) -> list[str]:
    """The files of a pattern, or the name as it is: a path beside the file, or else the name of a corpus."""
    from vitruvius.data.reading.corpora import CORPORA

    if any(mark in pattern for mark in "*?["):
        anchor = Path(pattern)
        base = Path(anchor.anchor) if anchor.is_absolute() else folder
        relative = anchor.relative_to(anchor.anchor) if anchor.is_absolute() else anchor
        return [str(path) for path in sorted(base.glob(str(relative)))] or [str(folder / pattern)]
    if pattern in CORPORA or pattern.startswith("hf:"):
        return [pattern]
    return [str(folder / pattern)]
