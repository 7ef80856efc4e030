"""A recipe: the steps of cleaning in their order, and what counts as a duplicate."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vitruvius.data.cleaning.run import EMPTIED, EMPTIED_MEANING
from vitruvius.data.cleaning.settings import Findings, as_plain, read_settings, settings_as_plain
from vitruvius.data.cleaning.step import Rewriter, Rule, Step
from vitruvius.data.cleaning.table import kinds
from vitruvius.data.dedup.settings import DedupSettings
from vitruvius.data.extras import require
from vitruvius.errors import Finding, UsageError
from vitruvius.spec.reporting import did_you_mean, listed, printable, quoted, refusal
from vitruvius.spec.source import MAX_BYTES, parse_text
from vitruvius.spec.tree import Mark, Node, tree_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vitruvius.spec.tree import PlainData

BUILT_IN: Final = ("plain", "web", "docs", "code")
"""Names of the recipes that come with Vitruvius."""

SUFFIXES: Final = (".yaml", ".yml")
_START: Final = "start with steps: [html, whitespace]"
_SECTIONS: Final = ("name", "steps", "duplicates")
_LONGEST_NAME: Final = 100
_MOST_STEPS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to every document."""

    name: str
    """What it is called in reports."""
    steps: tuple[Step, ...]
    """Rules and rewriters, in the order in which a document meets them."""
    deduplicate: DedupSettings
    """Which of the documents that are kept count as duplicates."""

    def as_json(self) -> dict[str, PlainData]:
        """The recipe with every setting, defaults included: what `from_json` reads again."""
        steps: list[PlainData] = [{"kind": step.kind, **settings_as_plain(step)} for step in self.steps]
        return {"name": self.name, "steps": steps, "duplicates": as_plain(self.deduplicate)}

    @property
    def reasons(self) -> dict[str, str]:
        """Every reason for which a step of it may drop a document -> what it means."""
        found: dict[str, str] = {}
        for step in self.steps:
            if isinstance(step, Rule):
                found.update(step.reasons)
            elif isinstance(step, Rewriter):
                found[EMPTIED] = EMPTIED_MEANING
        return found

    @property
    def changes(self) -> dict[str, str]:
        """`KIND.CHANGE` -> what it is, for every change that its rewriters count."""
        return {
            f"{step.kind}.{name}": meaning
            for step in self.steps
            if isinstance(step, Rewriter)
            for name, meaning in step.counts.items()
        }


def read_recipe(recipe: str | Path) -> Recipe:
    """A recipe by its name, or from a YAML file, whose steps have what they need on this machine.

    Raises:
        SpecError: every finding at its line.
        UsageError: there is neither such a name nor such a file.
        MissingExtraError: a step needs a package that is not installed.
    """
    found = _read(recipe)
    for step in found.steps:
        require(*getattr(step, "packages", ()))
    return found


def _read(recipe: str | Path) -> Recipe:
    if isinstance(recipe, str) and recipe in BUILT_IN:
        place = resources.files("vitruvius.data.cleaning") / "recipes" / f"{recipe}.yaml"
        return recipe_from_text(place.read_text(encoding="utf-8"), file=f"{recipe}.yaml")
    path = Path(recipe)
    if not path.exists():
        near = did_you_mean(str(recipe), BUILT_IN)
        raise UsageError(
            f"there is no recipe {quoted(str(recipe), 200)}",
            where="--recipe",
            fix=near or f"use one of {listed(BUILT_IN)}, or the path of a YAML file",
        )
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"a recipe is a YAML file, and {quoted(path.name, 200)} is none by its name",
            where="--recipe",
            fix=f"use one of {listed(BUILT_IN)}, or a file that ends in .yaml",
        )
    return _recipe_of(_load(path), path.parent, default_name=path.stem[:_LONGEST_NAME])


def _load(path: Path) -> Node:
    file = printable(str(path), 400)
    if not path.is_file():
        raise UsageError("this is no regular file", where=file, fix="give the path of a YAML file")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read it: {error.strerror or error}", where=file, fix="check its permissions"
        ) from None
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"a recipe has at most {MAX_BYTES:,} bytes, and this has more",
            where=file,
            fix="put long lists into files of their own: {file: domains.txt}",
        )
    return _parsed(content, file)


