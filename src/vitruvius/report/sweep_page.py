"""A sweep as a page: the table, the verdict, and the curves of its arms over one another."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from vitruvius.report.run_charts import Line, chart
from vitruvius.report.run_history import Point, spread, thinned
from vitruvius.report.runs_text import number
from vitruvius.report.sheet import page, table
from vitruvius.report.sweep_text import done_of, verdict_text, with_interval
from vitruvius.units import format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.report.run_history import History

MOST_POINTS = 400
"""Points of a curve."""
MOST_COLOURS = 7
CHARTS = (
    ("val_loss", "Held-out text", "nats per token, mean over seeds and their range"),
    ("loss", "Loss", "nats per token of the training batch, mean over seeds and their range"),
    ("grad_norm", "Gradient norm", "before clipping"),
    ("tokens_per_second", "Speed", "tokens a second, each update by itself"),
    ("lr", "Learning rate", ""),
)
"""Key of a row -> title and unit of its chart."""


def sweep_page(document: Mapping[str, Any], histories: Mapping[str, History]) -> str:
    """The page. `document` has the schema `vitruvius.sweep/1`; `histories` are those of its runs, by folder."""
    arms: Sequence[Mapping[str, Any]] = document["arms"]
    counts: Mapping[str, int] = document["runs"]
    told = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    swept = ", ".join(document["swept"]) or "seeds alone"
    repeated = f"{' '.join(document['command'])}\n{json.dumps(document['data'], indent=2)}"
    won = document["verdict"]["winner"] is not None
    seeds = "1 seed" if len(document["seeds"]) == 1 else f"{len(document['seeds']):,} seeds"
    body = [
        f"<h1>Sweep over {escape(swept)}</h1>",
        (
            f'<p class="lead">{len(arms):,} arms, {seeds}; runs: {escape(told)}. '
            f"Begun {escape(str(document['started']))}.</p>"
        ),
        f'<p class="{"good" if won else "unsure"}">{escape(verdict_text(document["verdict"]))}</p>',
        _table(document),
        _pairs(document["verdict"]),
        "<h2>Curves</h2>",
        _legend(arms),
        _charts(arms, histories),
        _response(arms),
        _failures(arms),
        f"<details><summary>How to repeat it</summary><pre>{escape(repeated)}</pre></details>",
    ]
    return page(f"Sweep over {swept}", body)


def _table(document: Mapping[str, Any]) -> str:
    head = ["arm", "runs", "val loss", "bits/byte", "tokens/s", "parameters", "tokens", "FLOPs"]
    best = document["verdict"]["best"]
    rows = [
        [
            f"<strong>{escape(arm['name'])}</strong>" if arm["name"] == best else escape(arm["name"]),
            escape(done_of(arm)),
            with_interval(arm["val_loss"]),
            with_interval(arm["val_bits_per_byte"]),
            number(arm["tokens_per_second"]),
            format_count(arm["parameters"]["total"]),
            format_count(arm["tokens"]),
            format_count(arm["flops"]),
        ]
        for arm in document["arms"]
    ]
    return table(head, rows, align="<>>>>>>>")


def _pairs(verdict: Mapping[str, Any]) -> str:
    """Differences of the best arm from each other one, seed by seed."""
    if not verdict["pairs"]:
        return ""
    rows = [
        [
            escape(pair["b"]),
            f"{pair['difference']['mean']:+.4f}",
            f"[{pair['difference']['low']:+.4f}, {pair['difference']['high']:+.4f}]",
            f"{pair['seeds']}",
            escape(pair["verdict"]),
        ]
        for pair in verdict["pairs"]
    ]
    head = [f"{escape(verdict['best'])} against", "difference", f"interval at {verdict['level']:.2%}", "seeds", ""]
    return f"<h2>Against the best</h2>{table(head, rows, align='<>>><')}"


def _colour(index: int) -> str:
    return f"var(--s{index % MOST_COLOURS})"


def _legend(arms: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="background:{_colour(index)}"></span>{escape(arm["name"])}</li>'
        for index, arm in enumerate(arms)
    )
    more = (
        f'<p class="soft">Colours repeat after {MOST_COLOURS} arms; a line names itself under the pointer.</p>'
        if len(arms) > MOST_COLOURS
        else ""
    )
    return f'<ul class="legend">{items}</ul>{more}'


def _charts(arms: Sequence[Mapping[str, Any]], histories: Mapping[str, History]) -> str:
    drawn: list[str] = []
    every = [curve for history in histories.values() for curve in history.curves.values()]
    steps = [step for curve in every for step, _ in curve[:1] + curve[-1:]]
    across = (min(steps), max(steps)) if steps else None
    for key, title, unit in CHARTS:
        lines: list[Line] = []
        for index, arm in enumerate(arms):
            curves = [histories[run["folder"]].curves.get(key, ()) for run in arm["runs"] if run["folder"] in histories]
            points = _joined([curve for curve in curves if curve])
            if points:
                lines.append(Line(name=arm["name"], points=points, colour=_colour(index), has_dots=key == "val_loss"))
        drawn.append(chart(title, unit, lines, across=across))
    style = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(27rem,100%),1fr));gap:.5rem 1.5rem"
    return f'<div style="{style}">{"".join(drawn)}</div>'


def _joined(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[Point, ...]:
    """The curves of an arm's seeds as one."""
    if not curves:
        return ()
    if len(curves) == 1:
        return thinned(curves[0], MOST_POINTS)
    points = spread(curves)
    if len(points) <= MOST_POINTS:
        return points
    groups = [points[i * len(points) // MOST_POINTS : (i + 1) * len(points) // MOST_POINTS] for i in range(MOST_POINTS)]
    return tuple(
        Point(
            step=sum(point.step for point in group) / len(group),
            value=sum(point.value for point in group) / len(group),
            low=min(point.low for point in group),
            high=max(point.high for point in group),
        )
        for group in groups
    )


def _response(arms: Sequence[Mapping[str, Any]]) -> str:
    """Loss over each value that is a number: the mean of the arms that have it."""
    scored = [arm for arm in arms if arm["val_loss"]["mean"] is not None]
    paths = dict.fromkeys(path for arm in scored for path in arm["values"])
    rows: list[list[str]] = []
    for path in paths:
        by_value: dict[str, list[float]] = {}
        for arm in scored:
            by_value.setdefault(json.dumps(arm["values"].get(path)), []).append(arm["val_loss"]["mean"])
        if len(by_value) < 2:
            continue
        for value, losses in by_value.items():
            mean = sum(losses) / len(losses)
            rows.append([f"<code>{escape(path)}</code>", escape(value), f"{len(losses)}", f"{mean:.4f}"])
    if not rows:
        return ""
    head = ["setting", "value", "arms", "mean val loss"]
    return f"<h2>By value</h2>{table(head, rows, align='<<>>')}"


def _failures(arms: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [escape(arm["name"]), f"{run['seed']}", escape(str(run["error"]))]
        for arm in arms
        for run in arm["runs"]
        if run["status"] == "failed"
    ]
    return f"<h2>Failed</h2>{table(['arm', 'seed', 'why'], rows, align='<><')}" if rows else ""
