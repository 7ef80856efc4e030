"""Which values a sweep lists, and the arms that they make. No torch.

    sweep:                                     # in a run file
      train.lr: [1e-3, 3e-3]                   # a grid of these two ...
      width: [128, 256]
      zip: [{train.batch: [8, 16], train.accumulate: [1, 2]}]     # ... and of pairs that go together
      sample: 4                                # four arms of the grid, drawn
      seeds: 2                                 # each arm with so many seeds, the same for all

On the command line a `--set` whose value is a list lists values: `--set train.lr=[1e-3,3e-3]`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vitruvius.errors import Finding, SpecError
from vitruvius.lab.sweeping_names import named
from vitruvius.spec.overrides import argument_name
from vitruvius.spec.reporting import did_you_mean, listed, printable
from vitruvius.spec.source import parse_text
from vitruvius.spec.tree import Mark, Node, to_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST_ARMS = 1000
MOST_SEEDS = 1000
_KEYS = ("zip", "sample", "seeds")
_RANGE = {"from", "to", "scale"}
_DIGITS = 4
"""Of a number that is drawn from a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a setting or field."""

    path: str
    """`train.lr`, or a field of the spec."""
    value: Any
    """Plain data."""
    mark: Mark
    """Where it was written."""

    @property
    def text(self) -> str:
        """As `--set` takes it."""
        return f"{self.path}={json.dumps(self.value, ensure_ascii=False)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers to draw from; only for a sweep that samples."""

    path: str
    low: float
    high: float
    scale: str
    """`linear` or `log`."""
    whole: bool
    mark: Mark

    def drawn(self, draw: random.Random) -> Value:
        """A number of it, with four significant digits."""
        low, high = (math.log(self.low), math.log(self.high)) if self.scale == "log" else (self.low, self.high)
        number = draw.uniform(low, high)
        number = math.exp(number) if self.scale == "log" else number
        value = round(number) if self.whole else float(f"{number:.{_DIGITS}g}")
        return Value(path=self.path, value=min(max(value, self.low), self.high), mark=self.mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values of one path, or of several that change together."""

    choices: tuple[tuple[Value, ...], ...]
    """Of each choice, a value for every path."""
    range: Range | None = None
    """In the place of choices."""

    @property
    def paths(self) -> tuple[str, ...]:
        """What it changes."""
        return (self.range.path,) if self.range is not None else tuple(value.path for value in self.choices[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One choice of all values."""

    name: str
    """Of its folder."""
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a sweep lists."""

    axes: tuple[Axis, ...]
    sample: int | None
    """How many arms are drawn; None: all of them."""
    seeds: int

    def arms(self) -> tuple[Arm, ...]:
        """The arms, in the order of a nested loop over the axes, or as they are drawn.

        Raises SpecError where they are too many.
        """
        chosen = list(self._chosen())
        names = named([[(value.path, value.value) for value in values] for values in chosen])
        return tuple(Arm(name=name, values=values) for name, values in zip(names, chosen, strict=True))

    def _chosen(self) -> Iterator[tuple[Value, ...]]:
        draw = random.Random(0)  # noqa: S311  (nothing secret: the same arms each time)
        if any(axis.range is not None for axis in self.axes):
            assert self.sample is not None
            seen: set[str] = set()
            for _ in range(self.sample):
                values = tuple(itertools.chain.from_iterable(_one(axis, draw) for axis in self.axes))
                text = json.dumps([value.text for value in values])
                if text not in seen:  # few whole numbers are drawn twice
                    yield values
                seen.add(text)
            return
        total = math.prod(len(axis.choices) for axis in self.axes)
        wanted = range(total) if self.sample is None or self.sample >= total else None
        if wanted is not None and total > MOST_ARMS:
            what = f"{total:,} arms, and at most {MOST_ARMS:,} are run"
            raise SpecError(
                [_finding(self.axes[0].choices[0][0].mark, "sweep", what, "list fewer values, or --sample")]
            )
        for index in wanted if wanted is not None else _drawn(draw, total, self.sample or 0):
            picked: list[tuple[Value, ...]] = []
            for axis in reversed(self.axes):
                index, place = divmod(index, len(axis.choices))  # noqa: PLW2901
                picked.append(axis.choices[place])
            yield tuple(itertools.chain.from_iterable(reversed(picked)))


def _drawn(draw: random.Random, total: int, count: int) -> list[int]:
    """So many different numbers below `total`, which may be too large for a range."""
    found: set[int] = set()
    while len(found) < count:
        found.add(draw.randrange(total))
    return sorted(found)


def listing_of(
    section: Node | None,
    *,
    texts: Sequence[str] = (),
    fixed: Sequence[str] = (),
    sample: int | None = None,
    seeds: int | None = None,
) -> Listing:
    """What the `sweep` section of a run file, lists of `--set` and options ask for, options first.

    texts: those of `swept`. fixed: paths that flags or other `--set` texts give one value, which goes before a list
    of the file. Raises SpecError with every finding at its place.
    """
    found: list[Finding] = []
    reading = _Reading(found)
    given = [axis for text in texts for axis in reading.argument(text)]
    by_argument = {path for axis in given for path in axis.paths}
    axes = [] if section is None else list(reading.section(section))
    axes = [axis for axis in axes if reading.stays(axis, by_argument, set(fixed))] + given
    paths = [path for axis in axes for path in axis.paths]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        mark = next(_mark(axis) for axis in axes if path in axis.paths)
        found.append(_finding(mark, path, f"{path} is listed twice", "list its values once"))
    count = sample if sample is not None else reading.sample
    ranges = [axis.range for axis in axes if axis.range is not None]
    if ranges and count is None:
        fix = "add sample: 8 to the section or --sample 8, or list values"
        found += [_finding(each.mark, each.path, "a range has no list of values", fix) for each in ranges]
    many = seeds if seeds is not None else reading.seeds
    for name, number, most in (("sample", count, MOST_ARMS), ("seeds", many, MOST_SEEDS)):
        if number is not None and not 1 <= number <= most:
            mark = reading.marks.get(name, Mark(f"--{name}", 1, 1))
            found.append(_finding(mark, f"sweep.{name}", f"{number:,} is out of range", f"use 1 to {most:,}"))
    if found:
        raise SpecError(found)
    return Listing(axes=tuple(axes), sample=count, seeds=many or 1)


def swept(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--set` texts whose value is a list or a range, and all others."""
    lists: list[str] = []
    rest: list[str] = []
    for text in settings:
        try:
            value = _parsed(text).value
            is_list = isinstance(value, list) or (isinstance(value, dict) and {"from", "to"} <= value.keys() <= _RANGE)
        except SpecError:
            is_list = False  # whoever applies it says what is wrong with it
        (lists if is_list else rest).append(text)
    return lists, rest


def _parsed(text: str) -> Node:
    path, _, value = text.partition("=")
    return parse_text(" " * len(f"{path}=") + value, file=argument_name(text), top="any")


def _one(axis: Axis, draw: random.Random) -> tuple[Value, ...]:
    return draw.choice(axis.choices) if axis.range is None else (axis.range.drawn(draw),)


def _mark(axis: Axis) -> Mark:
    return axis.range.mark if axis.range is not None else axis.choices[0][0].mark


def _finding(mark: Mark, path: str, what: str, fix: str) -> Finding:
    if mark.file.startswith("--") and "=" not in mark.file:
        return Finding(path=path, what=what, fix=fix, file=mark.file)
    return Finding(path=path, what=what, fix=fix, file=mark.file, line=mark.line, column=mark.column)


class _Reading:
    """Reads axes from nodes, and keeps findings."""

    def __init__(self, found: list[Finding]) -> None:
        self.found = found
        self.sample: int | None = None
        self.seeds: int | None = None
        self.marks: dict[str, Mark] = {}

    def section(self, node: Node) -> Iterator[Axis]:
        """The axes of a run file's section."""
        if not isinstance(node.value, dict):
            self._say(node, "sweep", "the section is no mapping", "sweep: {train.lr: [1e-3, 3e-3]}")
            return
        for key, child in node.value.items():
            if key == "zip":
                yield from self._groups(child)
            elif key in _KEYS:
                self._number(key, child)
            else:
                axis = self._axis(key, child, node.key_marks[key])
                if axis is not None:
                    yield axis

    def argument(self, text: str) -> Iterator[Axis]:
        """The axis of a `--set` text."""
        node = _parsed(text)
        path = text.partition("=")[0]
        axis = self._axis(path, node, node.mark)
        if axis is not None:
            yield axis

    def stays(self, axis: Axis, listed_elsewhere: set[str], fixed: set[str]) -> bool:
        """Whether an axis of the file is not replaced by an argument; part of a group cannot be."""
        replaced = [path for path in axis.paths if path in listed_elsewhere | fixed]
        if replaced and len(axis.paths) > 1:
            what = f"{replaced[0]} changes together with {listed(path for path in axis.paths if path != replaced[0])}"
            self.found.append(_finding(_mark(axis), replaced[0], what, "leave it to the file, or change the group"))
        return not replaced

    def _axis(self, path: str, node: Node, key: Mark) -> Axis | None:
        if isinstance(node.value, dict) and node.value.keys() & _RANGE:
            found = self._range(path, node, node.value)
            return None if found is None else Axis(choices=(), range=found)
        if not isinstance(node.value, list):
            near = did_you_mean(path, _KEYS) if "." not in path else ""
            self.found.append(_finding(key, f"sweep.{path}", "no list of values", near or f"{path}: [..., ...]"))
            return None
        values = self._values(path, node)
        return None if values is None else Axis(choices=tuple((value,) for value in values))

    def _values(self, path: str, node: Node) -> list[Value] | None:
        items = cast("list[Node]", node.value)
        if not items:
            self._say(node, f"sweep.{path}", "an empty list", "list at least one value")
            return None
        seen: dict[str, Node] = {}
        for item in items:
            text = json.dumps(to_plain(item), sort_keys=True)
            if text in seen:
                self._say(item, f"sweep.{path}", f"{printable(text, 40)} stands there twice", "list it once")
            seen[text] = item
        return [Value(path=path, value=to_plain(item), mark=item.mark) for item in items]

    def _groups(self, node: Node) -> Iterator[Axis]:
        groups = node.value if isinstance(node.value, list) else [node]
        for group in groups:
            if not isinstance(group.value, dict) or not group.value:
                fix = "zip: [{train.batch: [8, 16], train.accumulate: [1, 2]}]"
                self._say(group, "sweep.zip", "a group is a mapping of lists", fix)
                continue
            columns = {path: self._axis(path, child, child.mark) for path, child in group.value.items()}
            axes = [axis for axis in columns.values() if axis is not None]
            if len(axes) < len(columns):
                continue
            lengths = {path: len(axis.choices) for path, axis in columns.items() if axis is not None}
            if len(set(lengths.values())) > 1 or 0 in lengths.values():
                shown = ", ".join(f"{path} {count}" for path, count in lengths.items())
                self._say(group, "sweep.zip", f"lists of unequal length: {shown}", "give each as many values")
                continue
            rows = zip(*(axis.choices for axis in axes), strict=True)
            yield Axis(choices=tuple(tuple(itertools.chain.from_iterable(row)) for row in rows))

    def _number(self, key: str, node: Node) -> None:
        if type(node.value) is not int:
            self._say(node, f"sweep.{key}", "a whole number is due here", f"{key}: 4")
            return
        self.marks[key] = node.mark
        if key == "sample":
            self.sample = node.value
        else:
            self.seeds = node.value

    def _range(self, path: str, node: Node, parts: Mapping[str, Node]) -> Range | None:
        form = f"{path}: {{from: 1e-4, to: 1e-2, scale: log}}"
        plain = {key: child.value for key, child in parts.items()}
        unknown = sorted(plain.keys() - _RANGE)
        low, high, scale = plain.get("from"), plain.get("to"), plain.get("scale", "linear")
        if unknown or scale not in {"linear", "log"}:
            self._say(node, f"sweep.{path}", "a range has from, to and scale (linear or log)", form)
        elif not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
            self._say(node, f"sweep.{path}", "a range goes from a number to a number", form)
        else:
            ends = cast("float", low), cast("float", high)
            if all(map(math.isfinite, ends)) and ends[0] < ends[1] and (scale == "linear" or ends[0] > 0):
                whole = isinstance(low, int) and isinstance(high, int)
                return Range(path=path, low=ends[0], high=ends[1], scale=str(scale), whole=whole, mark=node.mark)
            self._say(node, f"sweep.{path}", "from is less than to, and above 0 on a log scale", form)
        return None

    def _say(self, node: Node, path: str, what: str, fix: str) -> None:
        self.found.append(_finding(node.mark, path, what, fix))
