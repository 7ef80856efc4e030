"""Fewer layers with the same layout: outermost repeats shrink together, periods and the order of blocks stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from vitruvius.errors import SpecError
from vitruvius.spec.graph import resolve
from vitruvius.spec.line_writing import counts, format_line, with_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vitruvius.spec.graph import Layer
    from vitruvius.spec.model import Architecture, Encoder

_MOST_COUNTS = 400
"""Of an outermost repeat, how many smaller counts are tried."""


def shallower(architecture: Architecture) -> Iterator[Architecture]:
    """The architecture with fewer layers, in every number that its layout allows, the deepest first: itself.

    Counts inside parentheses are the layout's period and stay. An encoder shrinks by the same share.
    """
    lines = _compact(architecture)
    outermost = [count for line in lines for count in _outermost(line)]
    seen: set[tuple[str, ...]] = set()
    for kept in range(min(max(outermost, default=1), _MOST_COUNTS), 0, -1):
        share = kept / max(outermost, default=1)
        shorter = tuple(_scaled(line, share) for line in lines)
        if shorter in seen:
            continue
        seen.add(shorter)
        text = shorter[0] if isinstance(architecture.layers, str) else list(shorter)
        candidate = replace(architecture, layers=text, encoder=_encoder(architecture.encoder, share))
        try:
            resolve(candidate)
        except SpecError:
            continue  # stacked lines of different lengths
        yield candidate


def shares(layers: tuple[Layer, ...]) -> dict[str, float]:
    """What part of the layers each block has."""
    counts = Counter(layer.name for layer in layers)
    return {name: number / len(layers) for name, number in counts.items()}


def distortion(before: tuple[Layer, ...], after: tuple[Layer, ...]) -> float:
    """How much the shares of blocks differ: 0 for the same proportions, 1 for entirely others."""
    old, new = shares(before), shares(after)
    return sum(abs(old.get(name, 0.0) - new.get(name, 0.0)) for name in {*old, *new}) / 2


def _compact(architecture: Architecture) -> list[str]:
    """The lines with as many repeats as can be found in them, where no weights are shared."""
    lines = [architecture.layers] if isinstance(architecture.layers, str) else architecture.layers
    if len(lines) > 1 or "^" in lines[0]:
        return lines
    return [format_line([layer.name for layer in resolve(architecture).layers])]


def _encoder(encoder: Encoder | None, share: float) -> Encoder | None:
    if encoder is None:
        return None
    lines = encoder.layers
    if isinstance(lines, str):
        return replace(encoder, layers=_scaled(lines, share))
    return replace(encoder, layers=[_scaled(line, share) for line in lines])


def _outermost(line: str) -> list[int]:
    return [rounds for depth, rounds in counts(line) if depth == 0]


def _scaled(line: str, share: float) -> str:
    """The line with its outermost counts times `share`, none below one."""
    return with_counts(line, lambda depth, rounds: rounds if depth else max(1, round(rounds * share)))
