"""The pictures of prepared data, from its statistics as plain JSON: each drawn into a box, on a page or on paper."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, Final, Literal

from vitruvius.report.curve import nice_step
from vitruvius.report.svg import HAIR, INK, LINE, MUTED, Svg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Statistics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of a drawing."""

    ink: str
    muted: str
    line: str
    hair: str
    paper: str
    series: tuple[str, ...]
    """First, second, ... thing drawn."""
    sorts: Mapping[str, str]
    """What became of documents -> colour."""


PAPER: Final = Palette(
    ink=INK,
    muted=MUTED,
    line=LINE,
    hair=HAIR,
    paper="#ffffff",
    series=("#0b62a4", "#c2410c", "#047857"),
    sorts={
        "train": "#0b62a4",
        "validation": "#4f9bd0",
        "damage": "#b91c1c",
        "harmless": "#8a949e",
        "rule": "#c2730c",
        "duplicate": "#86198f",
    },
)
"""For a file of its own, on white."""

PAGE: Final = Palette(
    ink="var(--ink)",
    muted="var(--soft)",
    line="var(--soft)",
    hair="var(--line)",
    paper="var(--paper)",
    series=("var(--s0)", "var(--s1)", "var(--s2)"),
    sorts={
        "train": "var(--s0)",
        "validation": "var(--s5)",
        "damage": "var(--bad)",
        "harmless": "var(--s7)",
        "rule": "var(--s1)",
        "duplicate": "var(--s4)",
    },
)
"""For our pages, whose style says what the colours are in light and dark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where a picture is drawn, axes and labels included."""

    x: float = 0
    y: float = 0
    width: float = 480
    height: float = 260


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """The area between the axes of a box: shares of its width and height become coordinates."""

    left: float
    right: float
    top: float
    bottom: float

    @classmethod
    def within(cls, box: Box, *, left: float = 52, top: float = 30) -> _Plot:
        return cls(left=box.x + left, right=box.x + box.width - 16, top=box.y + top, bottom=box.y + box.height - 40)

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        return self.bottom - share * (self.bottom - self.top)


# --------------------------------------------------------------------------------------------------------- lengths


def lengths_chart(svg: Svg, box: Box, lengths: Mapping[str, Any], colours: Palette) -> None:
    """How long documents are: shares of the documents and of the tokens, by length on a logarithmic axis."""
    bins = list(lengths["histogram"])
    while len(bins) > 1 and bins[0]["documents"] == 0:
        bins.pop(0)
    documents, tokens = lengths["documents"], lengths["tokens"]
    pairs = [(one["documents"] / documents, one["tokens"] / tokens) for one in bins]
    plot = _Plot.within(box)
    high = _percent_axis(svg, plot, max(max(pair) for pair in pairs), colours)
    width = (plot.right - plot.left) / len(bins)
    bar = min(width * 0.42, 22)
    every = max(1, ceil(len(bins) * 44 / (plot.right - plot.left)))
    for place, (one, pair) in enumerate(zip(bins, pairs, strict=True)):
        middle = plot.left + (place + 0.5) * width
        for side, share in enumerate(pair):
            tall = (plot.bottom - plot.top) * share / high
            if share:
                tall = max(tall, 1)
                svg.rect(middle - bar + side * bar, plot.bottom - tall, bar * 0.94, tall, fill=colours.series[side])
        if (len(bins) - 1 - place) % every == 0:
            svg.text(middle, plot.bottom + 15, f"{one['up_to']:,}", size=10, fill=colours.muted, anchor="middle")
    _baseline(svg, plot, colours)
    _x_title(svg, plot, "tokens in a document, up to (logarithmic)", colours)
    _legend(svg, plot, ("share of documents", "share of tokens"), colours)


