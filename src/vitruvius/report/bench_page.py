"""A bench as one HTML page, from its JSON document (`vitruvius.bench/1`). Self-contained, light and dark."""

from __future__ import annotations

import json
from html import escape
from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING, Any

from vitruvius.report import bench_text as words
from vitruvius.report.sheet import inline, listed, page, shares, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Document = Mapping[str, Any]

_PHASES = {
    "prefill": "Reading a prompt",
    "decode": "Writing a token",
    "train": "A training step",
}


def bench_page(document: Document, *, flame: str = "") -> str:
    """The page; `flame` is the SVG of a flame graph to show with it."""
    title = f"{document['name']}: bench"
    what, where = words.facts(document)
    body = [
        f"<h1>{escape(document['name'])}</h1>",
        f'<p class="lead">{escape(what)}<br>{escape(where)}</p>',
        *bench_sections(document),
    ]
    if flame:
        body += ["<h2>Flame graph</h2>", f'<figure class="wide">{inline(flame)}</figure>']
    body += [
        "<h2>How far off</h2>",
        listed(line.removeprefix("note: ") for line in words.notes(document)),
        "<details><summary>Record of this bench, to repeat it</summary>",
        f"<pre>{escape(json.dumps(_record(document), indent=2))}</pre></details>",
    ]
    return page(title, body)


def bench_sections(document: Document) -> list[str]:
    """Charts, table, comparisons and breakdown, as HTML; for this page and for others that hold a bench."""
    phases: list[str] = document["phases"]
    charts = "".join(
        f'<h3>{escape(_PHASES.get(phase, phase))}</h3><figure class="chart">{_chart(document, phase)}</figure>'
        for phase in phases
        if any(_point(row) for row in document["rows"] if row["phase"] == phase)
    )
    sections = ["<h2>Speed by length</h2>", charts, _table(document)]
    lines = words.comparison_lines(document)
    if lines:
        sections += ["<h2>Which is faster</h2>", _comparisons(document)]
    mine = [found for found in document["breakdown"] if found["contender"] == document["name"]]
    if mine:
        sections.append("<h2>Where the time goes</h2>")
    for found in mine:
        parts = [(part["name"], part["share"]) for part in found["components"]]
        sections += [
            f"<h3>{escape(words.breakdown_title(found))}</h3>",
            shares(parts),
            f'<p class="soft">{escape(words.breakdown_note(found))}</p>',
            _parts(found),
        ]
    return sections


def _table(document: Document) -> str:
    many = len(document["contenders"]) > 1
    rows: list[list[str]] = []
    marks: list[str] = []
    for row in document["rows"]:
        cells = [escape(cell) for cell in words.cells(row)]
        if row["status"] != "measured":
            cells[5] = f'<span class="mark">{escape(row["status"])}</span>'
        rows.append([escape(row["contender"]), *cells] if many else cells)
        marks.append("predicted" if row["status"] == "predicted" else "")
    head = [*(["contender"] if many else []), *words.HEAD]
    return table(head, rows, align="<" * many + "<>>>>>>>>", marks=marks)


def _comparisons(document: Document) -> str:
    kind = {"faster": "good", "slower": "bad", "inconclusive": "unsure"}
    rows = [
        [
            escape(versus["phase"]),
            f"{versus['length']:,}",
            f'<span class="{kind[versus["verdict"]]}">{versus["verdict"]}</span>',
            f"{versus['times_as_fast']:.3f}",
            f"{versus['ci_low']:.3f} to {versus['ci_high']:.3f}",
            str(versus["rounds"]),
            escape(versus["reason"]),
        ]
        for versus in document["comparisons"]
    ]
    first = document["comparisons"][0]
    about = f"<p><b>{escape(first['a'])}</b> against <b>{escape(first['b'])}</b>, in turns, paired by round.</p>"
    head = ["phase", "tokens", "verdict", "times as fast", f"{first['level']:.0%} interval", "rounds", "because"]
    return about + table(head, rows, align="<><>>><")


def _parts(found: Mapping[str, Any]) -> str:
    trains = any(part["backward_seconds"] for part in found["parts"])
    head = ["component", "block", "calls", "forward", *(["backward"] if trains else []), "share"]
    rows = [
        [
            escape(part["component"]),
            escape(part["block"] or ""),
            f"{part['calls']:,}" if part["calls"] else "",
            words.duration(part["forward_seconds"]),
            *([words.duration(part["backward_seconds"])] if trains else []),
            f"{part['share']:.1%}",
        ]
        for part in found["parts"]
    ]
    align = "<<>>" + ">" * trains + ">"
    return f"<details><summary>Every component by block</summary>{table(head, rows, align=align)}</details>"


def _record(document: Document) -> dict[str, Any]:
    kept = ("batch", "dtype", "device", "threads", "seed", "budget_seconds", "seconds", "contenders", "environment")
    return {name: document[name] for name in kept}


