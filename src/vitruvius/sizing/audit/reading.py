"""From a file of claims to `Claim` values, every mistake at its line.

    # claims.yaml
    source: the model card            # of claims that name none
    spec: llama-moe                   # a preset, a file beside this one, or the spec itself
    set: [context=8192]               # as --set
    claims:
      - {about: parameters, says: 8B}
      - {about: weights, says: ~4 GB, weights: nf4}
      - {about: ratio, of: kv_cache, measured: saving, says: 60-70 %,
         a: {spec: llama-3-8b}, b: {spec: llama-3-8b, set: [blocks.layer.mixer.kv_heads=32]}}

The reader is that of specs: anchors, tags, several documents, endless nesting and files over 1 MiB are refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from vitruvius.errors import Finding, SpecError, UsageError
from vitruvius.sizing.audit.claims import Case, Claim, Quantised
from vitruvius.sizing.audit.saying import parse_said
from vitruvius.sizing.audit.times import MEASURES
from vitruvius.sizing.audit.topics import TOPICS, WITHOUT_SPEC, Topic
from vitruvius.sizing.formats import FORMATS
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.memory import BYTES_PER_VALUE
from vitruvius.sizing.workload import Kernel, Loss, Mode, Optimizer
from vitruvius.spec.graph import resolve
from vitruvius.spec.reading import read, read_text
from vitruvius.spec.recomputing import Checkpointing
from vitruvius.spec.reporting import Report, did_you_mean, listed
from vitruvius.spec.source import load, parse_text
from vitruvius.spec.tree import Mark, Node, to_plain
from vitruvius.units import parse_count, parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vitruvius.spec.graph import Graph

_MOST_CLAIMS = 1000
_TOP = ("source", "spec", "set", "claims")
_COMMON = frozenset({"about", "says", "source", "note", "spec", "set"})
_CASE = frozenset({"spec", "set", "context", "batch", "mode", "weights", "quantised", "cache", "optimizer"}) | {
    "checkpointing",
    "loss",
    "attention",
    "rank",
    "on",
    "count",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": get_args(Mode),
    "weights": tuple(FORMATS),
    "cache": tuple(BYTES_PER_VALUE),
    "quantised": get_args(Quantised),
    "optimizer": get_args(Optimizer),
    "checkpointing": get_args(Checkpointing),
    "loss": get_args(Loss),
    "attention": get_args(Kernel),
    "of": MEASURES,
    "measured": ("times", "saving", "increase"),
}
_AMOUNTS: dict[str, Callable[[str], int]] = {
    "context": parse_tokens,
    "to_context": parse_tokens,
    "tokens": parse_count,
    "batch": parse_count,
    "count": parse_count,
    "rank": parse_count,
}
_LARGEST = 2**40 - 1
_MOST_TRAINED = 10**18
"""Tokens of a training run: no run has had a millionth of it."""
_TEXTS = frozenset({"about", "says", "source", "note", "on", "expression", "why", "shown_by"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFile:
    """Claims, and what they were read from."""

    name: str
    claims: tuple[Claim, ...]


def read_claims(path: str | os.PathLike[str]) -> ClaimFile:
    """The claims of a file. Raises SpecError with every finding at file:line:column."""
    tree = load(path)
    text = Path(path).read_text(encoding="utf-8")
    return _Reader(tree, text, os.fspath(path), Path(path).parent).result()


def read_claims_text(text: str, *, file: str = "claims.yaml", beside: Path | None = None) -> ClaimFile:
    """As `read_claims`, from the text itself; specs are looked for in the folder `beside`."""
    return _Reader(parse_text(text, file=file), text, file, beside or Path()).result()


class _Reader:
    """Reads one file, gathering what is wrong."""

    def __init__(self, tree: Node, text: str, file: str, beside: Path) -> None:
        self._tree = tree
        self._text = text
        self._file = file
        self._beside = beside
        self._report = Report()
        self._graphs: dict[tuple[str, tuple[str, ...]], Graph | None] = {}

    def result(self) -> ClaimFile:
        """The claims, or SpecError."""
        fields = cast("dict[str, Node]", self._tree.value)
        self._refuse_unknown(self._tree, _TOP, "the top of a file of claims")
        items = fields.get("claims")
        if items is None:
            self._report.add("there are no claims", mark=self._tree.mark, fix=_EXAMPLE, path="claims")
        elif not isinstance(items.value, list) or not items.value:
            self._report.add("a list of claims is due here", mark=items.mark, fix=_EXAMPLE, path="claims")
        elif len(items.value) > _MOST_CLAIMS:
            what = f"{len(items.value):,} claims; a file has at most {_MOST_CLAIMS:,}"
            self._report.add(what, mark=items.mark, fix="split the file", path="claims")
        self._report.raise_if_any()
        assert items is not None
        claims = [self._claim(node, index) for index, node in enumerate(cast("list[Node]", items.value))]
        self._report.raise_if_any()
        return ClaimFile(name=self._file, claims=tuple(claim for claim in claims if claim is not None))

    # ---------------------------------------------------------------------------------------------------- one claim

    def _claim(self, node: Node, index: int) -> Claim | None:
        at = f"claims.{index}"
        if not isinstance(node.value, dict):
            self._report.add("a claim is a mapping", mark=node.mark, fix="{about: parameters, says: 8B}", path=at)
            return None
        topic = self._topic(node, at)
        if topic is None:
            return None
        allowed = sorted(_COMMON | topic.needs | topic.takes)
        self._refuse_unknown(node, allowed, f"a claim about {topic.name}", at)
        missing = sorted(name for name in topic.needs if name not in node.value)
        if missing:
            what = f"a claim about {topic.name} needs {listed(missing)}"
            self._report.add(what, mark=node.mark, fix=f"add {missing[0]}: ...", path=at)
        values = self._values(node, at)
        said = self._said(node, topic, values, at)
        case = None if topic.name in WITHOUT_SPEC else self._case(node, values, at)
        first, second = (self._side(node, name, at) for name in ("a", "b"))
        if not self._report.is_empty:
            return None
        return Claim(
            about=topic.name,
            said=said,
            text=values.get("says", ""),
            source=values.get("source", self._default("source")),
            note=values.get("note", ""),
            case=case,
            a=first,
            b=second,
            of=values.get("of", ""),
            measured=values.get("measured", "times"),
            to_context=values.get("to_context"),
            tokens=values.get("tokens"),
            expression=values.get("expression", ""),
            where=self._where(node, at),
            why=values.get("why", ""),
            shown_by=values.get("shown_by", ""),
            place=Finding(what="", path=at, file=node.file, line=node.line, column=node.column),
        )

    def _topic(self, node: Node, at: str) -> Topic | None:
        fields = cast("dict[str, Node]", node.value)
        about = fields.get("about")
        known = f"the topics are {listed(TOPICS, limit=20)}"
        if about is None:
            self._report.add("a claim says what it is about", mark=node.mark, fix=f"add about: ...; {known}", path=at)
            return None
        topic = TOPICS.get(str(about.value)) if isinstance(about.value, str) else None
        if topic is None:
            fix = did_you_mean(str(about.value), TOPICS) or known
            shown = about.value if isinstance(about.value, str | int | float) else "this"
            self._report.add(f"there is no topic {shown!r}", mark=about.mark, fix=fix, path=f"{at}.about")
        return topic

    def _said(self, node: Node, topic: Topic, values: Mapping[str, Any], at: str) -> Any:
        fields = cast("dict[str, Node]", node.value)
        if "says" not in fields:
            if topic.judge is not None:
                what = f"a claim about {topic.name} says a number"
                self._report.add(what, mark=node.mark, fix="add says: ...", path=at)
            return None
        if topic.judge is None or "says" not in values:
            return None
        kind = "percent" if values.get("measured", "times") != "times" else topic.kind
        try:
            return parse_said(values["says"], kind)
        except UsageError as error:
            self._report.add(error.what, mark=fields["says"].mark, fix=error.fix, path=f"{at}.says")
            return None

    def _side(self, node: Node, name: str, at: str) -> Case | None:
        side = cast("dict[str, Node]", node.value).get(name)
        if side is None:
            return None
        where = f"{at}.{name}"
        if not isinstance(side.value, dict):
            self._report.add("a case is a mapping", mark=side.mark, fix="{spec: llama-3-8b}", path=where)
            return None
        self._refuse_unknown(side, sorted(_CASE), "a case", where)
        return self._case(side, self._values(side, where), where)

    def _where(self, node: Node, at: str) -> dict[str, float]:
        where = cast("dict[str, Node]", node.value).get("where")
        if where is None:
            return {}
        plain = to_plain(where)
        if not isinstance(plain, dict) or any(
            isinstance(v, bool) or not isinstance(v, int | float) for v in plain.values()
        ):
            self._report.add(
                "numbers by name are due here", mark=where.mark, fix="where: {delta: 0.001}", path=f"{at}.where"
            )
            return {}
        return {name: float(cast("float", value)) for name, value in plain.items()}

    # -------------------------------------------------------------------------------------------------------- values

    def _values(self, node: Node, at: str) -> dict[str, Any]:
        """The scalars of a mapping, each in its own type."""
        found: dict[str, Any] = {}
        for name, child in cast("dict[str, Node]", node.value).items():
            try:
                if name in _AMOUNTS:
                    found[name] = _amount(name, child.value)
                elif name in _CHOICES:
                    found[name] = _choice(name, child.value)
                elif name in _TEXTS:
                    found[name] = _text(child.value)
            except UsageError as error:
                self._report.add(error.what, mark=child.mark, fix=error.fix, path=f"{at}.{name}")
        return found

    def _default(self, name: str) -> str:
        node = cast("dict[str, Node]", self._tree.value).get(name)
        return node.value if node is not None and isinstance(node.value, str) else ""

    def _case(self, node: Node, values: Mapping[str, Any], at: str) -> Case | None:
        found = self._graph(node, at)
        if found is None:
            return None
        graph, title = found
        device = None
        if "on" in values:
            try:
                device = device_named(values["on"])
            except (UsageError, SpecError) as error:
                mark = cast("dict[str, Node]", node.value)["on"].mark
                what = error.what if isinstance(error, UsageError) else str(error)
                self._report.add(what, mark=mark, fix=getattr(error, "fix", ""), path=f"{at}.on")
        given = {name: values[name] for name in _CASE if name in values and name not in {"spec", "set", "on"}}
        if given.get("mode") == "qlora":
            given.setdefault("weights", "nf4")
        given.setdefault("context", graph.scope.context)
        return Case(graph=graph, spec=title, device=device, **given)

    # --------------------------------------------------------------------------------------------------------- specs

    def _graph(self, node: Node, at: str) -> tuple[Graph, str] | None:
        """The architecture of a mapping: its own `spec` and `set`, or those at the top of the file."""
        own, top = cast("dict[str, Node]", node.value), cast("dict[str, Node]", self._tree.value)
        spec = own.get("spec") or top.get("spec")
        settings = own.get("set") or ({} if "spec" in own else top).get("set")
        if spec is None:
            what = "it is not said which architecture this is about"
            fix = "add spec: a preset, a file, or the spec itself at the top of the file"
            self._report.add(what, mark=node.mark, fix=fix, path=at)
            return None
        overrides = self._overrides(settings, at)
        if overrides is None:
            return None
        title = spec.value if isinstance(spec.value, str) else "the spec"
        title = " ".join([title, *overrides])
        key = (f"{spec.line}:{spec.column}" if not isinstance(spec.value, str) else spec.value, overrides)
        if key not in self._graphs:
            self._graphs[key] = self._read(spec, overrides, at, inline_allowed=spec is top.get("spec"))
        graph = self._graphs[key]
        return None if graph is None else (graph, title)

    def _overrides(self, node: Node | None, at: str) -> tuple[str, ...] | None:
        if node is None:
            return ()
        items = node.value if isinstance(node.value, list) else [node]
        texts = [item.value for item in items]
        if not all(isinstance(text, str) for text in texts):
            self._report.add(
                "texts such as width=512 are due here", mark=node.mark, fix="set: [width=512]", path=f"{at}.set"
            )
            return None
        overrides = tuple(cast("list[str]", texts))
        for item, text in zip(items, overrides, strict=True):
            if "=" not in text:
                what = f"{text!r} sets nothing: no '=' between path and value"
                self._report.add(what, mark=item.mark, fix="set: [width=512]", path=f"{at}.set")
                return None
        return overrides

    def _read(self, spec: Node, overrides: tuple[str, ...], at: str, *, inline_allowed: bool) -> Graph | None:
        try:
            if isinstance(spec.value, str):
                beside = self._beside / spec.value
                name = os.fspath(beside) if spec.value and "\0" not in spec.value and beside.is_file() else spec.value
                return resolve(read(name, overrides=overrides))
            if isinstance(spec.value, dict) and inline_allowed:
                return resolve(read_text(self._inline(spec), file=self._file, overrides=overrides).architecture)
        except SpecError as error:
            for finding in error.findings:
                self._report.add_finding(finding)
            return None
        except (UsageError, OSError) as error:
            what = error.what if isinstance(error, UsageError) else str(error)
            self._report.add(what, mark=spec.mark, fix=getattr(error, "fix", ""), path=f"{at}.spec")
            return None
        fix = "spec: llama-3-8b; a spec may be written out at the top of the file alone"
        self._report.add("the name of a preset or a file is due here", mark=spec.mark, fix=fix, path=f"{at}.spec")
        return None

    def _inline(self, spec: Node) -> str:
        """The lines of a spec that stands in this file, at their own places, with everything else blanked."""
        later = [mark for mark in self._tree.key_marks.values() if (mark.line, mark.column) > (spec.line, spec.column)]
        end = min(later, key=lambda mark: (mark.line, mark.column), default=None)
        return _cut(self._text, spec.mark, end)

    def _refuse_unknown(self, node: Node, known: tuple[str, ...] | list[str], what: str, at: str = "") -> None:
        for name, mark in node.key_marks.items():
            if name not in known:
                fix = did_you_mean(name, known) or f"{what} has {listed(known, limit=30)}"
                path = f"{at}.{name}" if at else name
                self._report.add(f"{what} has no {name!r}", mark=mark, fix=fix, path=path)


_EXAMPLE = "claims: [{about: parameters, says: 8B}]"


def _cut(text: str, start: Mark, end: Mark | None) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    kept = lines[start.line - 1 : len(lines) if end is None else end.line]
    if end is not None:
        kept[-1] = kept[-1][: end.column - 1]
        # In a flow mapping the next key stands behind a comma.
        if end.line == start.line or kept[-1].strip(" ,"):
            kept[-1] = kept[-1].rstrip().rstrip(",")
    kept[0] = " " * (start.column - 1) + kept[0][start.column - 1 :]
    return "\n" * (start.line - 1) + "\n".join(kept) + "\n"


def _amount(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(f"a whole number is due for {name}", fix=f"{name}: 8")
    amount, most = _AMOUNTS[name](str(value)), _MOST_TRAINED if name == "tokens" else _LARGEST
    if not 1 <= amount <= most:
        raise UsageError(f"{name}={amount:,} is out of range", fix=f"use 1 to {most:,}")
    return amount


def _choice(name: str, value: object) -> str:
    known = _CHOICES[name]
    if not isinstance(value, str) or value not in known:
        shown = value if isinstance(value, str | int | float) else "this"
        fix = did_you_mean(str(value), known) or f"use one of {listed(known, limit=20)}"
        raise UsageError(f"there is no {name} {shown!r}", fix=fix)
    return value


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value}"
    if not isinstance(value, str):
        raise UsageError("text is due here", fix="put it in quotes")
    return value
