"""Alarms in what is said of a run: its events in a line, the live view, the list of what was set aside."""

from __future__ import annotations

import math

import pytest

from vitruvius.report.run_history import BAD, event_text, marks_of
from vitruvius.report.run_live import Live

ALARM = {
    "kind": "alarm",
    "time": "2026-11-22T00:00:00Z",
    "step": 150,
    "verdict": "lower-lr",
    "seen": [
        {
            "what": "attention-logit",
            "value": "131.25",
            "z": None,
            "limit": 100.0,
            "place": "layers.3.mixer head 2",
            "rule": "above",
        }
    ],
    "first_bad": None,
    "sample_ids": [1],
}


def test_an_alarm_is_told_in_a_line_with_place_value_and_limit():
    assert event_text(ALARM) == (
        "attention-logit of layers.3.mixer head 2 is 131.2 (over 100, above), step 150, verdict lower-lr"
    )
    (mark,) = marks_of([ALARM], [100, 200])
    assert mark.is_bad
    assert {"alarm", "spike", "not-finite", "detectors-failed"} <= BAD


def test_spikes_and_numbers_that_are_none_are_told_the_same_way():
    seen = [
        {"what": "loss", "value": "nan", "z": None, "limit": None},
        {"what": "grad_norm", "value": "9e9", "z": 22.5},
    ]
    assert event_text({"kind": "spike", "seen": seen}) == "loss is nan and grad_norm is 9e+09 (22.5 deviations)"
    many = event_text({"kind": "alarm", "seen": [{"what": "x", "value": "1"}] * 9})
    assert many == "x is 1 and x is 1 and x is 1 and 6 more"


@pytest.mark.parametrize(
    "seen", [None, 5, "x", [], [1, None], [{"value": {"a": []}}], [{"what": 3, "z": "far"}]], ids=str
)
def test_an_event_that_was_damaged_is_told_all_the_same(seen):
    assert isinstance(event_text({"kind": "alarm", "seen": seen, "step": 3}), str)


def test_the_live_view_says_how_many_alarms_stand():
    live = Live(name="run", architecture=None, steps=100)
    assert live.to_dict("running", None)["alarms"] is None
    live.add_rows([{"step": 50, "loss": 2.0, "alarms": 2.0}, {"step": 51, "loss": 2.0}])
    assert live.alarms == 2
    assert "alarms: 2" in live.line("running")
    assert "alarms that are not over: 2 (step 50)" in live.text("running", style="blocks", checkpoint=None)
    live.add_rows([{"step": 60, "loss": 2.0, "alarms": 0.0}, {"step": 61, "loss": 2.0, "alarms": math.nan}])
    assert live.alarms == 0
    assert "alarms" not in live.line("running")
    live.anew()
    assert live.alarms is None
