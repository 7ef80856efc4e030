"""Drawings show the architecture that was asked for, and fit where they are shown."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from vitruvius.errors import SpecError
from vitruvius.report import Drawing, draw, svg_of, text_of
from vitruvius.report.canvas import Canvas, to_ascii
from vitruvius.report.diagram import MOST_DESIGNS, Experts, diagram_of
from vitruvius.report.diagram_svg import draw_svg
from vitruvius.report.diagram_text import Look, draw_text
from vitruvius.report.svg import fitted, text_width, wrapped
from vitruvius.spec import preset, preset_names, read_text, resolve
from vitruvius.spec.model import Block

SVG = "{http://www.w3.org/2000/svg}"


def _texts(svg):
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


# ----------------------------------------------------------------------------------------------------------------------
# What is drawn


def test_a_diagram_has_a_design_for_each_distinct_block_and_counts_their_layers():
    diagram = diagram_of(preset("longcontext"))
    assert [(design.name, design.layers) for design in diagram.designs] == [("local", 16), ("dilated", 12), ("full", 4)]
    assert diagram.layer_line == "local x 16 dilated x 12 full x 4"
    assert diagram.parameters == 5_802_037_248


def test_a_diagram_says_the_totals_and_the_active_ones_only_where_they_differ():
    assert diagram_of(preset("llama-moe")).facts[:2] == ("27.76 B parameters", "10.85 B active")
    assert not any("active" in fact for fact in diagram_of(preset("llama-3-8b")).facts)


def test_as_many_experts_are_lit_as_a_token_passes_through():
    for experts, chosen in [(8, 2), (128, 8), (4, 4), (3, 1)]:
        lit = Experts(experts=experts, chosen=chosen, shared=False, router="").lit(experts)
        assert len(lit) == chosen and lit <= set(range(experts))


def test_the_parameters_of_a_drawing_add_up_to_the_whole():
    for name in preset_names():
        diagram = diagram_of(preset(name))
        norms = [norm for norm in (diagram.final_norm, diagram.encoder_norm) if norm is not None]
        ends = [diagram.embedding, diagram.head, *norms]
        inside = sum(design.layers * design.parameters for design in diagram.designs)
        scales = resolve(preset(name)).tensors().items()
        streams = sum(tensor.count for tensor_name, tensor in scales if tensor_name.startswith("streams."))
        assert inside + streams + sum(box.parameters for box in ends) == diagram.parameters


FRAMES = """
name: frames
vocab_size: 97
width: 32
context: 64
blocks:
  read: {mixer: {kind: attention, heads: 4, sees: everything}, ffn: {kind: mlp, hidden: 64}}
  write:
    mixer: {kind: attention, heads: 4}
    cross: {kind: attention, heads: 4}
    ffn: {kind: mlp, hidden: 64}
    order: parallel-one-norm
    residual_scale: 0.5
