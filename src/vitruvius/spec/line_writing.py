"""Layer lines as text: the shortest one that names some blocks (`(dense moe)*16`), and other counts in a given one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MARKS: Final = re.compile(r"([()])|([*^])\s*(\d+)")
_LONGEST_PERIOD: Final = 64


class _Written(NamedTuple):
    """The best text for some layers: the fewer blocks it names the better, then the fewer characters."""

    blocks: int
    characters: int
    text: str


class _Step(NamedTuple):
    """The best way to write the layers from one place to the end: this text, then the step at `then`."""

    blocks: int
    characters: int
    text: str
    then: int


def format_line(names: Sequence[str]) -> str:
    """A line that stands for these blocks and names as few of them as possible: `(dense moe)*16`.

    Reading it back gives the same names. Groups of up to 64 layers are recognised.
    """
    return _shortest(tuple(names), {}).text


def _shortest(names: tuple[str, ...], known: dict[tuple[str, ...], _Written]) -> _Written:
    """From the end, each place either names one block or starts a repeated group; the best of these is kept."""
    if names in known:
        return known[names]
    repeats = _repeats(names)
    steps = [_Step(0, 0, "", 0)] * (len(names) + 1)
    for start in reversed(range(len(names))):
        choices = [_step(_Written(1, len(names[start]), names[start]), start + 1, steps)]
        for period, most in repeats[start]:
            unit = names[start : start + period]
            inner = _Written(1, len(unit[0]), unit[0]) if period == 1 else _shortest(unit, known)
            atom = inner.text if period == 1 else f"({inner.text})"
            # Shorter repeats are tried too, unless there are so many that the longest is surely right.
            for count in range(2 if most <= _LONGEST_PERIOD else most, most + 1):
                group = f"{atom}*{count}"
                choices.append(_step(_Written(inner.blocks, len(group), group), start + period * count, steps))
        steps[start] = min(choices, key=lambda step: (step.blocks, step.characters))
    texts: list[str] = []
    place = 0
    while place < len(names):
        texts.append(steps[place].text)
        place = steps[place].then
    known[names] = _Written(steps[0].blocks, steps[0].characters, " ".join(texts))
    return known[names]


def _step(first: _Written, then: int, steps: list[_Step]) -> _Step:
    rest = steps[then]
    return _Step(first.blocks + rest.blocks, first.characters + 1 + rest.characters, first.text, then)


def _repeats(names: tuple[str, ...]) -> list[list[tuple[int, int]]]:
    """For every place, the (period, times) with which the names repeat from there.

    A period whose unit is itself a repeat is left out: `(a a)*3` is `a*6`.
    """
    total = len(names)
    found: list[list[tuple[int, int]]] = [[] for _ in names]
    for period in range(1, min(_LONGEST_PERIOD, total // 2) + 1):
        same = 0
        for start in reversed(range(total - period)):
            same = same + 1 if names[start] == names[start + period] else 0
            times = same // period + 1
            if times > 1 and not any(
                period % shorter == 0 and shorter * often >= period for shorter, often in found[start]
            ):
                found[start].append((period, times))
    return found


def counts(line: str) -> Iterator[tuple[int, int]]:
    """(parentheses around it, rounds) of every count in a line that can be read."""
    return ((depth, int(mark[3])) for depth, mark in _counted(line))


def with_counts(line: str, change: Callable[[int, int], int]) -> str:
    """The line with every count replaced by what `change` makes of the parentheses around it and its rounds."""
    pieces: list[str] = []
    end = 0
    for depth, mark in _counted(line):
        pieces += [line[end : mark.start()], f"{mark[2]}{change(depth, int(mark[3]))}"]
        end = mark.end()
    return "".join([*pieces, line[end:]])


def _counted(line: str) -> Iterator[tuple[int, re.Match[str]]]:
    depth = 0
    for mark in _MARKS.finditer(line):
        if mark[1]:
            depth += 1 if mark[1] == "(" else -1
        else:
            yield depth, mark
