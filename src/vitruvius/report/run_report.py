"""Runs as a page and as plain data: curves over one another, what happened, what they were told, where they ran."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

from vitruvius.report.curve import Series, curve_text
from vitruvius.report.run_charts import Line, chart
from vitruvius.report.run_history import History, event_text, history_of, marks_of, spread, thinned
from vitruvius.report.run_samples import samples_html
from vitruvius.report.run_titles import TITLES
from vitruvius.report.runs_text import list_text, number, plain_text
from vitruvius.report.sheet import page, table
from vitruvius.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitruvius.report.run_history import Mark, Point
    from vitruvius.runs.summary import RunSummary

REPORT_SCHEMA = "vitruvius.runs-report/1"
MOST_POINTS = 400
"""Points of a curve; where there are more updates, each is the mean of some."""
MOST_EVENTS = 100
"""Events of a run in its table, the last ones."""

FIRST = ("loss", "val_bits_per_byte", "lr", "grad_norm", "tokens_per_second")
_WITH_LOSS = frozenset({"val_loss", "tokens", "val_tokens"})
"""Drawn with another, or not worth a curve."""
_BY_BLOCK = "grad_norm/"
"""The one measure that there is of the whole and of each block: two charts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One run of a report."""

    summary: RunSummary
    record: Mapping[str, Any]
    changed: Mapping[str, Any]
    """Settings that are not the default, by dotted name."""
    history: History
    events: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]] = ()
    """Text that the model wrote as it learned."""

    @classmethod
    def of(
        cls,
        summary: RunSummary,
        record: Mapping[str, Any],
        changed: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        events: Sequence[Mapping[str, Any]],
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> Reported:
        """From what a run folder holds."""
        history = history_of(rows)
        return cls(summary=summary, record=record, changed=changed, history=history, events=events, samples=samples)

    @property
    def name(self) -> str:
        """Its folder."""
        return str(self.summary.path)

    @property
    def marks(self) -> list[Mark]:
        """Its events, each at its update."""
        return marks_of(self.events, [step for step, _ in self.history.curves.get("lr", ())])

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every curve with at most `MOST_POINTS` points [step, mean, least, largest]."""
        curves = {
            key: [[point.step, point.value, point.low, point.high] for point in thinned(points, MOST_POINTS)]
            for key, points in self.history.curves.items()
        }
        return {
            **_sayable(self.summary.to_dict()),
            "settings_changed": _sayable(dict(self.changed)),
            "environment": _sayable(self.record["environment"]),
            "events_list": _sayable([dict(event) for event in self.events]),
            "samples": _sayable([dict(sample) for sample in self.samples]),
            "values_left_out": self.history.left_out,
            "curves": curves,
        }


def _sayable(value: Any) -> Any:
    """The same with infinities and NaN as text: JSON has no word for them, and a damaged file may."""
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_sayable(item) for item in cast("list[Any]", value)]
    return repr(value) if isinstance(value, float) and not isfinite(value) else value


def report_data(runs: Sequence[Reported]) -> dict[str, Any]:
    """The report as plain data."""
    return {"schema": REPORT_SCHEMA, "points_at_most": MOST_POINTS, "runs": [run.to_dict() for run in runs]}


def report_text(runs: Sequence[Reported], *, style: str) -> str:
    """The report in a terminal: a row and the loss of each run."""
    parts = [list_text([run.summary for run in runs])]
    for run in runs:
        points = tuple((float(step), value) for step, value in run.history.curves.get("loss", ()))
        bad = sum(mark.is_bad for mark in run.marks)
        parts.append(curve_text(Series(name=f"{run.name}: loss", points=points), style=style))
        if bad:
            parts.append(f"  events of something that went wrong: {bad:,} (vitruvius runs watch names the last)")
    return "\n\n".join(parts)


