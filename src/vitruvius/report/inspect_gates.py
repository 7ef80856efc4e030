"""The part of a page about position gates: the text under each gate, and its curve."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.inspect_words import number, tinted, tokens_of, visible
from vitruvius.report.svg import Svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 960, 190, 46, 12, 26, 10
_MOST_GATES = 16
_MOST_LINES = 8


def gates_section(document: Mapping[str, Any]) -> list[str]:
    """HTML blocks; none without gates."""
    every: Sequence[Mapping[str, Any]] = document["gates"]
    if not every:
        return []
    shown = every if len(every) <= _MOST_GATES else [every[i * len(every) // _MOST_GATES] for i in range(_MOST_GATES)]
    cut = f"<p class='soft'>{len(shown)} of {len(every)} gates, evenly spaced; all are in the data.</p>"
    return [
        "<h2>Positions that depend on the text</h2>",
        cut if len(shown) < len(every) else "",
        *(block for gate in shown for block in _gate(document, gate)),
    ]


def telling_line(gate: Mapping[str, Any]) -> tuple[str, Sequence[float | None]]:
    """The line of a gate that varies most from token to token, and what it is; the mean where lines are too many."""
    lines: Sequence[Sequence[float | None]] | None = gate["values"]
    if not lines:
        return f"mean over {gate['count']:,} {_plural(gate)}", gate["mean"]
    best = max(range(len(lines)), key=lambda index: _spread(lines[index]))
    return (f"{gate['of']} {best}" + (", which varies most" if len(lines) > 1 else "")), lines[best]


def _spread(line: Sequence[float | None]) -> float:
    real = [value for value in line if value is not None]
    mean = sum(real) / max(1, len(real))
    return sum((value - mean) ** 2 for value in real)


def _gate(document: Mapping[str, Any], gate: Mapping[str, Any]) -> list[str]:
    tokens = tokens_of(document, gate["text"])
    name, line = telling_line(gate)
    real = [value for value in line if value is not None] or [0.0]
    low, high = min(real), max(real)
    titles = [f"{visible(token)}: {number(value, '.3f')}" for token, value in zip(tokens, line, strict=True)]
    shares = [None if value is None or high <= low else (value - low) / (high - low) for value in line]
    ground = f"from {number(low, '.3f')} without a ground to {number(high, '.3f')} with the strongest"
    return [
        f"<h3>{escape(gate['path'])}: {escape(gate['name'])}</h3>",
        f"<p class='soft'>A value is {escape(gate['means'])}. The text is tinted by {escape(name)}: {ground}.</p>",
        tinted(tokens, shares, titles),
        f'<figure class="chart">{_curve(gate, tokens)}</figure>',
        _legend(gate),
    ]


def _legend(gate: Mapping[str, Any]) -> str:
    lines: Sequence[object] = gate["values"] or []
    if not 1 < len(lines) <= _MOST_LINES:
        return (
            "" if len(lines) == 1 else f"<p class='soft'>The band holds the middle 80 % of {escape(_plural(gate))}.</p>"
        )
    items = (
        f'<li><span class="swatch" style="background:var(--s{index % 8})"></span>{escape(gate["of"])} {index}</li>'
        for index in range(len(lines))
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _plural(gate: Mapping[str, Any]) -> str:
    return gate["of"] + ("s" if gate["count"] != 1 else "")


def _curve(gate: Mapping[str, Any], tokens: Sequence[str]) -> str:
    """Each head as a line, or the middle 80 % of many as a band with their mean."""
    lines: list[Sequence[float | None]] = gate["values"] or []
    few = 0 < len(lines) <= _MOST_LINES
    drawn = lines if few else [gate["low"], gate["high"]]
    real = [value for line in (*drawn, gate["mean"]) for value in line if value is not None]
    low = min(0.0, *real) if real else 0.0
    high = gate["most"] or (max(real) if real else 1.0)
    high = high if high > low else low + 1.0
    svg = Svg()
    scale = _Scale(low, high, len(tokens))
    for value in (low, (low + high) / 2, high):
        y = scale.y(value)
        svg.line((_LEFT, y), (_WIDTH - _RIGHT, y), stroke="var(--line)", weight=1)
        svg.text(_LEFT - 6, y + 3.5, f"{value:.3g}", size=10, fill="var(--soft)", anchor="end")
    for place in range(0, len(tokens), max(1, len(tokens) // 12)):
        svg.text(scale.x(place), _HEIGHT - 8, str(place), size=10, fill="var(--soft)", anchor="middle")
    if few:
        for index, line in enumerate(lines):
            svg.path(scale.path(line), stroke=f"var(--s{index % 8})", weight=1.4)
    else:
        svg.path(
            scale.band(gate["low"], gate["high"]), fill="color-mix(in srgb, var(--s0) 22%, transparent)", stroke="none"
        )
        svg.path(scale.path(gate["mean"]), stroke="var(--s0)", weight=1.6)
    title = f"{gate['path']}: {gate['name']} by token" + ("" if few else "; the band holds the middle 80 %")
    return svg.inline(_WIDTH, _HEIGHT, title=title)


class _Scale:
    def __init__(self, low: float, high: float, count: int) -> None:
        self.low, self.high, self.count = low, high, count

    def x(self, place: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * place / max(1, self.count - 1)

    def y(self, value: float) -> float:
        room = _HEIGHT - _TOP - _BOTTOM
        return _TOP + room * (1 - (value - self.low) / (self.high - self.low))

    def path(self, line: Sequence[float | None]) -> str:
        """Points joined where they follow each other; a gap where a number is missing."""
        data, pen = "", "M"
        for place, value in enumerate(line):
            if value is None:
                pen = "M"
                continue
            data += f"{pen}{self.x(place):.1f} {self.y(value):.1f}"
            pen = "L"
        return data or "M0 0"

    def band(self, low: Sequence[float | None], high: Sequence[float | None]) -> str:
        upper = [(self.x(i), self.y(value)) for i, value in enumerate(high) if value is not None]
        lower = [(self.x(i), self.y(value)) for i, value in enumerate(low) if value is not None]
        points = [*upper, *reversed(lower)]
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "z" if points else "M0 0"
