"""The statistics of prepared data as one page and as one picture, from their JSON (`vitruvius.data-stats/1`)."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report import data_text as words
from vitruvius.report.data_charts import (
    PAGE,
    PAPER,
    Box,
    bars_chart,
    contexts_chart,
    drawn,
    frequency_chart,
    jaccard_bars,
    lengths_chart,
    overlap_bars,
)
from vitruvius.report.data_funnel import funnel_chart, funnel_height
from vitruvius.report.sheet import listed, page, table
from vitruvius.report.svg import INK, MUTED, Svg, fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.report.data_text import Statistics

_PRINT = """<style>
figure { break-inside: avoid; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }
.pair h3 { margin-top: .5rem; } .pair figure.chart svg { width: 100%; min-width: 0; }
.pair th:nth-child(2):not(.number), .pair td:last-child { min-width: 0; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } table { font-size: 10px; }
  details { display: none; } @page { margin: 14mm; } h2 { margin-top: 1.2rem; } }
</style>"""


def statistics_page(statistics: Statistics, *, title: str) -> str:
    """The page: self-contained, in light and dark, and on paper."""
    title = words.printable(title, 200)
    body = [
        _PRINT,
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(words.lead(statistics))}</p>',
        table(_cells(words.COUNTS_HEAD), _rows(words.count_rows(statistics)), align=words.COUNTS_ALIGN),
        "<h2>Where the documents went</h2>",
        _funnel(statistics),
        f"<details><summary>Every reason</summary>{_reasons(statistics)}</details>",
        *_changes(statistics),
        *_lengths(statistics),
        *_tokens(statistics),
        *_overlap(statistics),
        *_duplicates(statistics),
        *_hosts(statistics),
        _record(statistics),
    ]
    return page(title, body)


def _cells(row: Sequence[str]) -> list[str]:
    return [escape(cell) for cell in row]


def _rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [_cells(row) for row in rows]


def _figure(svg: str) -> str:
    return f'<figure class="chart">{svg}</figure>'


def _funnel(statistics: Statistics) -> str:
    svg = Svg()
    height = funnel_height(statistics)
    funnel_chart(svg, 0, -20, 860, statistics, PAGE)
    drawing = svg.inline(860, height - 20, title="Documents in, kept and dropped by reason")
    return f'<figure class="wide">{drawing}</figure>'


def _reasons(statistics: Statistics) -> str:
    return table(_cells(("", "documents", "share", "")), _rows(words.funnel_rows(statistics)), align="<>><")


def _changes(statistics: Statistics) -> list[str]:
    rows = words.changed_rows(statistics)
    if not rows:
        return []
    return [
        "<h2>What was rewritten</h2>",
        '<p class="soft">In the documents that passed every rule.</p>',
        table(_cells(("change", "times", "")), _rows(rows), align="<><"),
    ]


def _lengths(statistics: Statistics) -> list[str]:
    head, rows = words.length_rows(statistics)
    if not rows:
        return []
    every, train = statistics["lengths"]["all"], statistics["lengths"]["train"]
    charts = [("Documents and tokens by length", drawn(lengths_chart, every, title="Lengths of documents"))]
    if train:
        chart = drawn(contexts_chart, train["contexts"], title="Cut off and left empty, by context")
        charts.append(("What a context costs (training)", chart))
    parts = [
        "<h2>How long the documents are</h2>",
        f'<p class="soft">{_ABOUT_LENGTHS}</p>',
        _pair(charts),
        table(_cells(head), _rows(rows), align="<" + ">" * (len(head) - 1)),
        "<h3>Long documents</h3>",
        table(_cells(words.LONGER_HEAD), _rows(words.longer_rows(statistics)), align=words.LONGER_ALIGN),
    ]
    if train:
        parts += [
            "<h3>What a context cuts off, leaves empty, or cuts in two</h3>",
            f'<p class="soft">{_ABOUT_CONTEXTS}</p>',
            table(_cells(words.CONTEXT_HEAD), _rows(words.context_rows(statistics)), align=words.CONTEXT_ALIGN),
        ]
    return parts


_ABOUT_LENGTHS = (
    "In tokens, the separator included. Quantiles are exact: the smallest length with that share of the documents at "
    "it or below."
)
_ABOUT_CONTEXTS = (
    "Of the training split. The first three: one document in each row, cut at the context and padded up to it; the "
    "tokens cut off are also those with more than a context of their own document before them. The last: the documents "
    "of a source one after the other without gaps, cut every context."
)


def _pair(charts: Sequence[tuple[str, str]]) -> str:
    return (
        '<div class="pair">'
        + "".join(f"<div><h3>{escape(name)}</h3>{_figure(svg)}</div>" for name, svg in charts)
        + "</div>"
    )


def _tokens(statistics: Statistics) -> list[str]:
    if statistics["tokens"] is None or not statistics["tokens"]["train"]["text_tokens"]:
        return []
    chart = drawn(frequency_chart, statistics["tokens"]["train"], title="Occurrences by rank")
    rows = words.frequent_rows(statistics)
    halves = (rows[: (len(rows) + 1) // 2], rows[(len(rows) + 1) // 2 :])
    head = _cells(("id", "token", "occurrences", "share"))
    tables = [
        "<div>"
        + table(head, [[one, f"<code>{two}</code>", *rest] for one, two, *rest in _rows(half)], align="><>>")
        + "</div>"
        for half in halves
        if half
    ]
    return [
        "<h2>Tokens</h2>",
        listed(words.frequency_lines(statistics)),
        _pair([("Occurrences by rank (training)", chart)]),
        "<h3>The most frequent</h3>",
        f'<div class="pair">{"".join(tables)}</div>',
    ]


def _overlap(statistics: Statistics) -> list[str]:
    overlap = statistics["overlap"]
    if overlap is None:
        return []
    chart = drawn(
        bars_chart,
        overlap_bars(overlap),
        x_title="share of a document's n-grams that training holds",
        legend="validation documents",
        end="100%",
        title="Validation documents by overlap",
    )
    rows = [
        (words.printable(str(row["id"]), 80), f"{row['document']:,}", words.share(row["share"]), f"{row['ngrams']:,}")
        for row in overlap["worst"]
    ]
    worst = table(_cells(("document", "number", "in training", "n-grams")), _rows(rows), align="<>>>") if rows else ""
    return [
        "<h2>What validation shares with training</h2>",
        listed(words.overlap_lines(statistics)),
        _pair([("Documents by overlap", chart)]),
        f"<h3>The most overlap</h3>{worst}" if worst else "",
    ]


def _duplicates(statistics: Statistics) -> list[str]:
    lines = words.duplicate_lines(statistics)
    if not lines:
        return []
    duplicates = statistics["duplicates"]
    charts: list[tuple[str, str]] = []
    for name, series in (("near", 0), ("exact", 1)):
        if sizes := duplicates[name]["sizes"]:
            bars = [(_range(row["from"], row["to"]), row["clusters"]) for row in sizes]
            told: dict[str, Any] = {
                "x_title": "documents in a cluster",
                "legend": "clusters",
                "series": series,
                "labels": "middle",
            }
            chart = drawn(bars_chart, bars, **told, title=f"Clusters of {name} duplicates by size")
            charts.append((f"Clusters of {name} duplicates", chart))
    if duplicates["jaccard"]["documents"]:
        told = {
            "x_title": "Jaccard similarity to the document that was kept",
            "legend": "documents dropped",
            "end": "1",
        }
        chart = drawn(bars_chart, jaccard_bars(duplicates), **told, title="Near duplicates by similarity")
        charts.insert(0, ("How alike near duplicates were", chart))
    return ["<h2>Duplicates</h2>", listed(lines), _pair(charts) if charts else ""]


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _hosts(statistics: Statistics) -> list[str]:
    rows = words.host_rows(statistics, 40)
    if not rows:
        return []
    half = (len(rows) + 1) // 2
    tables = "".join(
        "<div>" + table(_cells(("host", "documents", "share")), _rows(part), align="<>>") + "</div>"
        for part in (rows[:half], rows[half:])
        if part
    )
    return [
        "<h2>Hosts</h2>",
        f'<p class="soft">{escape(words.host_note(statistics))}</p>',
        f'<div class="pair">{tables}</div>',
    ]


def _record(statistics: Statistics) -> str:
    return f'<p class="soft">Fingerprint of the data: <code>{escape(statistics["fingerprint"])}</code></p>'


# --------------------------------------------------------------------------------------------------------- picture

_WIDTH, _MARGIN, _GAP = 1000.0, 28.0, 24.0


def statistics_svg(statistics: Statistics, *, title: str) -> str:
    """One picture of it all on white, for a paper."""
    svg = Svg()
    inner = _WIDTH - 2 * _MARGIN
    svg.text(_MARGIN, 38, fitted(title, inner, 18, bold=True), size=18, fill=INK, bold=True)
    svg.text(_MARGIN, 58, words.lead(statistics), size=12, fill=MUTED)
    funnel_chart(svg, _MARGIN, 52, inner, statistics, PAPER)
    y = 52 + funnel_height(statistics) + _GAP
    panels = _panels(statistics)
    width = (inner - _GAP) / 2
    for number, (name, draw) in enumerate(panels):
        x = _MARGIN + (number % 2) * (width + _GAP)
        top = y + number // 2 * 310
        svg.text(x, top + 12, f"{chr(ord('a') + number)}  {name}", size=13, fill=INK, bold=True)
        draw(svg, Box(x=x, y=top + 16, width=width, height=280))
    height = y + (len(panels) + 1) // 2 * 310 + 6
    return svg.document(_WIDTH, height, title=title, description=words.statistics_text(statistics))


def _panels(statistics: Statistics) -> list[tuple[str, Callable[[Svg, Box], None]]]:
    lengths, tokens = statistics["lengths"], statistics["tokens"]
    overlap, duplicates = statistics["overlap"], statistics["duplicates"]
    panels: list[tuple[str, Callable[[Svg, Box], None]]] = []
    if lengths["all"]:
        panels.append(("Lengths of documents", lambda svg, box: lengths_chart(svg, box, lengths["all"], PAPER)))
    if lengths["train"]:
        contexts = lengths["train"]["contexts"]
        panels.append(("What a context costs", lambda svg, box: contexts_chart(svg, box, contexts, PAPER)))
    if tokens and tokens["train"]["text_tokens"]:
        panels.append(("Occurrences of tokens", lambda svg, box: frequency_chart(svg, box, tokens["train"], PAPER)))
    if overlap:
        told: dict[str, Any] = {
            "x_title": "n-grams that training holds too",
            "legend": "validation documents",
            "end": "100%",
        }
        panels.append(
            (
                "Overlap of validation with training",
                lambda svg, box: bars_chart(svg, box, overlap_bars(overlap), colours=PAPER, **told),
            )
        )
    if duplicates and duplicates["jaccard"]["documents"]:
        alike: dict[str, Any] = {
            "x_title": "Jaccard similarity to the kept one",
            "legend": "near duplicates dropped",
            "end": "1",
        }
        panels.append(
            (
                "Near duplicates",
                lambda svg, box: bars_chart(svg, box, jaccard_bars(duplicates), colours=PAPER, **alike),
            )
        )
    several = next((name for name in ("near", "exact") if duplicates and duplicates[name]["sizes"]), None)
    if several is not None:
        bars = [(_range(row["from"], row["to"]), row["clusters"]) for row in duplicates[several]["sizes"]]
        panels.append((f"Clusters of {several} duplicates", _sizes_panel(bars)))
    return panels


def _sizes_panel(bars: list[tuple[str, int]]) -> Callable[[Svg, Box], None]:
    def draw(svg: Svg, box: Box) -> None:
        told: dict[str, Any] = {"x_title": "documents in a cluster", "legend": "clusters", "labels": "middle"}
        bars_chart(svg, box, bars, colours=PAPER, **told)

    return draw
