"""The page and the text about a look into a model: whole, escaped, bounded; pictures hold the numbers."""

from __future__ import annotations

import re
import struct
import zlib
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.report.inspect_gates import telling_line
from vitruvius.report.inspect_maps import axis, data_uri, large_map, png
from vitruvius.report.inspect_page import inspect_page
from vitruvius.report.inspect_text import inspect_text
from vitruvius.report.inspect_words import tinted, visible

NASTY = "</p><script>alert(1)</script>&'\""
ROLE = {"name": "previous", "score": "weight before", "source": "a <paper>", "side": "at least", "threshold": 0.5}


def document(**changes):
    """One layer with one head, one mixture and one gate over three tokens."""
    scores = {"previous": 0.75}
    head = {
        "head": 0,
        "map": None,
        "role": "previous",
        "roles": ["previous"],
        "scores": scores,
        "keys": 1.5,
        "distance": 1.0,
        "uniform_distance": 2.0,
        "sink": 0.0,
    }
    layer = {
        "path": "layers.0.mixer",
        "stack": "decoder",
        "index": 0,
        "block": "a",
        "part": "mixer",
        "kind": "attention",
        "sees": "causal",
        "keeps": "attention",
        "facts": {},
        "heads": [head],
    }
    word = {"id": 1, "text": NASTY, "count": 3, "share_of_expert": 1.0, "share_of_token": 0.5, "z": 3.0}
    said = {"bits": 0.5, "of_choice": 1.0, "share": 0.5, "by_chance": 0.01, "p": 0.004, "plain": 0.51}
    experts = {
        "path": "layers.0",
        "index": 0,
        "block": "a",
        "experts": 2,
        "tokens": 3,
        "per_token": 1.0,
        "unrouted_share": 0.0,
        "load_share": [1.0, 0.0],
        "load_max_over_mean": 2.0,
        "load_cv": 1.0,
        "dead": [1],
        "information": {"token": said, "position": None, "previous_token": said},
        "tables": [
            {"expert": 0, "load": 3, "frequent": [word], "specific": [word]},
            {"expert": 1, "load": 0, "frequent": [], "specific": []},
        ],
        "text": "tokens",
        "shown": [[0], [0], []],
    }
    gate = {
        "path": "layers.0",
        "text": "tokens",
        "name": "forget gate",
        "means": "what is kept",
        "most": 1.0,
        "of": "head",
        "count": 1,
        "mean": [0.1, None, 0.9],
        "low": [0.1, None, 0.9],
        "high": [0.1, None, 0.9],
        "values": [[0.1, None, 0.9]],
    }
    top = [{"text": NASTY, "p": 0.5}] * 3
    row = {"path": "layers.0", "rms": 1.0, "rms_first_token": 2.0, "largest": 3.0, "relative_change": None}
    return {
        "schema": "vitruvius.inspect/1",
        "name": NASTY,
        "run": None,
        "step": 7,
        "weights": "trained",
        "parameters": 1000,
        "text": {"origin": NASTY, "tokens": [{"id": i, "text": NASTY} for i in range(3)], "source": None},
        "sample": {"origin": NASTY, "rows": 2, "row_tokens": 3},
        "settings": {"shuffles": 200, "overlap_shuffles": 20},
        "roles": [ROLE],
        "layers": [layer],
        "maps": [
            {
                "path": "layers.0.mixer",
                "head": 0,
                "map": None,
                "kind": "attention",
                "cells": [[1.0, None, None], [0.75, 0.25, None], [0.0, 0.75, 0.25]],
            }
        ],
        "cell_tokens": {"decoder": 1, "encoder": None},
        "experts": [experts],
        "overlap": [],
        "gates": [gate],
        "stream": [row],
        "lens": {"target": "the next token", "layers": [{**row, "nats": 1.0, "agrees_with_last": 1.0, "top": top}]},
        "notes": [NASTY],
        **changes,
    }


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def elements(page):
    parser = Elements()
    parser.feed(page)
    return parser.found


