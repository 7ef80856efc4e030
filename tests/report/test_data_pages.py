"""Pages and pictures of prepared data, from plain JSON."""

from __future__ import annotations

import copy
import itertools
import re
from xml.etree import ElementTree as ET

import pytest

from vitruvius.report.data_blocks import Code, Heading, Items, Picture, Said, Table, Words, as_html, as_markdown
from vitruvius.report.data_document import explanation_text, sample_text, value_text
from vitruvius.report.data_funnel import ends_of
from vitruvius.report.data_page import statistics_page, statistics_svg
from vitruvius.report.data_text import share, shown_token, statistics_text

EVIL = '<b onload="x">\x1b[2J & "quoted" | `code`'


def lengths(documents, tokens):
    """Lengths as the statistics have them."""
    edges = [0, 16, 64, 256, 4096]
    bins = [{"above": a, "up_to": b, "documents": 0, "tokens": 0} for a, b in itertools.pairwise(edges)]
    bins[1] |= {"documents": documents - 1, "tokens": tokens // 4}
    bins[3] |= {"documents": 1, "tokens": tokens - tokens // 4}
    context = {"documents_truncated": 1, "tokens_truncated": 10, "slots_empty": 100}
    over = {"documents": 1, "documents_share": 1 / documents, "tokens": 30, "tokens_share": 0.1}
    return {
        "documents": documents,
        "tokens": tokens,
        "shortest": 17,
        "longest": 3000,
        "mean": tokens / documents,
        "quantiles": {"0.5": 40, "0.999": 3000},
        "token_weighted_median": 3000,
        "longer_than": [
            {"tokens_over": 2048, **over},
            {"tokens_over": 4096, "documents": 0, "documents_share": 0.0, "tokens": 0, "tokens_share": 0.0},
            {"tokens_over": 8192, "documents": 0, "documents_share": 0.0, "tokens": 0, "tokens_share": 0.0},
        ],
        "contexts": [
            {"context": size, **context, "tokens_truncated_share": 0.3 / place, "slots_empty_share": 1 - 0.7 / place}
            for place, size in enumerate((512, 2048, 131_072), 1)
        ],
        "histogram": bins,
    }


def frequencies(used=100):
    counts = [10_000 // rank for rank in range(1, used + 1)]
    return {
        "vocab_size": 300,
        "text_tokens": sum(counts),
        "separators": 9,
        "used": used,
        "unused": 299 - used,
        "unused_share": (299 - used) / 300,
        "unused_special": 3,
        "rare_below": 100,
        "rare": 1,
        "entropy_bits": 5.5,
        "tokens_for_half": 12,
        "zipf": {"exponent": 1.0, "r_squared": 0.99, "from_rank": 10, "to_rank": used, "line_at_rank_1": 1e4},
        "ranks": [{"rank": rank, "count": counts[rank - 1]} for rank in (1, 3, 10, 30, used)],
        "most_frequent": [
            {"id": 1, "text": EVIL, "bytes_hex": "3c", "count": 10_000, "share": 0.2},
            {"id": 2, "text": " the\n", "bytes_hex": "20", "count": 5_000, "share": 0.1},
        ],
    }


def part(documents, tokens):
    text = tokens - documents
    return {
        "documents": documents,
        "tokens": tokens,
        "text_tokens": text,
        "text_bytes": 4 * text,
        "bytes_per_token": 4.0 if text else None,
    }


@pytest.fixture
def whole():
    """Statistics with something in every part."""
    clusters = {"dropped": 9, "without_keeper": 0, "clusters": 3, "largest": 5}
    sizes = [{"from": 2, "to": 2, "clusters": 2, "documents": 4}, {"from": 3, "to": 4, "clusters": 1, "documents": 4}]
    bins = [{"from": i / 10, "to": (i + 1) / 10, "documents": i % 3} for i in range(10)]
    return {
        "directory": "data",
        "fingerprint": "f" * 64,
        "vocab_size": 300,
        "eos": "<|endoftext|>",
        "whole": part(90, 9_000),
        "splits": [
            {"name": "train", **part(80, 8_000), "shards": 1},
            {"name": "validation", **part(10, 1_000), "shards": 1},
        ],
        "sources": [
            {"name": "web", "weight": 0.7, **part(60, 6_000), "documents_in": 70, "splits": {}},
            {"name": "code", "weight": 0.3, **part(30, 3_000), "documents_in": 32, "splits": {}},
        ],
        "funnel": {
            "documents_in": 102,
            "documents_out": 90,
            "dropped": [
                {"reason": "invalid_json", "sort": "damage", "meaning": "the line is not JSON", "documents": 1},
                {"reason": "odd_rule", "sort": "rule", "meaning": None, "documents": 2},
                {"reason": "near_duplicate", "sort": "duplicate", "meaning": "nearly the same", "documents": 9},
            ],
        },
        "changed": [{"name": "pii.emails", "step": "pii", "meaning": "addresses masked", "count": 12_345}],
        "lengths": {"train": lengths(80, 8_000), "validation": lengths(10, 1_000), "all": lengths(90, 9_000)},
        "packing": [
            {"context": size, "windows": 1, "documents_cut": 20, "tokens_left_out": 3} for size in (512, 2048, 131_072)
        ],
        "tokens": {
            "train": frequencies(),
            "validation": frequencies(50),
            "validation_only": 2,
            "validation_only_tokens": 5,
        },
        "overlap": {
            "ngram_tokens": 13,
            "ngram_bytes": 52.0,
            "documents": 10,
            "documents_examined": 9,
            "sampled": True,
            "documents_identical_in_train": 1,
            "documents_too_short": 1,
            "documents_without_overlap": 3,
            "documents_covered": 1,
            "ngrams": 900,
            "ngrams_in_train": 90,
            "ngrams_in_train_share": 0.1,
            "documents_by_share": bins,
            "worst": [{"document": 3, "id": EVIL, "share": 1.0, "ngrams": 100}],
        },
        "hosts": {
            "documents_without": 2,
            "counted": 88,
            "distinct": None,
            "distinct_at_least": 40,
            "short_by_at_most": 3,
            "top": [{"name": EVIL, "count": 50}, {"name": "b.org", "count": 8}],
        },
        "duplicates": {
            "exact": clusters | {"sizes": []},
            "near": clusters | {"sizes": sizes},
            "jaccard": {"documents": 9, "lowest": 0.8012, "histogram": bins},
        },
    }


@pytest.fixture
def bare(whole):
    """Statistics of data without a document, all parts skipped."""
    found = copy.deepcopy(whole)
    found |= {"tokens": None, "overlap": None, "hosts": None, "duplicates": None, "changed": [], "sources": []}
    found |= {"whole": part(0, 0), "lengths": dict.fromkeys(("train", "validation", "all")), "packing": []}
    found["splits"] = [{"name": name, **part(0, 0), "shards": 0} for name in ("train", "validation")]
    found["funnel"] = {"documents_in": 0, "documents_out": 0, "dropped": []}
    return found


def drawings(page):
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_a_page_shows_every_part_and_stands_alone(whole):
    page = statistics_page(whole, title="A <title>")
    for heading in (
        "Where the documents went",
        "What was rewritten",
        "How long",
        "Tokens",
        "shares",
        "Duplicates",
        "Hosts",
    ):
        assert heading in page
    assert len(drawings(page)) == 7
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<b onload" not in page and "\x1b" not in page
    for drawing in drawings(page):
        ET.fromstring(drawing)
        assert "var(--" in drawing
        assert "#0b62a4" not in drawing


def test_a_picture_is_an_svg_of_its_own_with_a_description(whole):
    text = statistics_svg(whole, title="A <title>")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert {"a", "b", "c", "d", "e", "f"} <= {words.split()[0] for words in root.itertext() if words.strip()}
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.attrib.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert x >= -0.01 and x + w <= width + 0.01 and y >= -0.01 and y + h <= height + 0.01
        assert w >= 0 and h >= 0


@pytest.mark.parametrize("draw", [statistics_page, statistics_svg])
def test_data_without_documents_is_drawn_too(bare, draw):
    made = draw(bare, title="nothing")
    assert "0 documents of 0 read" in made
    assert "nan" not in made.lower().replace("nano", "")


@pytest.mark.parametrize("part_name", ["tokens", "overlap", "hosts", "duplicates"])
def test_a_part_that_was_left_out_is_left_out(whole, part_name):
    whole[part_name] = None
    assert len(drawings(statistics_page(whole, title="x"))) < 8
    ET.fromstring(statistics_svg(whole, title="x"))
    statistics_text(whole)


def test_streams_are_as_wide_as_what_flows_in_them(whole):
    text = statistics_svg(whole, title="x")
    heights = []
    for data in re.findall(r'<path d="(M[^"]*)" fill="[^"]*" fill-opacity', text):
        upper, lower = re.search(r"([\d.]+)V([\d.]+)C", data).groups()
        heights.append(float(lower) - float(upper))
    documents = [80, 10, 1, 2, 9]
    assert heights == pytest.approx([240 * count / 102 for count in documents], abs=0.02)


def test_many_reasons_stand_together_by_their_sort_and_no_document_is_lost(whole):
    whole["funnel"]["dropped"] = [
        {"reason": f"{sort}_{i}", "sort": sort, "meaning": None, "documents": 1 + i}
        for sort in ("damage", "harmless", "rule", "duplicate")
        for i in range(12)
    ]
    ends = ends_of(whole)
    assert sum(count for _, _, count in ends[2:]) == 4 * 78
    assert len(ends) <= 2 + 16
    assert "7 more rules" in [name for name, _, _ in ends] or any("more rules" in name for name, _, _ in ends)
    sorts = [sort for _, sort, _ in ends[2:]]
    assert sorts == sorted(sorts, key=["damage", "harmless", "rule", "duplicate"].index)


def test_the_terminal_gets_every_number(whole):
    text = statistics_text(whole)
    for words in (
        "9,000",
        "pii.emails",
        "12,345",
        "3,000",
        "rank^-1.000",
        "0.8012",
        "b.org",
        "low by up to 3",
        "weight 0.7",
    ):
        assert words in text
    # 4,096 is the first length that no document is over; those above say nothing more.
    assert "  4,096 " in text and "  8,192 " not in text
    assert "\x1b" not in text


def test_a_share_is_never_nothing_for_something_nor_all_for_less():
    assert [share(value) for value in (None, 0, 0.00001, 0.5, 0.999999, 1)] == [
        "-",
        "0.00%",
        "<0.01%",
        "50.00%",
        ">99.99%",
        "100.00%",
    ]


def test_blanks_and_escapes_of_a_token_are_made_visible():
    assert shown_token(" a\n\x1b") == r"␣a\n\x1b"
    assert shown_token("") == "(no text)"


# ---------------------------------------------------------------------------------------------------------- documents


def story(**others):
    base = {
        "id": EVIL,
        "kept": False,
        "end": {
            "reason": "x",
            "sort": "rule",
            "detail": "",
            "step": "s",
            "value": 0.31,
            "relation": "at most",
            "limit": 0.3,
        },
        "place": {"file": "a", "kind": "text", "source": "all", "line": None, "byte_offset": 0},
        "text": {"of": None, "characters": None, "bytes": None, "start": None},
        "recipe": None,
        "steps": None,
        "agrees": None,
        "duplicate": None,
        "duplicates_dropped": None,
        "notes": [],
    }
    return base | others


def test_a_story_without_its_source_is_short():
    text = explanation_text(story(notes=["not read again: gone"]))
    assert "0.31, must be <= 0.3" in text
    assert "note: not read again: gone" in text
    assert "\x1b" not in text


def test_a_story_marks_the_steps_that_failed():
    step = {"index": 0, "source": "Someone 2020", "characters_before": 10, "characters_after": 9, "difference": None}
    fails = {"reason": "few", "value": 3, "relation": "at least", "limit": 12, "passed": False}
    steps = [
        step | {"step": "rule", "passed": False, "measures": [fails], "changes": {}},
        step | {"step": "mask", "passed": True, "measures": [], "changes": {"emails": 1}},
    ]
    text = explanation_text(story(recipe="mine", steps=steps, agrees=True))
    assert "✗ 1. rule  (Someone 2020)\n    ✗ few: 3, must be >= 12" in text
    assert "✓ 1. mask\n    changed: emails 1; 10 -> 9 characters" in text
    assert "it ends as the data says" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (100_000, "100,000"),
        (0.123456, "0.1235"),
        (12345.67, "12,345.7"),
        ("de", "de"),
        (True, "True"),
    ],
)
def test_measures_are_shown_as_people_read_them(value, text):
    assert value_text(value) == text


def test_places_in_a_table_are_rows():
    table = {"file": "t.parquet", "kind": "parquet", "source": "all", "line": 1_010, "byte_offset": 1_010}
    text = explanation_text(story(place=table))
    assert "row     1,010" in text
    assert "line" not in text and "byte" not in text


def test_a_sample_of_nothing_says_so():
    drawn = {"dropped_by": "x", "split": None, "source": "web", "population": 0, "seed": 3, "documents": []}
    assert sample_text(drawn) == "0 of 0 documents dropped for x of source web, seed 3"


# ------------------------------------------------------------------------------------------------------------- blocks


def test_blocks_are_markdown_and_html_of_which_nothing_can_break_out():
    blocks = [
        Heading(text=EVIL),
        Words(text=EVIL),
        Said(question="What?", answer=EVIL),
        Said(question="Who?", answer=None),
        Items(items=(EVIL,)),
        Items(items=(EVIL,), kind="names"),
        Table(head=("a", "b"), rows=((EVIL, EVIL),), align="<>", mono=(1,)),
        Code(text="```\n" + EVIL),
        Picture(svg="<svg/>"),
        Table(head=("a",), rows=(), align="<"),
    ]
    text = as_markdown(blocks)
    assert text.startswith(r"## \<b onload")
    assert "**Who?** *not stated*" in text
    assert "````\n```\n" in text
    row = next(line for line in text.split("\n") if line.startswith("| \\<b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<svg" not in text
    page = "\n".join(as_html(blocks))
    assert "<b onload" not in page
    assert '<span class="soft">not stated</span>' in page
    assert "<svg/>" in page
    assert page.count("<table") == 1
