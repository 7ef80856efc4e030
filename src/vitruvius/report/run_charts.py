"""Charts over the steps of runs, for our pages: lines, the spread around them, and marks where something happened."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from vitruvius.report.curve import nice_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.report.run_history import Mark, Point

WIDTH, HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 40
_FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="11"'
LOGARITHMIC_FROM = 50.0
"""Largest over least value, from which on an axis is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[Point]
    colour: str
    """Of CSS."""
    has_dots: bool = False
    """Whether each point is drawn as a dot, for what is measured now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    is_logarithmic: bool

    def share(self, value: float) -> float:
        if self.is_logarithmic:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    *,
    across: tuple[float, float] | None = None,
) -> str:
    """A chart as SVG, with its title above as HTML; nothing without points.

    across: first and last step of the axis, the same for every chart of a page, so that what happened at one step
    stands at one place in all of them; those of the points when not given.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    first, last = across or (min(point.step for point in points), max(point.step for point in points))
    steps = _Axis(low=first, high=last if last > first else first + 1, ticks=(), is_logarithmic=False)
    up = _axis(min(point.low for point in points), max(point.high for point in points))
    parts = [*_grid(up, steps), *_marks(marks, steps), *(_line(line, up, steps) for line in lines)]
    told = ", ".join(part for part in (unit, "logarithmic" if up.is_logarithmic else "") if part)
    return (
        f'<figure><figcaption><strong>{escape(title)}</strong> <span class="soft">{escape(told)}</span>'
        f'</figcaption><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {_FONT} '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _axis(low: float, high: float) -> _Axis:
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        bottom, top = floor(log10(low)), ceil(log10(high))
        every = max(1, ceil((top - bottom) / 6))
        ticks = tuple(10.0**power for power in range(bottom, top + 1, every))
        return _Axis(low=10.0**bottom, high=10.0**top, ticks=ticks, is_logarithmic=True)
    # A constant gets room above and below; so does what differs only in the last bits of its numbers.
    least = max(abs(low), abs(high), 1e-300) * 1e-9
    if high - low < least:
        room = max(abs(low), abs(high)) * 0.05 or 0.5
        low, high = (low if low == 0 else low - room), high + room
    step = nice_step(high - low, 4)
    bottom, top = floor(low / step), ceil(high / step)
    ticks = tuple(number * step for number in range(bottom, top + 1))
    return _Axis(low=ticks[0], high=ticks[-1], ticks=ticks, is_logarithmic=False)


def _x(axis: _Axis, step: float) -> float:
    return _LEFT + axis.share(step) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: _Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _grid(up: _Axis, across: _Axis) -> list[str]:
    parts: list[str] = []
    for tick in up.ticks:
        y = _y(up, tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="var(--soft)">{short(tick)}</text>'
        )
    step = max(1.0, nice_step(across.high - across.low, 5))
    number = ceil(across.low / step)
    while number * step <= across.high:
        x = _x(across, number * step)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle" fill="var(--soft)">'
            f"{short(number * step)}</text>"
        )
        number += 1
    parts.append(
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle" fill="var(--soft)">update</text>'
    )
    return parts


def _marks(marks: Sequence[Mark], across: _Axis) -> list[str]:
    parts: list[str] = []
    for mark in marks:
        if not across.low <= mark.step <= across.high:
            continue
        x = _x(across, mark.step)
        colour = "var(--bad)" if mark.is_bad else "var(--s7)"
        told = f"update {mark.step:,}: {mark.kind}" + (f" ({mark.text})" if mark.text else "")
        parts.append(
            f'<g><title>{escape(told)}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" '
            f'stroke="{colour}" stroke-dasharray="3 3"/>'
            f'<path d="M{x - 4:.1f},{_TOP - 8} h8 l-4,8 z" fill="{colour}"/></g>'
        )
    return parts


def _line(line: Line, up: _Axis, across: _Axis) -> str:
    if not line.points:
        return ""
    places = [(_x(across, point.step), _y(up, point.value)) for point in line.points]
    band = ""
    if any(point.low < point.high for point in line.points):
        above = [f"{_x(across, point.step):.1f},{_y(up, point.high):.1f}" for point in line.points]
        below = [f"{_x(across, point.step):.1f},{_y(up, point.low):.1f}" for point in reversed(line.points)]
        band = f'<polygon points="{" ".join(above + below)}" fill="{line.colour}" fill-opacity="0.16"/>'
    dots = ""
    if line.has_dots or len(places) == 1:
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{line.colour}"/>' for x, y in places)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return (
        f"<g><title>{escape(line.name)}</title>{band}"
        f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6" stroke-linejoin="round"'
        f"{' stroke-dasharray=' + chr(34) + '5 3' + chr(34) if line.has_dots else ''}/>{dots}</g>"
    )


def short(value: float) -> str:
    """A number of an axis: `0.5`, `12k`, `3M`, `2e-05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < size * 1e3:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
