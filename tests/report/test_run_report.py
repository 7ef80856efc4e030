"""Reports of runs: curves say what the rows say, whatever stands in them; pages need nothing from elsewhere."""

from __future__ import annotations

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.report.run_charts import Line, chart, short
from vitruvius.report.run_history import Point, history_of, marks_of, spread, thinned
from vitruvius.report.run_live import Live, clock
from vitruvius.report.run_report import MOST_POINTS, Reported, report_data, report_page, report_text
from vitruvius.report.run_titles import TITLES
from vitruvius.runs.summary import RunSummary

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["step", "loss", "val_loss", "lr", "tokens", "tokens_per_second", "sink_mass/a", "sink_mass/b"])
ROWS = st.lists(st.dictionaries(KEYS, JSON_VALUES, max_size=8), max_size=12)


def summary(path="runs/a", **fields):
    known = {
        "status": "finished",
        "architecture": "tiny",
        "started": "2026-01-01T00:00:00Z",
        "step": 3,
        "steps": 3,
        "tokens": 99,
        "loss": 2.0,
        "val_loss": None,
        "val_bits_per_byte": None,
        "tokens_per_second": 5.0,
        "checkpoints": (3,),
        "bytes": 1000,
        "events": {},
    }
    return RunSummary(path=Path(path), **(known | fields))


def reported(rows, events=(), *, path="runs/a", changed=None):
    record = {"environment": {"cpu": "a <b>", "packages": {"torch": "2"}}, "data": None, "config": {}}
    return Reported.of(summary(path), record, changed or {}, rows, events)