def report_page(runs: Sequence[Reported]) -> str:
    """The report as one HTML page."""
    marks = [mark for run in runs for mark in run.marks]
    steps = [step for run in runs for curve in run.history.curves.values() for step, _ in curve[:1] + curve[-1:]]
    across = (min(steps), max(steps)) if steps else None
    charts = [_chart(key, runs, marks, across) for key in _keys(runs)]
    first = [drawn for key, drawn in zip(_keys(runs), charts, strict=True) if key in FIRST]
    rest = [drawn for key, drawn in zip(_keys(runs), charts, strict=True) if key not in FIRST]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} training runs"
    left_out = sum(run.history.left_out for run in runs)
    longest = max((len(run.history.curves.get("lr", ())) for run in runs), default=0)
    notes = [
        f"A point is the mean of up to {-(-longest // MOST_POINTS):,} updates; the band around a line shows the least "
        "and the largest."
        if longest > MOST_POINTS
        else "",
        f"{left_out:,} values were no finite number, and are not drawn." if left_out else "",
        "Dashed uprights are events, red where something was wrong; each names itself under the pointer."
        if marks
        else "",
    ]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(runs))}</p>',
        _legend(runs) if len(runs) > 1 else "",
        _results(runs),
        "<h2>Curves</h2>" if any(first) else "",
        f'<p class="soft">{escape(" ".join(note for note in notes if note))}</p>' if any(notes) else "",
        _grid(first),
        "<h2>Inside the model</h2>" if any(rest) else "",
        _grid(rest),
        samples_html([(run.name, run.samples) for run in runs]),
        _events(runs),
        _settings(runs),
        _machines(runs),
    ]
    return page(f"{title}: training report", body)


def _keys(runs: Sequence[Reported]) -> list[str]:
    """What there is a chart of, the common ones first."""
    curves = dict.fromkeys(key for run in runs for key in run.history.curves)
    found = dict.fromkeys(_BY_BLOCK if key.startswith(_BY_BLOCK) else key.split("/", 1)[0] for key in curves)
    first = [key for key in FIRST if key in found]
    return [*first, *(key for key in found if key not in FIRST and key not in _WITH_LOSS)]


def _chart(key: str, runs: Sequence[Reported], marks: Sequence[Mark], across: tuple[float, float] | None) -> str:
    title, unit = TITLES.get(key, (key.replace("_", " "), ""))
    lines: list[Line] = []
    for index, run in enumerate(runs):
        colour = _colour(index)
        plain = run.history.curves.get(key)
        family = _family(run, key)
        if plain:
            name = f"{run.name}: {key}"
            lines.append(Line(name=name, points=thinned(plain, MOST_POINTS), colour=colour, has_dots="val_" in key))
        if key == "loss" and "val_loss" in run.history.curves:
            scored = thinned(run.history.curves["val_loss"], MOST_POINTS)
            lines.append(Line(name=f"{run.name}: held-out text", points=scored, colour=colour, has_dots=True))
        if family:
            lines += _of_family(run, family, colour, alone=len(runs) == 1)
    legend = _layers(_family(runs[0], key)) if len(runs) == 1 else ""
    has_spread = len(runs) > 1 and any(len(_family(run, key)) > 1 for run in runs)
    note = "; mean of all, and from the least to the largest" if has_spread else ""
    drawn = chart(title, unit + note, lines, marks, across=across)
    return f"<div>{drawn}{legend}</div>" if drawn else ""


def _family(run: Reported, key: str) -> dict[str, tuple[tuple[int, float], ...]]:
    """The curves of each layer or block, where a chart is about them."""
    return {} if key == "grad_norm" else run.history.family(key.rstrip("/"))


def _of_family(
    run: Reported, family: Mapping[str, Sequence[tuple[int, float]]], colour: str, *, alone: bool
) -> list[Line]:
    """A line for each layer of a single run; of several runs one for each, with its spread."""
    if not alone:
        points: Sequence[Point] = spread(family.values())
        return [Line(name=run.name, points=points, colour=colour)]
    return [
        Line(name=place, points=thinned(points, MOST_POINTS), colour=_shade(index, len(family)))
        for index, (place, points) in enumerate(family.items())
    ]


_MOST_NAMED = 8


