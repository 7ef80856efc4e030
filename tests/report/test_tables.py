"""Tables in a terminal line up, whatever stands in them."""

from __future__ import annotations

from vitruvius.report.tables import columns


def test_columns_line_up_beside_wide_characters_and_joined_marks():
    rows = [("run", "loss"), ("日本", "1.5"), ("e\u0301te\u0301", "22.5"), ("plain", "3.5")]
    assert columns(rows, align="<>") == ["run    loss", "日本    1.5", "e\u0301te\u0301    22.5", "plain   3.5"]
    assert columns([("日本", "x"), ("a", "y")], align="><") == ["日本  x", "   a  y"]