class Checked(HTMLParser):
    """Opened and closed tags, and what a page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page):
    parser = Checked()
    parser.feed(page)
    assert parser.open == [] and parser.loads == []
    assert not re.search(r'="[^"]*\b(?:nan|inf)\b', page)
    return parser


def test_a_curve_has_the_numbers_of_the_rows():
    rows = [{"step": step, "loss": 5.0 - step, "samples": "ab", "applied": True} for step in range(1, 4)]
    history = history_of(rows)
    assert history.curves == {"loss": ((1, 4.0), (2, 3.0), (3, 2.0))}
    assert history.left_out == 0


def test_what_is_no_number_is_counted_and_not_drawn():
    rows = [{"step": 1, "loss": None}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 10**400}, {"loss": 1.0}]
    history = history_of([*rows, {"step": 4, "loss": 1.0, "val_bits_per_byte": None}, {"step": "5", "loss": 2.0}])
    assert history.curves == {"loss": ((4, 1.0),)}
    assert history.left_out == 3


def test_the_last_row_of_a_step_counts():
    assert history_of([{"step": 1, "lr": 1.0}, {"step": 1, "lr": 2.0}]).curves == {"lr": ((1, 2.0),)}


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_mean_least_and_largest(values, most):
    points = thinned(list(enumerate(values)), most)
    assert len(points) == min(most, len(values))
    assert min(point.low for point in points) == min(values)
    assert max(point.high for point in points) == max(values)
    assert all(point.low <= point.value <= point.high for point in points)


def test_several_curves_become_one_with_its_spread():
    found = spread([((1, 1.0), (2, 5.0)), ((1, 3.0),)])
    assert [(p.step, p.value, p.low, p.high) for p in found] == [(1, 2.0, 1.0, 3.0), (2, 5.0, 5.0, 5.0)]


def test_an_event_stands_where_the_run_was():
    events = [
        {"kind": "spike", "step": 4},
        {"kind": "resumed", "environment": {"much": "too much"}},
        {"kind": "rewound", "to_step": 2},
        {"kind": "finished", "step": 99},
    ]
    marks = marks_of(events, [1, 2, 3, 4, 5])
    assert [(mark.kind, mark.step, mark.is_bad) for mark in marks] == [
        ("spike", 4, True),
        ("resumed", 4, False),
        ("rewound", 2, True),
        ("finished", 5, False),
    ]
    assert "much" not in marks[1].text
    assert marks_of([{"kind": "failed"}], [])[0].step == 0


@given(
    st.lists(st.floats(allow_nan=False, min_value=-1e100, max_value=1e100), min_size=1, max_size=20),
    st.integers(0, 2**62),
)
def test_every_line_is_drawn_inside_its_chart(values, first):
    points = [Point(step=first + i, value=value, low=value, high=value) for i, value in enumerate(values)]
    drawn = chart("t", "u", [Line(name="x", points=points, colour="red")])
    checked(drawn)
    (path,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    for pair in path.split():
        x, y = map(float, pair.split(","))
        assert 50 <= x <= 480 and 0 <= y <= 250


def test_a_wide_range_is_drawn_on_a_logarithmic_axis():
    points = [Point(step=i, value=10.0**i, low=10.0**i, high=10.0**i) for i in range(5)]
    drawn = chart("t", "u", [Line(name="x", points=points, colour="red")])
    assert "logarithmic" in drawn
    (path,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    heights = [float(pair.split(",")[1]) for pair in path.split()]
    steps = [a - b for a, b in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.2)


@pytest.mark.slow
@given(
    ROWS, st.lists(st.dictionaries(st.sampled_from(["kind", "step", "time", "to_step", "x"]), JSON_VALUES), max_size=6)
)
def test_a_page_can_be_made_of_any_rows(rows, events):
    for runs in ([reported(rows, events)], [reported(rows, events), reported([], path="b")]):
        checked(report_page(runs))
        report_text(runs, style="blocks").encode("utf-8", "backslashreplace")
        json.dumps(report_data(runs), allow_nan=False)


def test_names_from_files_stay_text():
    rows = [{"step": 1, "loss": 1.0, "<script>/x": 2.0, "lr": 0.1}]
    run = reported(rows, [{"kind": "<img src=x>", "step": 1, "what": "<b>"}], path="<i>", changed={"<u>": "<s>"})
    page = report_page([run])
    assert {"script", "img", "i", "u", "s", "b"}.isdisjoint(checked(page).seen)


def test_a_page_shows_curves_events_settings_and_machine():
    rows = [
        {"step": step, "loss": 5.0 / step, "lr": 0.1, "grad_norm": 1.0, "sink_mass/layers.0.mixer": 0.1 * step}
        for step in range(1, 4)
    ]
    page = report_page([reported(rows, [{"kind": "spike", "step": 2, "verdict": "note"}], changed={"lr": 0.1})])
    for text in ("Loss", "Learning rate", "Sink mass", "layers.0.mixer", "spike", "verdict note", "a &lt;b&gt;"):
        assert text in page
    assert "<code>lr</code>" in page


def test_long_runs_are_thinned_and_the_page_says_so():
    rows = [{"step": step, "loss": 1.0, "lr": 1.0} for step in range(3 * MOST_POINTS)]
    run = reported(rows)
    assert "mean of up to 3 updates" in report_page([run])
    (data,) = report_data([run])["runs"]
    assert len(data["curves"]["loss"]) == MOST_POINTS
    json.dumps(data, allow_nan=False)


@given(ROWS, st.lists(st.dictionaries(st.sampled_from(["kind", "step", "time"]), JSON_VALUES, max_size=3), max_size=4))
def test_a_live_view_can_be_made_of_any_rows(rows, events):
    live = Live(name="r", architecture=None, steps=10)
    live.add_rows(rows)
    live.add_events(events)
    assert live.line("running") and live.text("running", style="ascii", checkpoint=(1, 2.0))
    json.dumps(live.to_dict("running", None), allow_nan=False)
    live.anew()
    assert (live.step, live.loss) == (0, None)


def test_the_time_left_is_that_of_the_updates_left():
    live = Live(name="r", architecture="a", steps=100)
    live.add_rows({"step": step, "loss": 1.0, "tokens": 50 * step, "tokens_per_second": 25.0} for step in range(1, 11))
    assert live.seconds_left == pytest.approx(90 * 2.0)
    assert "3:00 left" in live.line("running")
    assert "left" not in live.line("finished")


@pytest.mark.parametrize(
    ("value", "told"), [(0.5, "0.5"), (12_000, "12k"), (3e6, "3M"), (2e-5, "2e-05"), (0, "0"), (-1500, "-1.5k")]
)
def test_numbers_of_an_axis_are_short(value, told):
    assert short(value) == told


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (130, "2:10"), (3723, "1:02:03")])
def test_clocks(seconds, told):
    assert clock(seconds) == told


def test_a_field_that_a_schedule_changed_holds_until_it_changes_again():
    rows = [{"step": step, "loss": 1.0} for step in range(1, 7)]
    rows[1]["shape/window"], rows[4]["shape/window"] = 8, 16
    assert history_of(rows).curves["shape/window"] == ((2, 8.0), (3, 8.0), (4, 8.0), (5, 16.0), (6, 16.0))


NO_CHART = {"step", "loss", "val_loss", "tokens", "val_tokens", "samples", "applied", "shape/FIELD"}


@pytest.mark.parametrize(
    ("page", "starts", "ends", "column"),
    [("training.md", "## What is measured", "### The guard", 1), ("monitoring.md", "| Measure | Key |", "\n\n", 2)],
)
def test_every_key_that_is_documented_has_a_title(page, starts, ends, column):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    table = text[text.index(starts) :].partition(ends)[0]
    cells = [line.split("|")[column] for line in table.splitlines() if line.startswith("|")]
    keys = {key for cell in cells for key in re.findall("`([^`]+)`", cell)} - NO_CHART
    families = {"grad_norm/" if key.startswith("grad_norm/") else key.split("/")[0] for key in keys}
    assert len(families) > 12
    assert families <= TITLES.keys()


def test_a_chart_without_a_unit_says_that_it_is_logarithmic_without_a_comma():
    points = tuple(Point(step=i, value=10.0**-i, low=10.0**-i, high=10.0**-i) for i in range(6))
    drawn = chart("Learning rate", "", [Line(name="a", points=points, colour="red")])
    assert ">logarithmic</span>" in drawn
    assert ">nats, logarithmic</span>" in chart("Loss", "nats", [Line(name="a", points=points, colour="red")])


def test_every_chart_of_a_page_has_the_same_steps_at_the_same_places():
    rows = [{"step": step, "loss": 3.0 / step} for step in range(1, 401)]
    rows = [row | ({"val_bits_per_byte": 2.0} if row["step"] % 50 == 0 else {}) for row in rows]
    drawn = report_page([reported(rows)])
    charts = re.findall(r"<svg.*?</svg>", drawn)
    places = [dict(re.findall(r'<text x="([\d.]+)" y="226" [^>]*>(\d+)</text>', each)) for each in charts]
    assert len(places) > 1
    assert all(each == places[0] for each in places)
    assert list(places[0].values()) == ["100", "200", "300", "400"]


def test_nothing_that_is_counted_goes_below_nothing():
    drawn = chart("Alarms", "", [Line(name="a", points=[Point(step=1, value=0.0, low=0.0, high=0.0)], colour="red")])
    assert not re.search(r">-\d", drawn)


def test_a_line_of_a_run_that_is_watched_names_what_went_wrong_last():
    live = Live(name="r", architecture="a", steps=100)
    live.add_events([{"kind": "begun"}, {"kind": "spike", "step": 7}, {"kind": "rewound", "to_step": 2}])
    assert "bad events: 2 (rewound)" in live.line("running")
    live.add_events([{"kind": "spike", "step": 1097}, {"kind": "resumed", "step": 1100}])
    assert "bad events: 3 (spike at step 1,097)" in live.line("running")
    assert "something that went wrong: 3 (spike at step 1,097)" in live.text("died", style="ascii", checkpoint=None)
