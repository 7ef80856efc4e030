"""From a spec file, a preset's name or plain data to a checked `Architecture`, with every finding at its line."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.errors import Finding, UsageError
from vitruvius.spec.aliases import canonical_names
from vitruvius.spec.each import expand_each
from vitruvius.spec.explaining import explain_all
from vitruvius.spec.merge import resolve_blocks
from vitruvius.spec.model import Architecture, Block
from vitruvius.spec.overrides import apply_overrides
from vitruvius.spec.reporting import in_order, refusal
from vitruvius.spec.rules import findings as rule_findings
from vitruvius.spec.rules import findings_of_parts
from vitruvius.spec.source import load, parse_text
from vitruvius.spec.tree import to_plain
from vitruvius.spec.validating import adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.spec.tree import Node as Tree

BARE_NAMES = frozenset(
    {"expert", "ffn", "head", "init", "mixer", "norm", "position", "qk_norm", "router", "scaling"}
    | {"inner_norm", "shared_expert"}
)
"""Fields where a bare name means a mapping with that kind: `norm: layernorm` is `norm: {kind: layernorm}`."""

SUFFIXES = (".yaml", ".yml")

_MOST_EXPLAINED = 200
"""More of the validator's errors than this are counted, not explained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An architecture and what is worth knowing about it: warnings and notes, at their lines."""

    architecture: Architecture
    findings: tuple[Finding, ...]
    text: str
    """The file as it was read, without overrides."""
    file: str
    tree: Tree
    """What was written, with overrides and inheritance worked in; every value knows its place."""


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
        what = "a spec is named by a file or a preset, and this name is empty or holds a NUL"
        raise UsageError(what, fix="vitruvius presets lists the presets")
    path = Path(text)
    try:
        # What stands there may be unreadable (a link to itself); reading it says why.
        exists, is_folder = os.path.lexists(path), path.is_dir()
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


def _understand(tree: Tree, text: str, file: str, overrides: Sequence[str]) -> Reading:
    tree = canonical_names(apply_overrides(tree, overrides, bare=BARE_NAMES), BARE_NAMES)
    written = resolve_blocks(tree, bare=BARE_NAMES)
    expansion = expand_each(written, bare=BARE_NAMES)
    tree = expansion.tree
    plain = to_plain(tree)
    assert isinstance(plain, dict)
    wrong = [_placed(finding, written, file) for finding in expansion.findings]
    architecture = _validated(plain, tree, file, wrong)
    found = [_placed(finding, tree, file) for finding in [*_removed_norms(plain), *rule_findings(architecture)]]
    errors = [finding for finding in found if finding.severity == "error"]
    if wrong or errors:
        raise refusal(_beside(wrong, errors))
    return Reading(architecture=architecture, findings=tuple(in_order(found)), text=text, file=file, tree=tree)


def _removed_norms(plain: dict[str, Any]) -> Iterator[Finding]:
    """Blocks that write `norm: none`, which would mean the architecture's norm, and not what it says."""
    for name, block in plain["blocks"].items():
        if "norm" in block and block["norm"] is None:
            what = "none here would leave the architecture's norm in place"
            yield Finding(path=f"blocks.{name}.norm", what=what, fix="write norm_place: none, or leave norm out")


def _validated(plain: dict[str, Any], tree: Tree, file: str, wrong: Sequence[Finding]) -> Architecture:
    from pydantic import ValidationError

    try:
        return adapter(Architecture).validate_json(json.dumps(plain, allow_nan=False))
    except ValidationError as error:
        entries = error.errors()
        found = explain_all(entries[:_MOST_EXPLAINED], plain)
        found += (finding for finding in findings_of_parts(plain, _sound_block) if finding.severity == "error")
        placed = [_placed(finding, tree, file) for finding in found]
        raise refusal(_beside(wrong, placed), unshown=len(entries[_MOST_EXPLAINED:])) from None


def _beside(wrong: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """What was wrong with values by layer, and everything else but what is said of the values put in their place."""
    places = {(finding.file, finding.line, finding.column) for finding in wrong}
    return [*wrong, *(f for f in found if (f.file, f.line, f.column) not in places)]


def _sound_block(data: object) -> Block | None:
    """The block that plain data describes, or None where it describes none."""
    from pydantic import ValidationError

    try:
        return adapter(Block).validate_json(json.dumps(data, allow_nan=False))
    except ValidationError:
        return None


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
