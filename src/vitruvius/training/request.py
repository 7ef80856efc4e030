"""What was asked for: a spec or a run file, flags over it, `--set` over both, every finding at its place. No torch.

    # run.yaml
    spec: tiny-llama-moe            # a preset, or a file beside this one
    data: data/books                # a folder that `vitruvius data prepare` wrote
    out: runs/books                 # may be left to --out
    train: {steps: 2000, lr: 2e-3}  # docs/training.md lists every setting
    sweep: {train.lr: [1e-3, 3e-3]} # for `vitruvius sweep` alone: docs/training/sweeps.md

Paths are relative to the run file. Precedence: --set, then the flags, then the file, then the defaults.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.spec import Architecture, read_with_findings
from vitruvius.spec.overrides import apply_overrides, argument_name
from vitruvius.spec.reading import locate
from vitruvius.spec.reporting import did_you_mean, listed
from vitruvius.spec.source import load, parse_text
from vitruvius.spec.tree import Mark, Node, node_at, to_plain, tree_of, with_value
from vitruvius.training.checking import from_plain
from vitruvius.training.config import TrainConfig, resolved
from vitruvius.training.preprocessing.places import beside_their_file
from vitruvius.training.rules import findings
from vitruvius.training.settings import SECTIONS as SECTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.spec import Reading

SECTIONS = ("spec", "data", "out", "train", "sweep")
_TRAIN = "train."


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run that was asked for, and makes sense."""

    reading: Reading
    """The architecture, with what is worth knowing about it."""
    data: Path
    """The data folder."""
    out: Path
    """The run folder to make."""
    config: TrainConfig
    """Every setting, resolved."""
    section: Node
    """What was written of them, in the file, by flags and by `--set`; every value knows its place."""
    sweep: Node | None = None
    """The section of a run file that lists values for a sweep, unread."""


def read_request(
    spec: str,
    *,
    data: str | None = None,
    out: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    default_out: str | None = None,
) -> Request:
    """The run that a SPEC or RUN.yaml, flags and `--set` texts ask for.

    flags: settings of `train` by name, those that are None were not given. settings: `path=value`; paths that start
    with `train.` are settings of the run, all others of the spec. default_out: the run folder where none is named, for
    those who make none. Raises SpecError with every finding at its place,
    UsageError when a file, the data folder or the run folder is not named.
    """
    path = locate(spec)
    tree = load(path)
    is_run = is_run_file(spec)
    if is_run:
        _check_sections(tree)
    else:
        tree = parse_text("train: {}\n", file="train")
    tree = _with_flags(tree, {name: value for name, value in (flags or {}).items() if value is not None})
    of_train = [text for text in settings if text.startswith(_TRAIN)]
    tree = apply_overrides(_with_sections(_with_train(tree), of_train), of_train)
    beside = path.parent if is_run else None
    of_spec = [text for text in settings if not text.startswith(_TRAIN)]
    _refuse_misdirected(of_spec)
    reading = read_with_findings(_spec_of(tree, path) if is_run else spec, overrides=of_spec)
    config = _config(tree, reading)
    assert isinstance(tree.value, dict)
    return Request(
        section=tree.value["train"],
        sweep=tree.value.get("sweep"),
        reading=reading,
        data=_folder(tree, "data", data, beside),
        out=_folder(tree, "out", out, beside, default_out),
        config=config,
    )


def kind_named(request: Request) -> str | None:
    """The kind of engine that somebody wrote down, in the file or by `--set`; None where it is the default."""
    engine = request.section.value.get("engine") if isinstance(request.section.value, dict) else None
    written = engine is not None and isinstance(engine.value, dict) and "kind" in engine.value
    return request.config.engine.kind if written else None


def is_run_file(spec: str) -> bool:
    """Whether a file is one with `spec` and `train` sections. Raises SpecError when it is no YAML."""
    tree = load(locate(spec))
    return isinstance(tree.value, dict) and bool({"spec", "train"} & tree.value.keys())


