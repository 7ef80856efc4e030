"""Lines of JSON: one fate each, whichever parser is installed, and however the file is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.jsonl import DEPTH, MOST_CONTAINERS, MOST_VALUES, Record, fast_parser, json_record
from vitruvius.data.reading.text import Problem

pytest.importorskip("orjson")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
ANY_STRING = st.text(st.characters(exclude_categories=()), max_size=30)
"""Lone surrogates too."""


def both(content: bytes, **options) -> Record | Problem:
    """The fate of a line, asserted to be that of either parser."""
    settings_ = ReadOptions(**options)
    fast = json_record(content, settings_, fast=fast_parser())
    assert fast == json_record(content, settings_, fast=None)
    return fast


@given(JSON | st.dictionaries(st.sampled_from(["text", "url", "x"]), JSON | ANY_STRING), st.booleans())
def test_any_value_has_one_fate(value, ascii_only):
    both(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["text", "url", "x"]), JSON | ANY_STRING, min_size=1),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3) | st.sampled_from([b"\\", b'"', b"[", b"}", b"\\ud8"]))),
)
def test_any_damage_has_one_fate(value, damage):
    content = bytearray(json.dumps(value).encode())
    for place, patch in damage:
        at = int(place * len(content))
        content[at : at + 1] = patch
    both(bytes(content))


@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbf{}")
@example(b"\x0b")
@example(b"\x85")
def test_any_bytes_have_one_fate(content):
    both(content)


@pytest.mark.parametrize(
    "number",
    [
        "1e999", "-1e999", "1e-999", "9" * 400, "9" * 4300, "9" * 4301, "-0", "0.1e+1", "1" + "0" * 19, str(2**64),
        "01", "1.", ".5", "+1", "--1", "0x10", "1_000", "Infinity", "-NaN", "1e", "\u0661",
    ],
)  # fmt: skip
def test_any_number_has_one_fate(number):
    both(f'{{"text": "a", "n": {number}}}'.encode())


DOUBLED = [
    (b'{"text": "a", "text": "b"}', "b"),
    (b'{"text": "a", "\\u0074ext": "b"}', "b"),
    (b'{"text": 1, "text": "b"}', "b"),
]


@pytest.mark.parametrize(("content", "text"), DOUBLED)
def test_of_doubled_keys_the_last_counts(content, text):
    assert both(content) == Record(text, None)


@pytest.mark.parametrize("opening", ["[", '{"a":'], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [100, 130, 900, DEPTH - 1, DEPTH, DEPTH + 1, 100_000])
@pytest.mark.parametrize("doubled", [False, True], ids=["once", "covered by a later key"])
def test_nesting_is_refused_from_one_depth_on(opening, depth, doubled):
    closing = "]" if opening == "[" else "}"
    nested = opening * depth + ("1" if opening != "[" else "") + closing * depth
    later = ', "x": 1' if doubled else ""
    content = f'{{"x": {nested}, "text": "a"{later}}}'
    found = both(content.encode())
    # The line's own object is the first.
    assert found == Record("a", None) if depth < DEPTH else isinstance(found, Problem)
    if depth >= DEPTH:
        assert found == Problem("invalid_json", f"more than {DEPTH} lists and objects within each other")


@pytest.mark.parametrize("bracket", ["[", "{", "\\u005b", "\\u007B"])
def test_brackets_in_a_text_are_no_nesting(bracket):
    text = bracket * 5000
    assert both(f'{{"text": "{text}", "x": [[1]]}}'.encode()) == Record(json.loads(f'"{text}"'), None)


@pytest.mark.parametrize("escaped", ["\\u005b", "["])
def test_brackets_in_a_text_do_not_hide_nesting_elsewhere(escaped):
    deep = "[" * 1100 + "]" * 1100
    found = both(f'{{"text": "{escaped * 500}", "x": {deep}}}'.encode())
    assert isinstance(found, Problem) and found.reason == "invalid_json"


DENSE = {
    "lists": (b"[],", MOST_CONTAINERS, "too_much_memory"),
    "objects": (b'{"a":1},', MOST_CONTAINERS, "too_much_memory"),
    "numbers": (b"1.5,", MOST_VALUES, "too_much_memory"),
    "strings": (b'"ab",', MOST_VALUES, "too_much_memory"),
    "few of all": (b"[1.5],", 200_000, "kept"),
}


@pytest.mark.parametrize(("value", "count", "fate"), DENSE.values(), ids=DENSE.keys())
def test_a_line_that_would_take_much_more_memory_than_it_has_bytes_is_refused(value, count, fate):
    found = both(b'{"text": "a", "x": [' + value * count + b"1]}")
    assert (found.reason if isinstance(found, Problem) else "kept") == fate


def test_a_text_of_nothing_but_commas_and_brackets_is_a_text():
    text = ",[{" * 800_000
    assert both(json.dumps({"text": text, "x": [1]}).encode()) == Record(text, None)


@pytest.mark.slow
def test_a_line_full_of_brackets_is_read_in_linear_time():
    found = both(b'{"text": "a", "x": [' + b"[]," * 300_000 + b"1]}")
    assert found == Record("a", None)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ('"https://example.org/ä"', "https://example.org/ä"), ("null", None), ("7", None), ('""', None),
        ('["https://example.org"]', None), ('"\\ud800"', None), ('"a\\u0000b"', None),
    ],
)  # fmt: skip
def test_an_address_is_kept_where_it_is_a_string(url, kept):
    assert both(f'{{"text": "a", "url": {url}}}'.encode()) == Record("a", kept)
    assert both(f'{{"text": "a", "u": {url}}}'.encode(), url_field="u") == Record("a", kept)


def test_a_lone_surrogate_elsewhere_does_no_harm():
    assert both(b'{"text": "a", "\\ud800": "\\udfff"}') == Record("a", None)


def test_text_and_address_may_be_the_same_field():
    assert both(b'{"text": "a"}', url_field="text") == Record("a", "a")


def test_pages_in_json_keep_their_markup(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "<p>a", "url": "u"}\n')
    _, page = read_file(InputFile(name="a.jsonl", path=path, kind="jsonl"), ReadOptions(markup="html"))
    assert (page.id, page.line, page.byte_offset, page.markup, page.url) == ("a.jsonl@1", 2, 1, "html", "u")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32"])
def test_a_file_in_utf_16_is_refused_once_where_it_says_so(tmp_path, codec):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a"}\n'.encode(codec) * 3)
    reasons = [one.reason for one in read_file(InputFile(name="a", path=path, kind="jsonl"), ReadOptions())]
    assert reasons == (["utf16"] if codec != "utf-16-le" else ["binary"] * 4)


def test_a_mark_in_the_middle_of_a_file_is_no_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n{"text": "\xef\xbb\xbfc"}\n')
    first, second, third = read_file(InputFile(name="a", path=path, kind="jsonl"), ReadOptions())
    assert (first.text, second.reason, third.text) == ("a", "invalid_json", "\ufeffc")