def _parsed(text: str | bytes, file: str) -> Node:
    if not any(line.strip() and line.lstrip()[:1] not in ("#", b"#") for line in text.splitlines()):
        raise refusal([Finding(what="the recipe is empty", fix=_START, file=file, line=1)])
    return parse_text(text, file=file, top="any")


def recipe_from_text(text: str, *, file: str = "recipe.yaml", folder: Path | None = None) -> Recipe:
    """A recipe from YAML; lists of words are looked for in `folder`.

    Raises:
        SpecError: every finding at its line of `file`.
    """
    return _recipe_of(_parsed(text, file), folder or Path(), default_name=Path(file).stem)


def recipe_from_json(content: Mapping[str, Any], *, file: str = "index.json") -> Recipe:
    """A recipe as `Recipe.as_json` gave it, read from `file`.

    Raises:
        SpecError: it is none, or a kind or setting in it is unknown to this version.
        DataError: a list of words is missing or has changed.
    """
    return _recipe_of(tree_of(content, Mark(file, 1, 1)), Path(), default_name="")


def _recipe_of(tree: Node, folder: Path, *, default_name: str) -> Recipe:
    findings = Findings()
    sections: dict[str, Node] = {}
    if isinstance(tree.value, dict):
        sections = tree.value
    else:
        findings.note(tree.mark, "", "a recipe is a mapping of sections", _START)
        raise refusal(findings)
    for key in sections:
        if key not in _SECTIONS:
            fix = did_you_mean(key, _SECTIONS) or f"the sections of a recipe are {listed(_SECTIONS)}"
            findings.note(tree.key_marks.get(key, tree.mark), key, f"unknown section {quoted(key)}", fix)
    name = _name(sections.get("name"), findings, default_name)
    steps = _steps(sections.get("steps"), tree, folder, findings)
    duplicates = _duplicates(sections.get("duplicates"), folder, findings)
    if findings:
        raise refusal(findings)
    assert duplicates is not None
    return Recipe(name=name, steps=steps, deduplicate=duplicates)


def _name(node: Node | None, findings: Findings, default: str) -> str:
    if node is None:
        return default
    value = node.value
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        findings.note(node.mark, "name", f"a name is 1 to {_LONGEST_NAME} characters that print", "name: my-recipe")
        return default
    return value


def _steps(node: Node | None, tree: Node, folder: Path, findings: Findings) -> tuple[Step, ...]:
    if node is None:
        findings.note(tree.mark, "steps", "steps is missing", "steps: [html], or steps: [] to change nothing")
        return ()
    if not isinstance(node.value, list):
        findings.note(node.mark, "steps", "a list of steps is due here", "steps: [html, whitespace]")
        return ()
    if len(node.value) > _MOST_STEPS:
        findings.note(node.mark, "steps", f"a recipe has at most {_MOST_STEPS} steps")
        return ()
    steps = (_step(child, f"steps.{index}", folder, findings) for index, child in enumerate(node.value))
    return tuple(step for step in steps if step is not None)


def _step(node: Node, path: str, folder: Path, findings: Findings) -> Step | None:
    kind, settings = node, Node(value={}, line=node.line, column=node.column, file=node.file)
    if isinstance(node.value, dict):
        if "kind" not in node.value:
            findings.note(node.mark, path, "the step has no kind", "{kind: language, languages: [en]}")
            return None
        kind = node.value["kind"]
        rest = {key: child for key, child in node.value.items() if key != "kind"}
        settings = Node(value=rest, line=node.line, column=node.column, file=node.file, key_marks=node.key_marks)
    known = kinds()
    if not isinstance(kind.value, str) or kind.value not in known:
        shown = quoted(kind.value) if isinstance(kind.value, str) else "this"
        near = did_you_mean(kind.value, known) if isinstance(kind.value, str) else ""
        findings.note(kind.mark, path, f"{shown} is no kind of step", near or f"use one of {listed(known, 40)}")
        return None
    return read_settings(known[kind.value], settings, f"{path}.{kind.value}", folder, findings)


def _duplicates(node: Node | None, folder: Path, findings: Findings) -> DedupSettings | None:
    if node is None or node.value is None:
        return DedupSettings()
    if not isinstance(node.value, dict):
        findings.note(node.mark, "duplicates", "the settings are no mapping", "duplicates: {exact: text}")
        return None
    return read_settings(DedupSettings, node, "duplicates", folder, findings)