def swept_by(spec: str) -> Node | None:
    """The `sweep` section of a run file; None where there is none, and for a spec.

    Raises SpecError when the file is no YAML.
    """
    tree = load(locate(spec))
    assert isinstance(tree.value, dict)
    return tree.value.get("sweep") if is_run_file(spec) else None


def _check_sections(tree: Node) -> None:
    assert isinstance(tree.value, dict)
    found: list[Finding] = []
    for key, node in tree.value.items():
        if key not in SECTIONS:
            fix = f"write it under train: `train: {{{key}: ...}}`" if key in _OF_TRAIN else did_you_mean(key, SECTIONS)
            fix = fix or f"the sections of a run file are {listed(SECTIONS)}"
            found.append(_at(tree.key_marks[key], path=key, what=f"unknown section {key!r}", fix=fix))
        elif key == "train" and not isinstance(node.value, dict):
            found.append(_at(node.mark, path=key, what="the settings are no mapping", fix="train: {steps: 1000}"))
        elif key == "sweep":
            continue  # whoever sweeps reads it
        elif key != "train" and not isinstance(node.value, str):
            found.append(_at(node.mark, path=key, what="a name is due here", fix=_EXAMPLES[key]))
        elif node.value == "":
            found.append(_at(node.mark, path=key, what="the name is empty", fix=_EXAMPLES[key]))
    if "spec" not in tree.value:
        found.append(_at(tree.mark, path="spec", what="spec is missing", fix=_EXAMPLES["spec"]))
    if found:
        raise SpecError(found)


_OF_TRAIN = frozenset(each.name for each in fields(TrainConfig))

_EXAMPLES = {
    "spec": "spec: tiny-llama, or a file: spec: my-arch.yaml",
    "data": "data: the folder that `vitruvius data prepare --out` wrote",
    "out": "out: runs/first",
}


def _at(mark: Mark, *, path: str, what: str, fix: str) -> Finding:
    return Finding(path=path, what=what, fix=fix, file=mark.file, line=mark.line, column=mark.column)


def _with_train(tree: Node) -> Node:
    assert isinstance(tree.value, dict)
    if "train" in tree.value:
        return tree
    return with_value(tree, {**tree.value, "train": node_at({}, tree.mark)})


def _with_sections(tree: Node, settings: Sequence[str]) -> Node:
    """The tree with an empty mapping for each section that a setting reaches into (`train.guard.spike=skip`)."""
    assert isinstance(tree.value, dict)
    section = tree.value["train"]
    if not isinstance(section.value, dict):
        return tree
    wanted = {text.removeprefix(_TRAIN).partition("=")[0].partition(".")[0]: text for text in reversed(settings)}
    # Of several that reach into it, the first is the one that makes the section.
    missing = {
        name: node_at({}, Mark(argument_name(wanted[name]), 1, 1))
        for name in SECTION_NAMES
        if name in wanted and name not in section.value
    }
    return with_value(tree, {**tree.value, "train": with_value(section, {**section.value, **missing})})


def _with_flags(tree: Node, flags: Mapping[str, Any]) -> Node:
    """The tree with flags put over what the file says; findings about them name the flag."""
    tree = _with_train(tree)
    assert isinstance(tree.value, dict)
    section = tree.value["train"]
    assert isinstance(section.value, dict)
    marks = {name: Mark(f"--{name.replace('_', '-')}", 1, 1) for name in flags}
    nodes = {name: tree_of(value, marks[name]) for name, value in flags.items()}
    section = with_value(section, {**section.value, **nodes}, {**section.key_marks, **marks})
    return with_value(tree, {**tree.value, "train": section})


