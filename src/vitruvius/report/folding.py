"""A stack of layers as nested repeats: 32 layers that alternate are one group of two, 16 times."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vitruvius.spec.line_writing import format_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vitruvius.spec.graph import Layer

MOST_PARTS: Final = 12
"""More parts than these are drawn as the first and the last few, with a gap between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class One:
    """One layer."""

    name: str
    """Of its block."""
    layers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Parts that come several times in a row."""

    times: int
    parts: tuple[Part, ...]
    """Bottom first."""
    shares_weights: bool = False
    """Whether every time has the weights of the first."""

    @property
    def layers(self) -> int:
        """Layers in all its rounds."""
        return self.times * sum(part.layers for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Layers that a drawing leaves out."""

    layers: int


Part = One | Repeat | Gap


def fold(layers: Sequence[Layer]) -> tuple[Part, ...]:
    """The shortest nesting of repeats that gives these layers, bottom first."""
    parts = _folded([layer.name for layer in layers])
    marked = list(_marked(parts, layers, 0))
    if None in marked:  # a repeat in which only some rounds share their weights: keep sharers apart
        keys = [layer.name if layer.owns_weights else f"{layer.name} again" for layer in layers]
        marked = list(_marked(_folded(keys), layers, 0, strict=False))
    return tuple(_shortened([part for part in marked if part is not None]))


def line_of(parts: Sequence[Part]) -> str:
    """The fold as a layer line: `(dense moe) x 16`."""
    return " ".join(_line(part) for part in parts)


# ----------------------------------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(r"b(\d+)|\*(\d+)|([()])")


def _folded(names: list[str]) -> list[Part]:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    known = list(numbers)
    # Letters and digits only, so that any name of a block can be folded.
    text = format_line([f"b{numbers[name]}" for name in names])
    open_groups: list[list[Part]] = [[]]
    for match in _TOKEN.finditer(text):
        name, times, bracket = match.groups()
        if name is not None:
            open_groups[-1].append(One(name=known[int(name)]))
        elif bracket == "(":
            open_groups.append([])
        elif bracket == ")":
            group = tuple(open_groups.pop())
            open_groups[-1].append(Repeat(times=1, parts=group))
        else:
            last = open_groups[-1].pop()
            inner = last.parts if isinstance(last, Repeat) and last.times == 1 else (last,)
            open_groups[-1].append(Repeat(times=int(times), parts=inner))
    return open_groups[0]


def _marked(
    parts: Sequence[Part], layers: Sequence[Layer], start: int, *, strict: bool = True
) -> Iterator[Part | None]:
    """The parts with shared weights marked; None for a repeat whose rounds neither all share nor all differ."""
    for part in parts:
        if isinstance(part, Repeat):
            yield _marked_repeat(part, layers, start, strict=strict)
        elif isinstance(part, One) and part.name.endswith(" again"):
            yield Repeat(times=1, parts=(One(name=layers[start].name),), shares_weights=True)
        else:
            yield part
        start += part.layers


def _marked_repeat(part: Repeat, layers: Sequence[Layer], start: int, *, strict: bool) -> Repeat | None:
    period = part.layers // part.times
    rounds = [[layers[start + turn * period + i].weights for i in range(period)] for turn in range(part.times)]
    same = all(weights == rounds[0] for weights in rounds)
    first_round = set(rounds[0])
    apart = not any(first_round & set(weights) for weights in rounds[1:])
    if strict and not (same or apart):
        return None
    inner = list(_marked(part.parts, layers, start, strict=strict))
    if None in inner:
        return None
    return replace(part, parts=tuple(p for p in inner if p is not None), shares_weights=same)


def _shortened(parts: list[Part]) -> Iterator[Part]:
    """The first and the last of too many parts; groups inside are shortened alike."""
    inner = [replace(p, parts=tuple(_shortened(list(p.parts)))) if isinstance(p, Repeat) else p for p in parts]
    if len(inner) <= MOST_PARTS:
        yield from inner
        return
    half = MOST_PARTS // 2
    yield from inner[:half]
    yield Gap(layers=sum(part.layers for part in parts[half:-half]))
    yield from inner[-half:]


def _line(part: Part) -> str:
    match part:
        case One():
            return part.name
        case Gap():
            return f"... {part.layers:,} more ..."
        case Repeat():
            inner = line_of(part.parts)
            sign = "^" if part.shares_weights else "x"
            bracketed = not all(isinstance(inside, One) for inside in part.parts) or len(part.parts) > 1
            return f"({inner}) {sign} {part.times:,}" if bracketed else f"{inner} {sign} {part.times:,}"