def contexts_chart(svg: Svg, box: Box, contexts: Sequence[Mapping[str, Any]], colours: Palette) -> None:
    """What rows of one document each would cut off and leave empty, by context."""
    plot = _Plot.within(box)
    _percent_axis(svg, plot, 1.0, colours)
    last = max(1, len(contexts) - 1)
    for place, one in enumerate(contexts):
        x = plot.x(place / last)
        svg.line((x, plot.top), (x, plot.bottom), stroke=colours.hair, weight=0.6)
        svg.text(x, plot.bottom + 15, _short(one["context"]), size=10, fill=colours.muted, anchor="middle")
    for number, key in enumerate(("slots_empty_share", "tokens_truncated_share")):
        points = [(plot.x(place / last), plot.y(one[key])) for place, one in enumerate(contexts)]
        _polyline(svg, points, colours.series[number])
        for x, y in points:
            svg.circle(x, y, 2.8, fill=colours.series[number], stroke=colours.series[number])
    _baseline(svg, plot, colours)
    _x_title(svg, plot, "context, one document in each row", colours)
    _legend(svg, plot, ("slots left empty", "tokens cut off"), colours)


# ---------------------------------------------------------------------------------------------------------- tokens


def frequency_chart(svg: Svg, box: Box, frequencies: Mapping[str, Any], colours: Palette) -> None:
    """How often a token occurs over its rank, both logarithmic, with the line that was laid through."""
    points = [(one["rank"], one["count"]) for one in frequencies["ranks"] if one["count"]]
    plot = _Plot.within(box, left=58)
    wide = max(1.0, log10(max(2, frequencies["vocab_size"])))
    tall = max(1.0, float(ceil(log10(max(2, *(count for _, count in points), 2)))))

    def at(rank: float, count: float) -> tuple[float, float]:
        return plot.x(log10(rank) / wide), plot.y(log10(max(count, 0.7)) / tall)

    for power in range(floor(tall) + 1):
        _, y = at(1, 10**power)
        svg.line((plot.left, y), (plot.right, y), stroke=colours.hair, weight=0.8)
        svg.text(plot.left - 6, y + 3.5, _power(power), size=10, fill=colours.muted, anchor="end")
    for power in range(floor(wide) + 1):
        x, _ = at(10**power, 1)
        svg.text(x, plot.bottom + 15, _power(power), size=10, fill=colours.muted, anchor="middle")
    if len(points) > 1:
        _polyline(svg, [at(*point) for point in points], colours.series[0])
    for point in points if len(points) < 12 else ():
        svg.circle(*at(*point), 2.8, fill=colours.series[0], stroke=colours.series[0])
    if zipf := frequencies["zipf"]:
        ends = [
            at(rank, zipf["line_at_rank_1"] * rank ** -zipf["exponent"])
            for rank in (zipf["from_rank"], zipf["to_rank"])
        ]
        svg.path(f"M{_xy(ends[0])}L{_xy(ends[1])}", stroke=colours.series[1], weight=1.6, dash="6 4")
    _baseline(svg, plot, colours)
    _x_title(svg, plot, "rank of the token (the axis ends at the vocabulary)", colours)
    fit = () if not zipf else (f"rank^-{zipf['exponent']:.2f}, ranks {zipf['from_rank']:,} to {zipf['to_rank']:,}",)
    _legend(svg, plot, ("occurrences", *fit), colours)


# ------------------------------------------------------------------------------------------------------------ bars


