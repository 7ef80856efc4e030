"""A curve of one or more series over steps, in the terminal and as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"
_FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12"'
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named line of (x, y) points in rising x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A named horizontal line, such as a baseline."""

    name: str
    y: float


def smoothed(points: Sequence[tuple[float, float]], most: int) -> tuple[tuple[float, float], ...]:
    """At most `most` points, each the mean of its share of the originals."""
    if len(points) <= most:
        return tuple(points)
    groups = [points[i * len(points) // most : (i + 1) * len(points) // most] for i in range(most)]
    return tuple((sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups)


def curve_text(series: Series, *, width: int = 64, height: int = 8, style: str = "blocks") -> str:
    """The series as bars of `height` rows, with the largest and smallest value beside them; `style` blocks or ascii."""
    points = smoothed(series.points, width)
    if not points:
        return f"{series.name}: no points yet"
    values = [y for _, y in points]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    label = max(len(f"{high:.2f}"), len(f"{low:.2f}"))
    rows: list[str] = []
    for row in range(height, 0, -1):
        cells = "".join(_cell((y - low) / span * height, row, style) for y in values)
        edge = f"{high:.2f}" if row == height else f"{low:.2f}" if row == 1 else ""
        rows.append(f"  {edge:>{label}} {'│' if style == 'blocks' else '|'}{cells}")
    first, last = f"{points[0][0]:.0f}", f"{points[-1][0]:.0f}"
    axis = f"  {'':>{label}}  {first}{last:>{max(len(points) - len(first), len(last) + 1)}}"
    return "\n".join([f"  {series.name}", *rows, axis])


def _cell(filled: float, row: int, style: str) -> str:
    """One character of a bar that is `filled` rows high; the lowest row is never empty."""
    part = min(max(filled - (row - 1), 0.0), 1.0)
    if style == "ascii":
        return "#" if part >= 0.5 or row == 1 else " "
    if part == 0:
        return _LEVELS[0] if row == 1 else " "
    return _LEVELS[min(int(part * 8), 7)]


def curve_svg(
    lines: Sequence[Series],
    levels: Sequence[Level] = (),
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 760,
    height: int = 320,
) -> str:
    """A standalone SVG chart with axes, a legend and labelled horizontal levels."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [level.y for level in levels]
    if not xs:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="40"><title>{escape(title)}</title></svg>'
        )
    frame = _Frame.around(xs, ys, width, height)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_axes(frame, x_label, y_label),
    ]
    for level in levels:
        y = frame.y(level.y)
        parts.append(
            f'<line x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#94a3b8" '
            'stroke-dasharray="5 4"/>'
            f'<text x="{frame.right - 4}" y="{y - 5:.1f}" text-anchor="end" fill="#475569">'
            f"{escape(level.name)} {level.y:.2f}</text>"
        )
    for i, line in enumerate(lines):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
            f'<text x="{frame.left + 12 + 170 * i}" y="20" fill="{colour}">{escape(line.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The plotting area and the numbers at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    y_step: float

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float], width: int, height: int) -> _Frame:
        step = nice_step((max(ys) - min(ys)) or 1.0)
        low, high = floor(min(ys) / step) * step, ceil(max(ys) / step) * step
        return cls(
            left=56,
            right=width - 16,
            top=32,
            bottom=height - 44,
            x_low=min(xs),
            x_high=max(xs) if max(xs) > min(xs) else min(xs) + 1,
            y_low=low,
            y_high=high if high > low else low + step,
            y_step=step,
        )

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - self.top)


def nice_step(span: float, ticks: int = 5) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `span` into about `ticks` parts."""
    raw = span / ticks
    power = 10 ** floor(log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def _axes(frame: _Frame, x_label: str, y_label: str) -> list[str]:
    parts: list[str] = []
    for i in range(round((frame.y_high - frame.y_low) / frame.y_step) + 1):
        value = frame.y_low + i * frame.y_step
        y = frame.y(value)
        parts.append(
            f'<line x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>'
            f'<text x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#475569">{value:g}</text>'
        )
    step = nice_step(frame.x_high - frame.x_low)
    value = ceil(frame.x_low / step) * step
    while value <= frame.x_high + step * 1e-6:
        x = frame.x(value)
        parts.append(f'<text x="{x:.1f}" y="{frame.bottom + 18}" text-anchor="middle" fill="#475569">{value:g}</text>')
        value += step
    middle = (frame.left + frame.right) / 2
    centre = (frame.top + frame.bottom) / 2
    parts.append(
        f'<text x="{middle}" y="{frame.bottom + 36}" text-anchor="middle" fill="#0f172a">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {centre}) rotate(-90)" text-anchor="middle" fill="#0f172a">'
        f"{escape(y_label)}</text>"
    )
    return parts