# ----------------------------------------------------------------------------------------------------------------------
# The chart: tokens per second over the length, both in powers of ten

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 256, 64, 24, 46, 40


def _point(row: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """(low, middle, high) of tokens per second; None for rows without a number."""
    if row["status"] == "measured":
        rate = row["tokens_per_second"]
        return rate["q1"], rate["median"], rate["q3"]
    if row["status"] == "predicted":
        rate, factor = row["predicted"]["tokens_per_second"], row["predicted"]["off_by"]
        return rate / factor, rate, rate * factor
    return None


def _chart(document: Document, phase: str) -> str:
    """Points with whiskers: filled where measured (quartiles), hollow where predicted (how far off it may be)."""
    rows = [(row, point) for row in document["rows"] if row["phase"] == phase and (point := _point(row))]
    lengths = sorted({row["length"] for row, _ in rows})
    low, high = min(point[0] for _, point in rows), max(point[2] for _, point in rows)
    floor_, top = log10(low) - 0.05, log10(high) + 0.05
    span = max(top - floor_, 0.3)
    names = [contender["name"] for contender in document["contenders"]]

    def x(length: int) -> float:
        if len(lengths) == 1:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        reach = log10(lengths[-1]) - log10(lengths[0])
        return _LEFT + 30 + (log10(length) - log10(lengths[0])) / reach * (_WIDTH - _LEFT - _RIGHT - 60)

    def y(rate: float) -> float:
        return _HEIGHT - _BOTTOM - (log10(rate) - floor_) / span * (_HEIGHT - _TOP - _BOTTOM)

    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12">',
        f"<title>{escape(phase)}: tokens per second by length</title>",
        _label(_LEFT, 14, "tokens per second", anchor="start"),
        *(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="var(--line)"/>'
            + _label(_LEFT - 8, y(tick) + 4, words.number(tick), anchor="end")
            for tick in _ticks(10**floor_, 10 ** (floor_ + span))
        ),
        *(_label(x(length), _HEIGHT - 20, f"{length:,}") for length in lengths),
        _label(middle, _HEIGHT - 4, "tokens of context"),
    ]
    alone, best = len(names) == 1, {length: max(p[1] for r, p in rows if r["length"] == length) for length in lengths}
    for index, name in enumerate(names):
        mine = sorted(
            ((row, point) for row, point in rows if row["contender"] == name), key=lambda one: one[0]["length"]
        )
        parts += _series(mine, x, y, best, index=index, shift=0.0 if alone else 7.0 * (index - 0.5), alone=alone)
        if len(names) > 1:
            at, colour = _LEFT + 170 + 200 * index, f"var(--s{index % 7})"
            parts.append(_label(at, 14, name[:28], anchor="start", colour=colour))
    return "\n".join([*parts, "</svg>"])


def _label(x: float, y: float, text: str, *, anchor: str = "middle", colour: str = "var(--soft)") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _series(
    mine: Sequence[Any], x: Any, y: Any, best: Mapping[int, float], *, index: int, shift: float, alone: bool
) -> list[str]:
    colour = f"var(--s{index % 7})"
    parts: list[str] = []
    for (row, point), (after, next_point) in pairwise(mine):
        dash = "" if row["status"] == after["status"] == "measured" else ' stroke-dasharray="4 4"'
        parts.append(
            f'<line x1="{x(row["length"]) + shift:.1f}" y1="{y(point[1]):.1f}" x2="{x(after["length"]) + shift:.1f}" '
            f'y2="{y(next_point[1]):.1f}" stroke="{colour}" stroke-width="1.5"{dash}/>'
        )
    for row, (low, middle, high) in mine:
        at = x(row["length"]) + shift
        measured = row["status"] == "measured"
        shown = ("" if measured else "~") + words.number(middle)
        # Above and to the left of the upper series, below and to the right of the others: there no line runs.
        upper = middle >= best[row["length"]]
        anchor, nudge, drop = ("middle", 0, -9) if alone else ("end", -6, -7) if upper else ("start", 6, 15)
        says = f"{row['length']:,} tokens: {words.number(middle)} a second, {row['status']}"
        parts.append(
            f"<g><title>{escape(says)}</title>"
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="{colour}"/>'
            f'<circle cx="{at:.1f}" cy="{y(middle):.1f}" r="4.5" fill="{colour if measured else "var(--paper)"}" '
            f'stroke="{colour}" stroke-width="1.5"/>'
            + _label(at + nudge, y(high if alone else middle) + drop, shown, anchor=anchor, colour="var(--ink)")
            + "</g>"
        )
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values: powers of ten, with 2 and 5 where there are few."""
    steps = [m * 10.0**power for power in range(-6, 13) for m in (1, 2, 5)]
    inside = [step for step in steps if low <= step <= high]
    if len(inside) > 6:
        inside = [step for step in inside if f"{step:e}".startswith("1.0")]
    return inside
