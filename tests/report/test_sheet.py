"""What our pages share."""

from __future__ import annotations

import re

from vitruvius.report.sheet import COLOURS, STYLE, inline, listed, page, shares, table


def test_a_page_escapes_its_title_and_leaves_out_what_is_empty():
    made = page("<a>", ["", "<p>x</p>", ""])
    assert "<title>&lt;a&gt;</title>" in made
    assert "<body>\n<p>x</p>\n</body>" in made


def test_tables_scroll_and_align_numbers():
    made = table(["a", "b"], [["x", "1"], ["y", "2"]], align="<>", marks=["predicted"])
    assert made.startswith('<div class="scroll"><table>')
    assert '<tr class="predicted"><td>x</td><td class="number">1</td></tr><tr><td>y</td>' in made


def test_shares_add_up_and_small_ones_stand_together():
    parts = [(f"part {i}", share) for i, share in enumerate([0.3, 0.2, 0.1, 0.1, 0.1, 0.08, 0.06, 0.03, 0.02, 0.01])]
    made = shares(parts)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", made)]
    assert len(widths) == COLOURS
    assert abs(sum(widths) - 100) < 0.1
    assert "3 more 6.0%" in made


def test_lists_are_escaped_and_nothing_where_there_is_nothing():
    assert listed([]) == ""
    assert listed(["<b>"]) == "<ul><li>&lt;b&gt;</li></ul>"


def test_a_declaration_is_taken_off_a_drawing():
    assert inline('<?xml version="1.0"?>\n<svg>x</svg>') == "<svg>x</svg>"
    assert inline("no drawing") == ""


def test_every_colour_has_a_dark_twin():
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    assert {*re.findall(r"(--\w+):", light.partition("}")[0])} == {*re.findall(r"(--\w+):", dark.partition("} }")[0])}