def _spec_of(tree: Node, run_file: Path) -> str:
    """The spec a run file names: a file beside it if there is one, else what the command line would make of it."""
    assert isinstance(tree.value, dict)
    node = tree.value["spec"]
    name = node.value
    assert isinstance(name, str)
    beside = run_file.parent / name
    if beside.is_file():
        return os.fspath(beside)
    try:
        locate(name)
    except UsageError as error:
        raise SpecError([_at(node.mark, path="spec", what=error.what, fix=error.fix)]) from None
    return name


def _folder(tree: Node, section: str, flag: str | None, beside: Path | None, default: str | None = None) -> Path:
    if flag == "":
        raise UsageError("the name is empty", where=f"--{section}", fix="name a folder, or leave the option out")
    if flag is not None:
        return Path(flag)
    assert isinstance(tree.value, dict)
    node = tree.value.get(section)
    if (node is None or beside is None) and default is not None:
        return Path(default)
    if node is None or beside is None:
        raise UsageError(f"--{section} is missing", fix=f"add --{section} DIR, or write {section}: into a run file")
    return beside / str(node.value)


def _config(tree: Node, reading: Reading) -> TrainConfig:
    assert isinstance(tree.value, dict)
    section = tree.value["train"]
    plain = to_plain(section)
    if not isinstance(plain, dict):
        raise SpecError([_at(section.mark, path="train", what="the settings are no mapping", fix="train: {steps: 9}")])
    try:
        config = from_plain(plain)
    except SpecError as error:
        raise SpecError([_placed(finding, section) for finding in error.findings]) from None
    found = findings(config, reading.architecture)
    if found:
        raise SpecError([_placed(finding, section) for finding in found])
    return resolved(beside_their_file(config, section), reading.architecture)


def _placed(finding: Finding, section: Node) -> Finding:
    """The finding at the place where its setting was written; a default has none."""
    assert isinstance(section.value, dict)
    keys = finding.path.removeprefix(_TRAIN).split(".")
    if keys[0] not in section.value:
        return finding
    mark = _deepest(section, keys, of_key="there is no setting" in finding.what)
    if mark.file.startswith("--") and "=" not in mark.file:
        return replace(finding, file=mark.file)
    return replace(finding, file=mark.file, line=mark.line, column=mark.column)


def _deepest(node: Node, keys: Sequence[str], *, of_key: bool) -> Mark:
    """Where the last part of a path that was written stands; a key may have dots in it (a share of the steps)."""
    for number in range(len(keys), 0, -1):
        key, rest = ".".join(keys[:number]), keys[number:]
        if isinstance(node.value, dict) and key in node.value:
            below = node.value[key]
            if not rest and of_key:
                return node.key_marks.get(key, below.mark)
            return _deepest(below, rest, of_key=of_key)
        if isinstance(node.value, list) and key.isdigit() and int(key) < len(node.value):
            return _deepest(node.value[int(key)], rest, of_key=of_key)
    return node.mark


def _refuse_misdirected(settings: Sequence[str]) -> None:
    """Raise SpecError for what was meant for the run and would be looked for in the spec."""
    known = {each.name for each in fields(Architecture)}
    found: list[Finding] = []
    for text in settings:
        path = text.partition("=")[0]
        first, _, rest = path.partition(".")
        mark = Mark(argument_name(text), 1, 1)
        if path == "train":
            what = "`train` is no field of the spec, and its settings are set one by one"
            found.append(_at(mark, path="train", what=what, fix="write `--set train.NAME=VALUE`"))
        elif rest and first not in known and did_you_mean(first, ["train", *known]) == did_you_mean(first, ["train"]):
            what = f"neither the spec nor the run has {first!r}"
            if fix := did_you_mean(first, ["train"]):
                found.append(_at(mark, path=path, what=what, fix=fix.replace("'train'", repr(f"train.{rest}"))))
        elif path in _OF_TRAIN and path not in known:
            what = f"the spec has no field {path!r}; it is a setting of the run"
            found.append(_at(mark, path=path, what=what, fix=f"write `--set {_TRAIN}{text}`"))
    if found:
        raise SpecError(found)