def bars_chart(
    svg: Svg,
    box: Box,
    bars: Sequence[tuple[str, int]],
    *,
    x_title: str,
    legend: str,
    colours: Palette,
    labels: Literal["edge", "middle"] = "edge",
    end: str = "",
    series: int = 0,
) -> None:
    """Counts as bars side by side, each with its number; labels are of left edges (`end` of the last right one), or
    stand under the middle.
    """
    plot = _Plot.within(box)
    most = max((count for _, count in bars), default=0) or 1
    width = (plot.right - plot.left) / max(1, len(bars), 0 if labels == "edge" else 4)
    every = max(1, ceil(34 / width))
    for place, (label, count) in enumerate(bars):
        x = plot.left + place * width
        if count:
            tall = max(1.5, (plot.bottom - plot.top - 14) * count / most)
            svg.rect(x + 1, plot.bottom - tall, width - 2, tall, fill=colours.series[series])
            if width >= 5 * len(f"{count:,}"):
                svg.text(
                    x + width / 2, plot.bottom - tall - 4, f"{count:,}", size=9, fill=colours.muted, anchor="middle"
                )
        if place % every == 0:
            at = x if labels == "edge" else x + width / 2
            svg.text(at, plot.bottom + 15, label, size=10, fill=colours.muted, anchor="middle")
    if end and len(bars) % every == 0:
        svg.text(plot.left + len(bars) * width, plot.bottom + 15, end, size=10, fill=colours.muted, anchor="middle")
    _baseline(svg, plot, colours)
    _x_title(svg, plot, x_title, colours)
    _legend(svg, plot, (legend,), colours, first=series)


def jaccard_bars(duplicates: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The histogram of similarities, from its first bin that holds something."""
    rows = duplicates["jaccard"]["histogram"]
    first = next((place for place, row in enumerate(rows) if row["documents"]), 0)
    return [(f"{row['from']:.2f}", row["documents"]) for row in rows[first:]]


def overlap_bars(overlap: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Documents of validation by the share of their n-grams that training holds."""
    return [(f"{row['from']:.0%}", row["documents"]) for row in overlap["documents_by_share"]]


# ----------------------------------------------------------------------------------------------------------- parts


def drawn(draw: Callable[..., None], *args: Any, title: str, box: Box | None = None, **kwargs: Any) -> str:
    """One picture as an SVG for our pages."""
    box = box or Box()
    svg = Svg()
    draw(svg, box, *args, colours=PAGE, **kwargs)
    return svg.inline(box.width, box.height, title=title)


def _percent_axis(svg: Svg, plot: _Plot, largest: float, colours: Palette) -> float:
    """Grid lines with percentages up to at least `largest`; returns the share at the top."""
    step = nice_step(max(largest, 0.01), 4)
    ticks = ceil(largest / step - 1e-9) or 1
    for tick in range(ticks + 1):
        y = plot.y(tick / ticks)
        svg.line((plot.left, y), (plot.right, y), stroke=colours.hair, weight=0.8)
        svg.text(plot.left - 6, y + 3.5, f"{100 * tick * step:g}%", size=10, fill=colours.muted, anchor="end")
    return ticks * step


def _baseline(svg: Svg, plot: _Plot, colours: Palette) -> None:
    svg.line((plot.left, plot.bottom), (plot.right, plot.bottom), stroke=colours.line, weight=1)


def _x_title(svg: Svg, plot: _Plot, text: str, colours: Palette) -> None:
    svg.text((plot.left + plot.right) / 2, plot.bottom + 32, text, size=11, fill=colours.muted, anchor="middle")


def _legend(svg: Svg, plot: _Plot, names: Sequence[str], colours: Palette, *, first: int = 0) -> None:
    x = plot.left
    for number, name in enumerate(names, first):
        svg.rect(x, plot.top - 22, 10, 10, fill=colours.series[number], radius=2)
        svg.text(x + 15, plot.top - 13, name, size=11, fill=colours.ink)
        x += 34 + 5.8 * len(name)


def _polyline(svg: Svg, points: Sequence[tuple[float, float]], colour: str) -> None:
    data = "".join(f"{'L' if number else 'M'}{_xy(point)}" for number, point in enumerate(points))
    svg.path(data, stroke=colour, weight=2)


def _xy(point: tuple[float, float]) -> str:
    return f"{point[0]:.2f} {point[1]:.2f}"


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"


def _power(power: int) -> str:
    return f"{10**power:,}" if power < 4 else "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))