encoder: {layers: read*3}
layers: write*2
streams: {skips: unet, embedding: learned}
"""


@pytest.mark.parametrize("draw", [draw_text, draw_svg])
def test_encoder_parallel_sublayers_and_streams_are_drawn(draw):
    drawing = draw(diagram_of(read_text(FRAMES).architecture))
    for words in (
        "3 of 3 encoder layers",
        "cross-attention",
        "source [B, S]",
        "the same rmsnorm",
        "each branch times 0.5",
    ):
        assert words in drawing
    assert "skips from the first half" in drawing
    assert "the embedding enters every layer" in drawing


def test_of_very_many_blocks_a_few_are_drawn_and_the_others_counted():
    blocks = {f"b{i}": preset("tiny-llama").blocks["layer"] for i in range(100)}
    many = replace(preset("tiny-llama"), blocks=blocks, layers=" ".join(blocks))
    assert "88 more blocks are not drawn" in text_of(many)
    assert len(ET.fromstring(svg_of(many)).findall(f".//{SVG}svg")) == 2 * MOST_DESIGNS
    assert any("88 more blocks are not drawn" in text for text in _texts(svg_of(many)))


def test_what_does_not_fit_together_is_not_drawn():
    broken = replace(preset("tiny-llama"), blocks={"layer": Block()})
    with pytest.raises(SpecError, match="does nothing"):
        draw(broken)


# ----------------------------------------------------------------------------------------------------------------------
# SVG


@pytest.mark.parametrize("name", preset_names())
def test_a_drawing_is_valid_xml_that_stands_alone(name):
    svg = svg_of(preset(name))
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == f"{name}: architecture"
    assert "Layers, from the bottom" in root.find(f"{SVG}desc").text
    addresses = set(re.findall(r"https?://[^\"'< ]+", svg))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not {"style", "script", "image", "foreignObject", "use"} & {e.tag.removeprefix(SVG) for e in root.iter()}


@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
def test_nothing_is_drawn_outside_of_the_sheet(name, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    root = ET.fromstring(svg_of(architecture))
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.findall(f"{SVG}rect"):
        assert float(element.get("x", 0)) >= 0 and float(element.get("y", 0)) >= 0
        assert float(element.get("x", 0)) + float(element.get("width")) <= width
        assert float(element.get("y", 0)) + float(element.get("height")) <= height
    for element in root.findall(f"{SVG}text"):
        size, anchor = float(element.get("font-size")), element.get("text-anchor", "start")
        wide = text_width(element.text, size, mono="mono" in element.get("font-family", "")) / 1.06
        start = float(element.get("x")) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        assert start >= 0 and start + wide <= width, element.text
        assert 0 < float(element.get("y")) <= height


def test_a_drawing_shows_shapes_counts_norms_patterns_and_repeats():
    texts = _texts(svg_of(preset("llama-moe")))
    for words in (
        "llama-moe", "27.76 B parameters", "logits [B, T, 128,256]", "[B, T, 4,096]", "tokens [B, T]", "× 16", "dense",
        "16 of 32 layers", "rmsnorm", "attention", "32 heads of 128", "8 for keys and values", "rope, theta 500,000",
        "llama3 scaling by 8", "causal", "mixture of experts", "2 of 8 experts", "softmax router, renormalised",
        "gate, silu", "1.451 B parameters a layer, 394.3 M active",
    ):  # fmt: skip
        assert words in texts, words


def test_each_pattern_is_drawn_in_its_block_and_in_the_stack():
    svg = ET.fromstring(svg_of(preset("longcontext")))
    assert len(svg.findall(f"{SVG}g/{SVG}svg")) == 2 * 3


def test_text_of_the_users_is_escaped_and_cannot_become_markup(odd):
    svg = svg_of(odd)
    assert "<b>" not in svg
    assert '<b>"Nested" & shared</b>' in _texts(svg)


def test_characters_that_xml_cannot_hold_are_made_visible(odd):
    svg = svg_of(replace(odd, description="a\x00b\x1b[2J\u202e"))
    ET.fromstring(svg)
    assert "a\\x00b\\x1b[2J\\u202e" in _texts(svg)


def test_kinds_that_the_drawing_does_not_know_are_drawn_from_their_fields(foreign):
    svg = svg_of(foreign)
    assert {"foreign", "state 2,048", "note a\\x1b[2J<script>", "foreign-ffn"} <= set(_texts(svg))
    assert "<script>" not in svg
    feed_forward = diagram_of(foreign).designs[0].boxes[1]
    assert feed_forward.details == ("inner swiglu (hidden 352)",)


def test_a_drawing_is_the_same_every_time():
    assert svg_of(preset("qwen3-30b-a3b")) == svg_of(preset("qwen3-30b-a3b"))


def test_an_architecture_draws_itself_in_a_notebook():
    drawing = draw(preset("tiny-llama"))
    assert isinstance(drawing, Drawing)
    assert drawing._repr_svg_() == drawing.svg == svg_of(preset("tiny-llama"))
    assert str(drawing).startswith("tiny-llama\n")


# ----------------------------------------------------------------------------------------------------------------------
# Text


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
def test_a_drawing_fits_the_terminal(name, width, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    for line in draw_text(diagram_of(architecture), Look(width=width)).splitlines():
        assert len(line) <= max(width, 75), line
        assert line == line.rstrip()


@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
def test_boxes_close_at_the_column_where_they_open(name, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    lines = draw_text(diagram_of(architecture), Look(width=40)).splitlines()
    grid = {(y, x): c for y, line in enumerate(lines) for x, c in enumerate(line)}
    for (y, x), character in grid.items():
        if character == "┌":
            below = y + 1
            while grid.get((below, x)) == "│":
                below += 1
            assert grid.get((below, x)) == "└", (y, x)


def test_a_drawing_in_text_shows_shapes_counts_patterns_and_repeats():
    text = text_of(preset("longcontext"), width=200)
    for words in ("logits [B, T, 32,000]", "× 16", "× 12", "× 4", "12 of 32 layers", "causal & dilated(1024,", "··▀▄"):
        assert words in text


def test_a_block_without_norms_has_none_drawn_and_one_with_post_norms_has_them_above_the_addition(odd):
    text = draw_text(diagram_of(odd), Look(width=40))
    local = text.partition("─ local ─")[2].partition("└─")[0]
    assert "( rmsnorm )" not in local.partition("causal")[0]
    post = text.partition("─ a_block")[2].splitlines()
    assert "( rmsnorm )" in post[2] and "⊕" in post[4]


@pytest.mark.parametrize(
    ("place", "order"),
    [
        ("pre", ["⊕", "swiglu", "( rmsnorm )", "┤"]),
        ("post", ["( rmsnorm )", "⊕", "swiglu", "┤"]),
        ("output", ["⊕", "( rmsnorm )", "swiglu", "┤"]),
        ("sandwich", ["⊕", "( rmsnorm )", "swiglu", "( rmsnorm )", "┤"]),
        ("none", ["⊕", "swiglu", "┤"]),
    ],
)
def test_norms_are_drawn_where_the_stream_meets_them_from_the_top_down(place, order):
    small = preset("tiny-llama")
    block = replace(small.blocks["layer"], mixer=None, norm_place=place)
    lone = replace(small, blocks={"layer": block})
    panel = draw_text(diagram_of(lone), Look(width=40)).partition("─ layer ─")[2]
    assert re.findall(r"⊕|swiglu|\( rmsnorm \)|┤", panel) == order
    final = 0 if place in {"post", "none"} else 1
    assert _texts(svg_of(lone)).count("rmsnorm") == order.count("( rmsnorm )") + final


@pytest.mark.parametrize("name", [*preset_names(), "odd", "foreign"])
def test_a_terminal_without_unicode_gets_ascii(name, request):
    architecture = request.getfixturevalue(name) if name in {"odd", "foreign"} else preset(name)
    assert draw_text(diagram_of(architecture), Look(ascii_only=True)).isascii()


def test_color_changes_nothing_but_color():
    diagram = diagram_of(preset("tiny-llama-moe"))
    colored = draw_text(diagram, Look(color=True))
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == draw_text(diagram, Look())
    assert all(
        line.endswith("\x1b[0m") or "\x1b" not in line for line in colored.splitlines() if line.startswith("\x1b")
    )


def test_nothing_of_the_users_reaches_the_terminal_as_a_command(foreign):
    text = draw_text(diagram_of(replace(foreign, description="a\x1b[2Jb\x07\nerror: c")), Look(width=100))
    assert "\x1b" not in text and "\x07" not in text
    assert not any(line.startswith("error:") for line in text.splitlines())


# ----------------------------------------------------------------------------------------------------------------------
# The sheet and the writer


def test_a_sheet_grows_as_it_is_drawn_on():
    sheet = Canvas()
    sheet.put(2, 3, "ab", "red")
    assert (sheet.height, sheet.width) == (3, 5)
    assert sheet.text() == "\n\n   ab"
    sheet.box(0, 0, 3, 6)
    assert sheet.text() == "┌────┐\n│    │\n└────┘"
    assert to_ascii(sheet.text()) == "+----+\n|    |\n+----+"


def test_a_sheet_is_copied_with_its_colors():
    inner, outer = Canvas(), Canvas()
    inner.put(0, 0, "x", "green")
    outer.place(1, 2, inner)
    assert outer.text(color=True) == "\n  \x1b[32mx\x1b[0m"


def test_text_is_cut_to_the_room_that_there_is():
    assert fitted("short", 100, 10) == "short"
    cut = fitted("a very long name that does not fit", 60, 10)
    assert cut.endswith("…") and text_width(cut, 10) <= 60
    assert wrapped("one two three", 1000, 10) == ["one two three"]
    assert len(wrapped("word " * 100, 80, 10, most=3)) == 3