def pixels(picture):
    """Width, height and the palette colour of every pixel of an indexed PNG without filters."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        name, data = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        assert struct.unpack(">I", picture[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + data)
        chunks[name] = data
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    raw, palette = zlib.decompress(chunks[b"IDAT"]), chunks[b"PLTE"]
    rows = [raw[1 + row * (width + 1) : (row + 1) * (width + 1)] for row in range(height)]
    return width, height, [[tuple(palette[3 * i : 3 * i + 3]) for i in row] for row in rows]


def test_no_text_of_the_document_becomes_markup() -> None:
    page = inspect_page(document())
    assert not any(tag == "script" for tag, _ in elements(page))
    assert "<script" not in page
    assert "alert(1)" in page


def test_nothing_is_fetched_from_elsewhere() -> None:
    page = inspect_page(document())
    for tag, attributes in elements(page):
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in page and "@import" not in page


def test_the_page_holds_roles_experts_gates_and_depth() -> None:
    page = inspect_page(document())
    for words in ("What heads do", "What experts are chosen for", "Positions that depend", "From layer to layer"):
        assert words in page
    text = inspect_text(document())
    for words in ("previous", "0.75", "2 experts", "forget gate", "nats (the next token)", "never chosen: [1]"):
        assert words in text


def test_parts_that_a_model_has_not_are_left_out() -> None:
    bare = document(experts=[], gates=[], overlap=[], layers=[], maps=[])
    page = inspect_page(bare)
    assert "What experts" not in page and "Positions that depend" not in page
    assert "keeps an attention map" in page
    assert "experts" not in inspect_text(bare).split("rows of")[1]


def test_a_page_of_many_maps_stays_within_its_bounds_and_says_so() -> None:
    (found,) = document()["maps"]
    heads = [{**document()["layers"][0]["heads"][0], "head": head} for head in range(400)]
    layer = {**document()["layers"][0], "heads": heads}
    page = inspect_page(document(layers=[layer], maps=[{**found, "head": head} for head in range(400)]))
    assert sum(tag == "img" for tag, _ in elements(page)) == 256
    assert "The first 256 of 400 maps" in page
    assert "336 more heads" in inspect_text(document(layers=[layer]))


def test_a_picture_is_white_at_zero_darkest_at_one_grey_where_hidden_and_red_below_zero() -> None:
    width, height, rows = pixels(png([[0.0, 1.0, None], [-1.0, 0.25, -0.0]]))
    assert (width, height) == (3, 2)
    assert rows[0] == [(255, 255, 255), (15, 23, 42), (226, 232, 240)]
    red, _, blue = rows[1][0]
    assert red > blue
    assert rows[1][1] == (59, 130, 246), "0.25 has the colour half way, by the square root"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_a_larger_weight_is_never_drawn_lighter(values) -> None:
    (row,) = pixels(png([sorted(values)]))[2]
    light = [sum(colour) for colour in row]
    assert light == sorted(light, reverse=True)


@given(st.text(max_size=40))
def test_every_token_is_shown_in_signs_that_can_be_printed(text: str) -> None:
    shown = visible(text)
    assert shown and shown.isprintable() and " " not in shown.replace("(empty)", "")
    html = tinted([text], [0.5], [text])
    assert html.count("<span") == html.count("</span>") == 1


@pytest.mark.parametrize(("text", "shown"), [(" a\n", "·a⏎"), ("\t", "⇥"), ("", "(empty)"), ("\x1b[2J", "\\x1b[2J")])
def test_white_space_and_escapes_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_large_map_names_its_rows_and_columns_and_says_what_strong_cells_weigh() -> None:
    svg = large_map([[1.0, None], [0.05, 0.95]], queries=["<a>", "b"], keys=["<a>", "b"], title="<t>")
    assert "&lt;a&gt;" in svg and "<a>" not in svg
    assert re.findall(r"<title>([^<]*)</title>", svg) == ["&lt;t&gt;", "&lt;a&gt; to &lt;a&gt;: 1.00", "b to b: 0.95"]
    assert data_uri([[1.0, None], [0.05, 0.95]]) in svg


def test_cells_of_several_tokens_are_named_by_the_first_of_them() -> None:
    assert axis(["a", "b", "c"], 1, 3) == ["a", "b", "c"]
    assert axis([f"t{i}" for i in range(10)], 4, 3) == ["0 t0", "4 t4", "8 t8"]


def test_the_text_under_a_gate_is_tinted_by_the_head_that_varies_most() -> None:
    gate = {**document()["gates"][0], "count": 2, "values": [[0.5, None, 0.5], [0.25, None, 0.75]]}
    assert telling_line(gate) == ("head 1, which varies most", [0.25, None, 0.75])
    page = inspect_page(document(gates=[gate]))
    assert "tinted by head 1, which varies most: from 0.250" in page
    assert telling_line({**gate, "values": None, "of": "channel"}) == ("mean over 2 channels", gate["mean"])


def test_influence_maps_are_explained_with_how_far_they_may_be_off() -> None:
    facts = {"probes": 8, "queries": [0, 1, 2], "distance": 1.0, "own": 0.5}
    layer = {
        **document()["layers"][0],
        "keeps": "influence",
        "facts": facts,
        "heads": [],
        "kind": "mamba2",
        "sees": None,
    }
    (found,) = document()["maps"]
    changed = document(layers=[layer], maps=[{**found, "head": None, "kind": "influence"}])
    assert "at most 25% of it" in inspect_page(changed)
    assert "keeps no map" in inspect_text(changed)
