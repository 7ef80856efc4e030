"""The frontier between what fits and what does not, as a chart and as a table."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Final

from vitruvius.report.svg import HAIR, INK, LINE, MUTED, PAPER, Svg, fitted, text_width
from vitruvius.report.tables import columns
from vitruvius.units import format_binary_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.sizing.frontier import Curve, Frontier, Point

COLOURS: Final = ("#0b62a4", "#c2410c", "#047857", "#86198f", "#a16207", "#334155")
"""Told apart by the colour-blind, and dark enough on the white that the chart brings along."""
DASHES: Final = ("", "7 4")

_LEFT, _TOP, _BOTTOM = 92.0, 84.0, 64.0
_PLOT_WIDTH, _PLOT_HEIGHT = 460.0, 300.0
_KEY_WIDTH = 272.0
_ROW = 34.0


def frontier_text(frontier: Frontier) -> str:
    """One row for each choice of hardware, one column for each batch, the longest context in each cell."""
    batches = [point.batch for point in frontier.curves[0].points]
    head = ("hardware", "room", *(f"batch {batch:,}" for batch in batches))
    rows = [
        (curve.name, format_binary_bytes(curve.available_bytes), *(_cell(point) for point in curve.points))
        for curve in frontier.curves
    ]
    lines = [_title(frontier), "", *columns([head, *rows], align="<" + ">" * (len(head) - 1)), ""]
    lines.append(f"tokens of each sequence; the architecture is designed for {frontier.declared:,}")
    if any(point.is_capped for curve in frontier.curves for point in curve.points):
        lines.append(f">= at least: {frontier.limit:,} were tried ({frontier.why_limit})")
    if any(not point.context for curve in frontier.curves for point in curve.points):
        lines.append("-  not even one token fits")
    return "\n".join(lines)


def _cell(point: Point) -> str:
    if not point.context:
        return "-"
    return f"{'>=' if point.is_capped else ''}{point.context:,}"


def _title(frontier: Frontier) -> str:
    doing = {"inference": "inference", "train": "training"}.get(frontier.mode, frontier.mode)
    return f"{frontier.name}: the longest context that fits, by batch ({doing}, {frontier.weights})"


# ------------------------------------------------------------------------------------------------------------- chart


def frontier_svg(frontier: Frontier) -> str:
    """A chart with batches to the right and contexts upwards, both in doublings; what fits lies below a line."""
    frame = _Frame(frontier)
    svg = Svg()
    svg.text(20, 30, fitted(_title(frontier), frame.width - 40, 15, bold=True), size=15, bold=True)
    svg.text(20, 50, "What lies on a line or below it fits. Both axes are logarithmic.", fill=MUTED)
    _grid(svg, frame)
    _declared(svg, frame, frontier.declared)
    for index, curve in enumerate(frontier.curves):
        _curve(svg, frame, curve, index)
    _legend(svg, frame, frontier.curves)
    if any(point.is_capped for curve in frontier.curves for point in curve.points):
        note = f"Open circles: more would fit; {frontier.limit:,} tokens were tried ({frontier.why_limit})."
        svg.text(20, frame.height - 12, fitted(note, frame.width - 40, 11), fill=MUTED)
    return svg.document(frame.width, frame.height, title=_title(frontier), description=frontier_text(frontier))


class _Frame:
    """Where batches and contexts stand on the chart."""

    def __init__(self, frontier: Frontier) -> None:
        points = [point for curve in frontier.curves for point in curve.points]
        self.batches = [point.batch for point in frontier.curves[0].points]
        contexts = [point.context for point in points if point.context] + [frontier.declared]
        self.low = int(log2(min(contexts)))
        self.high = max(self.low + 1, -int(-log2(max(contexts)) // 1))
        self.right = _LEFT + _PLOT_WIDTH
        rows = max(_PLOT_HEIGHT, _ROW * len(frontier.curves) + 26)
        self.bottom = _TOP + rows
        self.width = self.right + 28 + _KEY_WIDTH + 16
        self.height = self.bottom + _BOTTOM + 8

    def x(self, batch: int) -> float:
        first, last = log2(self.batches[0]), log2(self.batches[-1])
        return _LEFT + (log2(batch) - first) / ((last - first) or 1) * _PLOT_WIDTH

    def y(self, context: float) -> float:
        return self.bottom - (log2(context) - self.low) / (self.high - self.low) * (self.bottom - _TOP)


def _grid(svg: Svg, frame: _Frame) -> None:
    step = max(1, -(-(frame.high - frame.low) // 10))
    for power in range(frame.low, frame.high + 1, step):
        y = frame.y(2**power)
        svg.line((_LEFT, y), (frame.right, y), stroke=HAIR, weight=1)
        svg.text(_LEFT - 8, y + 4, f"{2**power:,}", fill=MUTED, anchor="end")
    for batch in frame.batches:
        x = frame.x(batch)
        svg.line((x, _TOP), (x, frame.bottom), stroke=HAIR, weight=1)
        svg.text(x, frame.bottom + 18, f"{batch:,}", fill=MUTED, anchor="middle")
    svg.line((_LEFT, frame.bottom), (frame.right, frame.bottom), weight=1.2)
    svg.text((_LEFT + frame.right) / 2, frame.bottom + 38, "sequences at a time", fill=INK, anchor="middle")
    svg.text(20, _TOP - 12, "tokens of each", fill=INK)


def _declared(svg: Svg, frame: _Frame, declared: int) -> None:
    """The context that the architecture is made for, named in the key."""
    y = frame.y(declared)
    svg.path(f"M{_LEFT:g} {y:.2f}H{frame.right:g}", stroke=LINE, weight=1.2, dash="2 3")


def _curve(svg: Svg, frame: _Frame, curve: Curve, index: int) -> None:
    colour, dash = _style(index)
    there = [point for point in curve.points if point.context]
    if not there:
        return
    data = "".join(f"{'L' if i else 'M'}{frame.x(p.batch):.2f} {frame.y(p.context):.2f}" for i, p in enumerate(there))
    svg.path(data, stroke=colour, weight=2.2, dash=dash)
    for point in there:
        fill = PAPER if point.is_capped else colour
        svg.circle(frame.x(point.batch), frame.y(point.context), 3.4, fill=fill, stroke=colour)


def _style(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def _legend(svg: Svg, frame: _Frame, curves: Sequence[Curve]) -> None:
    """The key, in the order in which the lines lie at the smallest batch, highest first."""
    left, y = frame.right + 28, _TOP + 4
    order = sorted(range(len(curves)), key=lambda index: [-point.context for point in curves[index].points])
    for index in order:
        curve = curves[index]
        colour, dash = _style(index)
        svg.path(f"M{left:g} {y:.2f}H{left + 26:g}", stroke=colour, weight=2.2, dash=dash)
        svg.text(left + 34, y + 4, fitted(curve.name, _KEY_WIDTH - 34, 12, bold=True), size=12, bold=True)
        svg.text(left + 34, y + 18, fitted(_note(curve), _KEY_WIDTH - 34, 11), fill=MUTED)
        y += _ROW
    svg.path(f"M{left:g} {y:.2f}H{left + 26:g}", stroke=LINE, weight=1.2, dash="2 3")
    svg.text(left + 34, y + 4, "the declared context", fill=MUTED)


def _note(curve: Curve) -> str:
    room = format_binary_bytes(curve.available_bytes)
    first = curve.points[0]
    if not first.context:
        return f"{room}: nothing fits"
    note = f"{room}: {_cell(first)} tokens at batch {first.batch:,}"
    return note if text_width(note, 11) <= _KEY_WIDTH - 34 else room
