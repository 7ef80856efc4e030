"""Flame graphs: folded stacks that other tools read, and a drawing that stands alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.report.flame import HEAD, MARGIN, ROW, WIDTH, flame_svg, folded, tree

STACKS = {
    ("run",): 0.001,
    ("run", "layer", "mixer attention"): 0.002,
    ("run", "layer", "mixer attention", "mm"): 0.010,
    ("run", "layer", "ffn swiglu", "mm"): 0.006,
    ("run", "head lm"): 0.0000001,
}
SVG = "{http://www.w3.org/2000/svg}"

names = st.lists(st.text(max_size=12), min_size=1, max_size=4).map(tuple)
stacks = st.dictionaries(names, st.floats(0, 10), max_size=12)


def test_folded_stacks_are_names_and_whole_microseconds_the_longest_first():
    assert folded(STACKS) == (
        "run;layer;mixer attention;mm 10000\nrun;layer;ffn swiglu;mm 6000\nrun;layer;mixer attention 2000\nrun 1000\n"
    )


@given(stacks)
def test_folded_stacks_are_read_back_whatever_the_names_are(found):
    for line in folded(found).splitlines():
        names, _, count = line.rpartition(" ")
        assert int(count) > 0
        assert all(names.split(";"))


def test_boxes_hold_what_is_below_them():
    whole = tree(STACKS, "run")
    assert whole.total == pytest.approx(sum(STACKS.values()))
    layer = whole.inner["layer"]
    assert layer.total == pytest.approx(0.018) and layer.own == 0
    assert layer.inner["mixer attention"].own == pytest.approx(0.002)
    assert whole.depth == 4


@given(stacks)
def test_the_drawing_is_well_formed_and_boxes_lie_inside_their_callers(found):
    root = ET.fromstring(flame_svg(found, title="any <title> & \x1b name", note="a; b"))
    boxes = [[float(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in root.iter(f"{SVG}rect")]
    assert all(box[2] >= 1 for box in boxes)
    assert all(x >= MARGIN - 0.1 and x + width <= WIDTH - MARGIN + 0.1 for x, _, width, _ in boxes)
    for x, y, width, _ in boxes:
        if y > HEAD:
            callers = [box for box in boxes if box[1] == y - ROW]
            assert any(left - 0.1 <= x and x + width <= left + wide + 0.1 for left, _, wide, _ in callers)


def test_widths_are_shares_of_the_time_and_pointing_tells_them():
    svg = flame_svg(STACKS, title="it")
    root = ET.fromstring(svg)
    says = {
        group.find(f"{SVG}title").text: float(group.find(f"{SVG}rect").get("width")) for group in root.iter(f"{SVG}g")
    }
    (name,) = [text for text in says if text.startswith("ffn swiglu")]
    assert name.endswith("6.000 ms, 31.6%")
    assert says[name] == pytest.approx(0.006 / sum(STACKS.values()) * (WIDTH - 2 * MARGIN), abs=0.1)
    assert not any(text.startswith("head lm") for text in says)  # too narrow to draw


def test_the_drawing_needs_nothing_from_elsewhere_and_has_both_looks():
    svg = flame_svg(STACKS, title="it")
    assert not re.search(r"<script|href|url\(|@import|https?://(?!www\.w3\.org)", svg)
    assert "prefers-color-scheme: dark" in svg


def test_its_style_touches_no_other_drawing_on_the_page():
    style = flame_svg(STACKS, title="it").partition("<style>")[2].partition("</style>")[0]
    selectors = re.findall(r"([^{}]+)\{", style.replace("@media (prefers-color-scheme: dark)", ""))
    assert all(one.strip().startswith(".flame") for one in selectors if one.strip())


def test_without_any_time_there_is_a_title_and_no_box():
    root = ET.fromstring(flame_svg({}, title="nothing"))
    assert not list(root.iter(f"{SVG}rect"))