def _layers(family: Mapping[str, object]) -> str:
    """Which colour is which layer: all of a few, the first and the last of many."""
    names = list(family)
    if not names:
        return ""
    shown = range(len(names)) if len(names) <= _MOST_NAMED else (0, len(names) // 2, len(names) - 1)
    return _swatches([(names[index], _shade(index, len(names))) for index in shown])


def _swatches(named: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="background:{colour}"></span>{escape(name)}</li>' for name, colour in named
    )
    return f'<ul class="legend">{items}</ul>'


def _legend(runs: Sequence[Reported]) -> str:
    return _swatches([(run.name, _colour(index)) for index, run in enumerate(runs)])


def _colour(index: int) -> str:
    return f"var(--s{index % 7})"


def _shade(index: int, count: int) -> str:
    """From one colour at the first layer to another at the last."""
    share = 100 * index / max(1, count - 1)
    return f"color-mix(in oklab, var(--s1) {share:.0f}%, var(--s0))"


def _grid(charts: Sequence[str]) -> str:
    found = "".join(charts)
    style = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(27rem,100%),1fr));gap:.5rem 1.5rem"
    return f'<div style="{style}">{found}</div>' if found else ""


def _lead(runs: Sequence[Reported]) -> str:
    if len(runs) > 1:
        return "Curves over one another; results compare where runs are equally far and read the same data."
    run = runs[0].summary
    of = "" if run.steps is None else f" of {run.steps:,}"
    return f"{run.architecture or 'a model'}, {run.status}, update {run.step:,}{of}, begun {run.started}"


def _results(runs: Sequence[Reported]) -> str:
    head = ["run", "status", "updates", "tokens", "loss", "val loss", "bits/byte", "tokens/s", "checkpoints", "size"]
    rows = [
        [
            escape(run.name),
            escape(run.summary.status),
            f"{run.summary.step:,}" + ("" if run.summary.steps is None else f" of {run.summary.steps:,}"),
            format_count(run.summary.tokens),
            number(run.summary.loss),
            number(run.summary.val_loss),
            number(run.summary.val_bits_per_byte),
            number(run.summary.tokens_per_second),
            f"{len(run.summary.checkpoints):,}",
            format_bytes(run.summary.bytes),
        ]
        for run in runs
    ]
    return table(head, rows, align="<<>>>>>>>>")


def _events(runs: Sequence[Reported]) -> str:
    rows: list[list[str]] = []
    hidden = 0
    for run in runs:
        hidden += max(0, len(run.events) - MOST_EVENTS)
        for mark, event in list(zip(run.marks, run.events, strict=True))[-MOST_EVENTS:]:
            kind = f'<span class="{"bad" if mark.is_bad else "soft"}">{escape(mark.kind)}</span>'
            cells = [escape(str(event.get("time", ""))), kind, escape(event_text(event))]
            rows.append([escape(run.name), *cells] if len(runs) > 1 else cells)
    if not rows:
        return ""
    head = [*(["run"] if len(runs) > 1 else []), "time", "event", "what"]
    more = f'<p class="soft">{hidden:,} earlier events are in events.jsonl.</p>' if hidden else ""
    return f"<h2>What happened</h2>{table(head, rows, align='<' * len(head))}{more}"


def _settings(runs: Sequence[Reported]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.changed))
    if not names:
        return "<h2>Settings</h2><p>Every setting is the default.</p>"
    rows = [
        [f"<code>{escape(name)}</code>", *(escape(plain_text(run.changed.get(name, "default"))) for run in runs)]
        for name in names
    ]
    head = ["setting", *(escape(run.name) for run in runs)] if len(runs) > 1 else ["setting", "value"]
    return f"<h2>Settings that are not the default</h2>{table(head, rows, align='<' * len(head))}"


_FACTS = ("vitruvius", "python", "platform", "cpu", "cores_usable", "gpus", "packages", "variables")


def _machines(runs: Sequence[Reported]) -> str:
    rows = [[name, *(escape(_fact(run.record["environment"].get(name))) for run in runs)] for name in _FACTS]
    none: dict[str, Any] = {}
    data = [run.record["data"] or none for run in runs]
    rows.append(["data", *(escape(str(found.get("fingerprint", "unknown"))[:16]) for found in data)])
    head = ["", *(escape(run.name) for run in runs)] if len(runs) > 1 else ["", "value"]
    return f"<h2>Where</h2>{table(head, rows, align='<' * len(head))}"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return ", ".join(f"{key} {each}" for key, each in found.items() if each is not None) or "none"
    if isinstance(value, list):
        return ", ".join(str(item) for item in cast("list[Any]", value)) or "none"
    return "unknown" if value is None else str(value)
