"""What `runs show` says of an architecture that changed: each field, its values, when; what was done again once."""

from __future__ import annotations

from vitruvius.report.shape_text import MOST, shape_lines


def shape(step, before, after, field="blocks.a.mixer.sees.sliding.window"):
    return {"kind": "shape", "step": step, "field": field, "from": before, "to": after, "why": "step"}


def test_a_field_has_a_line_with_its_values_and_steps():
    events = [{"kind": "begun"}, shape(1, 64, 8), shape(51, 8, 16), shape(3, 0.5, 0.25, "head.softcap")]
    assert shape_lines(events) == [
        "blocks.a.mixer.sees.sliding.window  64 -> 8 (step 1) -> 16 (step 51)",
        "head.softcap  0.5 -> 0.25 (step 3)",
    ]
    assert shape_lines([{"kind": "begun"}]) == []


def test_what_a_rewind_or_a_resumed_run_did_again_is_told_once():
    events = [
        shape(1, 64, 8),
        shape(5, 8, 16),
        shape(9, 16, 32),
        {"kind": "rewound"},
        shape(5, 8, 16),
        shape(8, 16, 64),
    ]
    (line,) = shape_lines(events)
    assert line.endswith("64 -> 8 (step 1) -> 16 (step 5) -> 64 (step 8)")


def test_of_many_changes_the_last_are_shown_and_long_texts_are_cut():
    (line,) = shape_lines([shape(number, number, number + 1) for number in range(1, 50)])
    assert line.count("->") == MOST
    assert "  ... ->" in line
    (line,) = shape_lines([shape(1, "causal & " * 40, None)])
    assert len(line) < 160


def test_damaged_events_are_passed_over():
    assert (
        shape_lines([{"kind": "shape"}, {"kind": "shape", "step": "x", "field": 3}, {"kind": "shape", "step": True}])
        == []
    )
