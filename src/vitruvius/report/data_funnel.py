"""Where the documents went: in = out + dropped by reason, as streams as wide as what flows in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitruvius.report.svg import Svg, fitted, text_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.report.data_charts import Palette

    Statistics = Mapping[str, Any]

_FLOW = 240.0
"""Height of all documents."""
_ROW = 21.0
_TOP = 34.0
_NODE = 12.0
_LEFT = 96.0
_MOST_REASONS = 16

SORT_NAMES = {
    "damage": "damaged",
    "harmless": "nothing in it",
    "rule": "dropped by a rule",
    "duplicate": "duplicate",
}

_SEVERAL = {"damage": "kinds of damage", "harmless": "with nothing in it", "rule": "rules", "duplicate": "duplicates"}


def ends_of(statistics: Statistics) -> list[tuple[str, str, int]]:
    """(name, sort, documents) of each end that documents come to, the kept ones first; rare reasons stand together."""
    kept = [(split["name"], split["name"], split["documents"]) for split in statistics["splits"]]
    dropped = [(row["reason"], row["sort"], row["documents"]) for row in statistics["funnel"]["dropped"]]
    dropped = [end for end in dropped if end[2]]
    if len(dropped) > _MOST_REASONS:
        ordered = sorted(dropped, key=lambda end: -end[2])
        shown = set(ordered[: _MOST_REASONS - len(SORT_NAMES)])
        rest = [end for end in dropped if end not in shown]
        dropped = [end for end in dropped if end in shown]
        for sort in SORT_NAMES:
            some = [end for end in rest if end[1] == sort]
            if len(some) == 1:
                dropped += some
            elif some:
                dropped.append((f"{len(some)} more {_SEVERAL[sort]}", sort, sum(end[2] for end in some)))
        order = list(SORT_NAMES)
        dropped.sort(key=lambda end: order.index(end[1]))
    return kept + dropped


def funnel_height(statistics: Statistics) -> float:
    """How high the picture is."""
    return _TOP + max(_FLOW, _right_height(ends_of(statistics), statistics["funnel"]["documents_in"])) + 14


def funnel_chart(svg: Svg, x: float, y: float, width: float, statistics: Statistics, colours: Palette) -> None:
    """Draw the streams with the upper left corner at (x, y)."""
    ends, total = ends_of(statistics), statistics["funnel"]["documents_in"]
    top = y + _TOP
    height = max(_FLOW, _right_height(ends, total))
    label = _label_room(ends, total)
    start, stop = x + _LEFT, max(x + _LEFT + 120, x + width - label - _NODE)
    source = top + (height - _FLOW) / 2
    svg.rect(start, source, _NODE, _FLOW, fill=colours.ink, radius=2)
    svg.text(start - 10, source + _FLOW / 2 - 2, f"{total:,}", size=15, fill=colours.ink, anchor="end", bold=True)
    svg.text(start - 10, source + _FLOW / 2 + 14, "documents in", size=11, fill=colours.muted, anchor="end")
    left, right = source, top + (height - _right_height(ends, total)) / 2
    for name, sort, count in ends:
        tall = _FLOW * count / total if total else 0.0
        room = max(tall, _ROW)
        place = right + (room - tall) / 2
        _stream(svg, (start + _NODE, left), (stop, place), tall, colours.sorts[sort])
        svg.rect(stop, place, _NODE, max(tall, 1.2), fill=colours.sorts[sort], radius=1)
        middle = right + room / 2 + 4
        svg.text(stop + _NODE + 8, middle, fitted(name, 210, 12, bold=True), size=12, fill=colours.ink, bold=True)
        share = f"{count:,}  ({count / total:.2%})" if total else f"{count:,}"
        svg.text(x + width, middle, share, size=11, fill=colours.muted, anchor="end")
        left += tall
        right += room


def _right_height(ends: Sequence[tuple[str, str, int]], total: int) -> float:
    return sum(max(_FLOW * count / total if total else 0.0, _ROW) for _, _, count in ends)


def _label_room(ends: Sequence[tuple[str, str, int]], total: int) -> float:
    names = max((min(210.0, text_width(name, 12, bold=True)) for name, _, _ in ends), default=0)
    counts = text_width(f"{total:,}  (100.00%)", 11)
    return names + counts + 32


def _stream(svg: Svg, start: tuple[float, float], stop: tuple[float, float], tall: float, colour: str) -> None:
    """A ribbon of `tall` from one upper edge to the other."""
    tall = max(tall, 0.8)
    (x0, y0), (x1, y1) = start, stop
    middle = (x0 + x1) / 2
    data = (
        f"M{x0:.2f} {y0:.2f}C{middle:.2f} {y0:.2f} {middle:.2f} {y1:.2f} {x1:.2f} {y1:.2f}"
        f"V{y1 + tall:.2f}C{middle:.2f} {y1 + tall:.2f} {middle:.2f} {y0 + tall:.2f} {x0:.2f} {y0 + tall:.2f}z"
    )
    svg.nest(0, 0, f'<path d="{data}" fill="{colour}" fill-opacity="0.4"/>')
