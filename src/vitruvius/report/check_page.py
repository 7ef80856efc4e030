"""One HTML page about one check: the verdict, every probe, and small charts of what was measured layer by layer."""

from __future__ import annotations

import json
from html import escape
from math import isfinite, log10
from typing import TYPE_CHECKING, Any

from vitruvius.report.sheet import page
from vitruvius.report.svg import Svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLE = """
.verdict { font-size: 1.1rem; font-weight: 600; margin: 1rem 0; } p.lead { overflow-wrap: anywhere; }
td.name { white-space: nowrap; font-weight: 600; }
table td.seconds:last-child { text-align: right; color: var(--soft); min-width: 0; }
section.failure { border-left: 4px solid var(--bad); padding: .25rem 1rem; margin: 1rem 0; background: var(--tint); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
.charts figure { margin: 0; padding: .75rem; border: 1px solid var(--line); border-radius: 8px; }
.charts svg { width: 100%; color: var(--s0); }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
pre { overflow-wrap: anywhere; }
@media (max-width: 46rem) { table.checks tr:first-child { display: none; } table.checks td { display: inline; border: 0;
  padding-right: .5rem; } table.checks tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0; }
  table.checks td.detail { display: block; } table.checks td.seconds { display: none; } }
""".strip()
"""What this page needs besides the style of all of them."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 120, 46, 8, 10, 22
_DECADES = 1.3
"""Where numbers span more powers of ten than this, the scale is logarithmic."""
_NOTHING = 1e-9
"""What is no larger everywhere is not drawn."""
_REFERENCE = "uniform_"
"""Start of the names of series that others are held against: drawn into the same chart, dashed."""
_TITLES = {
    "entropy": "entropy over that of uniform weights",
    "distance": "mean distance in tokens",
    "first": "weight on the first 4 tokens",
    "sink": "weight that sinks take",
    "activation_rms": "size of the stream (RMS)",
    "gradient_rms": "size of its gradient, over that at the last layer",
    "load_max_over_mean": "load of the busiest expert over its share",
    "load_cv": "variation of the load over experts",
}
"""What series are called in words; others by their names."""
_ALONG = "gradient_by_distance"
"""A value that is a curve of its own, by distance and not by layer."""


def check_page(report: Mapping[str, Any], *, experiment: Mapping[str, Any] | None = None) -> str:
    """The page about a report, as `vitruvius.check/1` holds it; with the next experiment where there is one."""
    subject, checks = str(report["subject"]), list(report["checks"])
    body = [
        "<h1>Is it right?</h1>",
        f'<p class="lead">{escape(subject)}</p>',
        _verdict(report, checks),
        *(_failure(check) for check in checks if not check["passed"]),
        _experiment(experiment),
        "<h2>Every check</h2>",
        _table(checks),
        *_charts(checks),
        "<details><summary>The report as data</summary>",
        f"<pre>{escape(json.dumps(report, indent=1))}</pre></details>",
    ]
    return page(f"Check of {subject}", [f"<style>{_STYLE}</style>", *body])


def _verdict(report: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    ran = [check for check in checks if check["applies"]]
    red = [check for check in checks if not check["passed"]]
    seconds = sum(float(check["seconds"] or 0.0) for check in checks)
    warnings = sum(1 for check in checks if check["warning"])
    said = f"{len(red)} of {len(ran)} checks failed" if red else f"All {len(ran)} checks passed"
    more = f", {warnings} with a warning" if warnings else ""
    tail = f'<span class="soft">in {seconds:.1f} s, seed {report["seed"]}</span>'
    return f'<p class="verdict"><span class="{"bad" if red else "good"}">{said}{more}</span> {tail}</p>'


def _failure(check: Mapping[str, Any]) -> str:
    return (
        f'<section class="failure"><p class="bad"><strong>{escape(check["name"])}</strong>: '
        f"{escape(check['detail'])}</p><p>{escape(check['means'])}.</p>"
        f'<p class="soft">Look at: {escape(check["look_at"])}.</p></section>'
    )


def _experiment(experiment: Mapping[str, Any] | None) -> str:
    if experiment is None:
        return ""
    price = experiment.get("dollars")
    bill = f"about {float(experiment['seconds']):,.0f} s" + (f" and {float(price):.2f} dollars" if price else "")
    return (
        f"<h2>The cheapest next experiment</h2><p>It decides {escape(str(experiment['decides']))}; {bill} on "
        f"{escape(str(experiment['device']))}, within {experiment['off_by']:g} times.</p>"
        f"<pre>{escape(str(experiment['command']))}</pre>"
    )


def _table(checks: Sequence[Mapping[str, Any]]) -> str:
    head = '<tr><th></th><th>check</th><th>measured</th><th>detail</th><th style="text-align:right">s</th></tr>'
    return f'<div class="scroll"><table class="checks">{head}{"".join(map(_row, checks))}</table></div>'


def _row(check: Mapping[str, Any]) -> str:
    look = ("soft", "-") if not check["applies"] else ("good", "✓") if check["passed"] else ("bad", "✗")
    warning = f'<p class="unsure">{escape(check["warning"])}</p>' if check["warning"] else ""
    return (
        f'<tr><td class="{look[0]}">{look[1]}</td><td class="name">{escape(check["name"])}</td>'
        f'<td class="number">{escape(_against(check))}</td><td class="detail">{escape(check["detail"])}{warning}</td>'
        f'<td class="seconds">{float(check["seconds"] or 0):.1f}</td></tr>'
    )


def _against(check: Mapping[str, Any]) -> str:
    measured, bound = check["measured"], check["bound"]
    if measured is None:
        return ""
    if bound is None:
        return f"{measured:.3g}"
    return f"{measured:.2g} {'≤' if measured <= bound else '>'} {bound:.2g}"


# ----------------------------------------------------------------------------------------------------------------------
# Charts


def _charts(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    parts: list[str] = []
    for check in checks:
        figures = [*_by_layer(check["values"]), *_by_distance(check["values"])]
        if figures:
            name = escape(check["name"])
            parts.append(f'<h2>{name}</h2><div class="charts">{"".join(figures)}</div>')
    return parts


def _by_layer(values: Mapping[str, Any] | None) -> list[str]:
    """A small chart for each series over the layers, with the series that it is held against in the same one."""
    if not values or not values.get("layers") or len(values["layers"]) < 2:
        return []
    series: Mapping[str, Sequence[float | None]] = values["series"]
    figures: list[str] = []
    for name, numbers in series.items():
        if not name.startswith(_REFERENCE):
            beside = series.get(_REFERENCE + name)
            title = _TITLES.get(name, name.replace("_", " ")) + (", dashed: uniform weights" if beside else "")
            span = f"{values['layers'][0]} to {values['layers'][-1]}"
            figures.append(_figure(title, span, numbers, beside))
    return [figure for figure in figures if figure]


def _by_distance(values: Mapping[str, Any] | None) -> list[str]:
    if not values or not values.get(_ALONG):
        return []
    numbers = values[_ALONG]
    return [_figure("share of the gradient by distance", f"0 to {len(numbers) - 1} tokens back", numbers, None)]


def _figure(title: str, span: str, numbers: Sequence[float | None], beside: Sequence[float | None] | None) -> str:
    drawn = _line_chart(title, numbers, beside)
    return f"<figure>{drawn}<figcaption>{escape(title)}, {escape(span)}</figcaption></figure>" if drawn else ""


def _line_chart(title: str, numbers: Sequence[float | None], beside: Sequence[float | None] | None) -> str:
    """Points joined by lines, on a logarithmic scale where they span powers of ten; empty without finite numbers."""
    real = [x for x in (*numbers, *(beside or ())) if x is not None and isfinite(x)]
    if len(real) < 2 or not any(abs(x) > _NOTHING for x in real):
        return ""
    low, high = min(real), max(real)
    logarithmic = low > 0 and log10(high / low) > _DECADES
    scale = _Scale(low=low, high=high, logarithmic=logarithmic, count=len(numbers))
    svg = Svg()
    digits = next((n for n in (3, 4, 5) if f"{low:.{n}g}" != f"{high:.{n}g}"), 3)
    for value in (low, high):
        y = scale.y(value)
        svg.line((_LEFT, y), (_WIDTH - _RIGHT, y), stroke="var(--line)", weight=1)
        svg.text(_LEFT - 6, y + 3.5, f"{value:.{digits}g}", size=10, fill="var(--soft)", anchor="end")
    if beside is not None:
        svg.path(scale.path(beside), stroke="var(--soft)", weight=1.2, dash="4 3")
    svg.path(scale.path(numbers), stroke="currentColor", weight=1.8)
    if scale.count <= 2 * _WIDTH // 10:
        for index, value in enumerate(numbers):
            if value is not None:
                svg.circle(scale.x(index), scale.y(value), 2.2, fill="currentColor", stroke="none")
    note = "log scale" if logarithmic else ""
    svg.text(_WIDTH - _RIGHT, _HEIGHT - 6, note, size=9, fill="var(--soft)", anchor="end")
    return svg.inline(_WIDTH, _HEIGHT, title=title)


class _Scale:
    """Where numbers stand in a chart."""

    def __init__(self, *, low: float, high: float, logarithmic: bool, count: int) -> None:
        self.count, self.logarithmic = count, logarithmic
        self.low, self.high = (log10(low), log10(high)) if logarithmic else (low, high)

    def x(self, index: int) -> float:
        return _LEFT + (index + 0.5) / self.count * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        at = log10(value) if self.logarithmic else value
        share = (at - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, numbers: Sequence[float | None]) -> str:
        """Lines through the numbers that are there."""
        data, pen = "", "M"
        for index, value in enumerate(numbers):
            if value is None or not isfinite(value) or (self.logarithmic and value <= 0):
                pen = "M"
                continue
            data += f"{pen}{self.x(index):.1f} {self.y(value):.1f}"
            pen = "L"
        return data
