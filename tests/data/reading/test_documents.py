"""Reading: every kind of damage has a stated fate, and costs one record."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING

import pytest

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.reasons import DAMAGE, HARMLESS
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def texts_of(path: Path, kind: str, **options) -> Iterator[str | Refusal]:
    file = InputFile(name=path.name, path=path, kind=kind)
    for found in read_file(file, ReadOptions(**options)):
        yield found if isinstance(found, Refusal) else found.text


def read(path: Path, content: bytes, kind: str, **options) -> list[str | Refusal]:
    path.write_bytes(content)
    return list(texts_of(path, kind, **options))


GOOD = b'{"text": "good"}\n'

JSONL_FATES = {
    "blank line": (b"\n", "blank_line"),
    "line of spaces": (b" \t \r\n", "blank_line"),
    "empty text": (b'{"text": ""}\n', "empty"),
    "white space only": (b'{"text": " \\n\\u00a0"}\n', "empty"),
    "NUL in the line": (b'{"text": "a\0b"}\n', "binary"),
    "NUL by escape": (b'{"text": "a\\u0000b"}\n', "binary"),
    "binary": (b"\x89PNG\r\n", "invalid_utf8"),
    "bad byte": (b'{"text": "caf\xe9"}\n', "invalid_utf8"),
    "UTF-8 of a surrogate": (b'{"text": "\xed\xa0\x80"}\n', "invalid_utf8"),
    "lone surrogate": (b'{"text": "a\\ud800b"}\n', "lone_surrogate"),
    "low surrogate": (b'{"text": "\\udfff"}\n', "lone_surrogate"),
    "NaN": (b'{"text": "a", "score": NaN}\n', "nan_or_infinity"),
    "negative infinity": (b'{"text": "a", "score": -Infinity}\n', "nan_or_infinity"),
    "number": (b'{"text": 7}\n', "wrong_type"),
    "null": (b'{"text": null}\n', "wrong_type"),
    "list": (b'{"text": ["a"]}\n', "wrong_type"),
    "other field": (b'{"txt": "a"}\n', "missing_field"),
    "array": (b'["text"]\n', "not_an_object"),
    "string": (b'"text"\n', "not_an_object"),
    "cut in the middle": (b'{"text": "a\n', "invalid_json"),
    "plain text": (b"hello\n", "invalid_json"),
    "nested too deeply": (b"[" * 100_000 + b"\n", "invalid_json"),
    "number of 5,000 digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "invalid_json"),
    "raw line break in a string": (b'{"text": "a\rb"}\n', "invalid_json"),
}


@pytest.mark.parametrize(("line", "reason"), JSONL_FATES.values(), ids=JSONL_FATES.keys())
def test_a_bad_line_costs_itself_and_nothing_else(tmp_path, line, reason):
    first, refused, last = read(tmp_path / "a.jsonl", GOOD + line + GOOD, "jsonl")
    assert first == last == "good"
    assert isinstance(refused, Refusal)
    assert (refused.file, refused.line, refused.byte_offset) == ("a.jsonl", 2, len(GOOD))
    assert refused.reason == reason


def test_every_reason_has_an_explanation_and_one_character():
    assert not DAMAGE.keys() & HARMLESS.keys()
    assert all((DAMAGE | HARMLESS).values())


JSONL_KEPT = {
    "last line without a newline": (b'{"text": "a"}', "a"),
    "CRLF line ends": (b'{"text": "a"}\r\n', "a"),
    "CRLF in the text": (b'{"text": "a\\r\\nb\\rc"}\n', "a\nb\rc"),
    "byte-order mark": (b'\xef\xbb\xbf{"text": "a"}\n', "a"),
    "the last of doubled keys": (b'{"text": "a", "text": "b"}\n', "b"),
    "a surrogate pair": (b'{"text": "\\ud83d\\ude00"}\n', "\U0001f600"),
    "zero-width and tag characters": (b'{"text": "a\\u200b\\udb40\\udc41"}\n', "a\u200b\U000e0041"),
    "decomposed letters as they are": (b'{"text": "e\\u0301"}\n', "e\u0301"),
    "an ANSI escape": (b'{"text": "\\u001b[31m"}\n', "\x1b[31m"),
    "a huge exponent elsewhere": (b'{"text": "a", "n": 1e999}\n', "a"),
}


@pytest.mark.parametrize(("content", "text"), JSONL_KEPT.values(), ids=JSONL_KEPT.keys())
def test_what_is_kept_comes_out_as_stated(tmp_path, content, text):
    assert read(tmp_path / "a.jsonl", content, "jsonl") == [text]


def test_a_truncated_last_line_is_called_that(tmp_path):
    _, refused = read(tmp_path / "a.jsonl", GOOD + b'{"text": "ha', "jsonl")
    assert isinstance(refused, Refusal) and refused.reason == "truncated_last_line" and refused.line == 2


def test_the_text_may_live_in_another_field(tmp_path):
    assert read(tmp_path / "a.jsonl", b'{"body": "b", "text": 1}\n', "jsonl", field="body") == ["b"]


def test_a_line_over_the_limit_is_refused_by_offset_and_the_next_is_read(tmp_path):
    line = b'{"text": "' + b"x" * 5000 + b'"}\n'
    _, refused, last = read(tmp_path / "a.jsonl", GOOD + line + GOOD, "jsonl", limit=1000)
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.line, refused.byte_offset) == ("too_long", 2, len(GOOD))
    assert f"{len(line):,} bytes" in refused.detail
    assert last == "good"


@pytest.mark.parametrize("length", [999, 1000, 1001, 1002], ids=str)
@pytest.mark.parametrize("end", [b"\n", b""], ids=["newline", "end of file"])
def test_the_limit_counts_the_line_without_its_newline(tmp_path, length, end):
    line = b'{"text": "' + b"x" * (length - 12) + b'"}'
    assert len(line) == length
    (found,) = read(tmp_path / "a.jsonl", line + end, "jsonl", limit=1000)
    assert isinstance(found, str) == (length <= 1000)


def test_a_line_of_100_megabytes_never_gets_into_memory(measured, tmp_path):
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"text": "')
        file.truncate(100 * 2**20)
        file.seek(0, os.SEEK_END)
        file.write(b'"}\n' + GOOD)
    code = """
import sys
from pathlib import Path
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
base = peak()
file = InputFile(name="huge", path=Path(sys.argv[1]), kind="jsonl")
print([getattr(found, "text", None) or found.reason for found in read_file(file, ReadOptions())])
print(peak() - base)
"""
    found, grown = measured(code, path)
    assert found == "['good', 'too_long', 'good']"
    assert int(grown) < 64 * 2**20


def test_gzip_is_read_through(tmp_path):
    assert read(tmp_path / "a.jsonl.gz", gzip.compress(GOOD * 3), "jsonl") == ["good"] * 3


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-20], lambda raw: raw[:2000] + b"\xff" * 50 + raw[2050:], lambda raw: b"not gzip" + raw],
    ids=["cut", "overwritten", "no gzip at all"],
)
def test_a_damaged_gzip_file_loses_its_rest_and_says_from_where(tmp_path, damage):
    lines = b"".join(json.dumps({"text": f"line {i} {i * i}"}).encode() + b"\n" for i in range(2000))
    *good, refused = read(tmp_path / "a.jsonl.gz", damage(gzip.compress(lines)), "jsonl")
    assert isinstance(refused, Refusal) and refused.reason == "corrupt_stream"
    assert refused.byte_offset <= len(lines)
    # Before the damage all is well; right after it a stream may unpack to nonsense before it notices.
    whole = 0 if damage(b"x").startswith(b"not") else 200
    assert good[:whole] == [f"line {i} {i * i}" for i in range(whole)]


def test_a_gzip_bomb_stops_at_the_stated_ratio(tmp_path):
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(GOOD)
        for _ in range(160):
            file.write(b" " * 2**20)
    assert bomb.stat().st_size * 200 < 160 * 2**20
    good, refused = texts_of(bomb, "jsonl")
    assert good == "good"
    assert isinstance(refused, Refusal) and refused.reason == "decompression_bomb"
    assert refused.byte_offset < 160 * 2**20


def test_a_text_file_is_one_document(tmp_path):
    assert read(tmp_path / "a.txt", b"one\r\n\r\ntwo", "text") == ["one\n\ntwo"]


def test_a_byte_order_mark_is_removed_only_at_the_start_of_the_file(tmp_path):
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb", "text") == ["a\n\ufeffb"]


@pytest.mark.parametrize("kind", ["text", "source"])
@pytest.mark.parametrize(
    ("content", "reason", "line", "offset"),
    [
        (b"", "empty", 1, 0),
        (b" \n\n", "empty", 1, 0),
        (b"ab\ncd\0", "binary", 2, 5),
        (b"ab\n\ncd\xff\xfe", "invalid_utf8", 3, 6),
        ("UTF-16".encode("utf-16"), "utf16", 1, 0),
    ],
    ids=["no bytes", "line breaks only", "NUL", "bad byte", "UTF-16"],
)
def test_a_bad_text_or_source_file_is_refused_at_the_bad_byte(tmp_path, kind, content, reason, line, offset):
    (refused,) = read(tmp_path / "a", content, kind)
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.line, refused.byte_offset) == (reason, line, offset)


def test_a_long_text_file_is_cut_at_line_ends_and_nothing_is_lost(tmp_path):
    content = "".join(f"line {i}\n" for i in range(100))
    pieces = read(tmp_path / "a.txt", content.encode(), "text", document_bytes=100)
    assert len(pieces) > 5
    assert all(isinstance(piece, str) and len(piece) <= 100 and piece.endswith("\n") for piece in pieces)
    assert "".join(map(str, pieces)) == content


def test_a_line_longer_than_a_document_is_a_document(tmp_path):
    assert read(tmp_path / "a.txt", b"ab\n" + b"x" * 50 + b"\ncd\n", "text", document_bytes=10) == [
        "ab\n",
        "x" * 50 + "\n",
        "cd\n",
    ]


def test_a_bad_byte_in_a_long_text_file_loses_one_piece(tmp_path):
    found = read(tmp_path / "a.txt", b"aaaa\n" + b"b\xffbb\n" + b"cccc\n", "text", document_bytes=5)
    assert found[0] == "aaaa\n" and found[2] == "cccc\n"
    assert isinstance(found[1], Refusal) and (found[1].line, found[1].byte_offset) == (2, 6)


@pytest.mark.parametrize("kind", ["html", "source"])
def test_a_file_that_cannot_be_cut_is_refused_over_the_limit(tmp_path, kind):
    (refused,) = read(tmp_path / "a", b"x" * 1001, kind, limit=1000)
    assert isinstance(refused, Refusal) and refused.reason == "too_long"
    assert read(tmp_path / "a", b"x" * 1000, kind, limit=1000)[0]


def test_an_html_page_in_another_declared_encoding_is_read(tmp_path):
    page = '<meta charset="iso-8859-1"><p>café'.encode("latin-1")
    assert read(tmp_path / "a.html", page, "html") == ['<meta charset="iso-8859-1"><p>café']


@pytest.mark.parametrize("charset", ["base64", "none-such", "utf-8"])
def test_an_html_page_with_a_wrong_declaration_is_refused(tmp_path, charset):
    (refused,) = read(tmp_path / "a.html", f'<meta charset="{charset}"><p>caf'.encode() + b"\xe9", "html")
    assert isinstance(refused, Refusal) and refused.reason == "invalid_utf8"


def test_a_page_keeps_its_markup_for_the_steps_that_follow(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(b"<p>a&#xD800;b\r\n")
    (page,) = read_file(InputFile(name="a.html", path=path, kind="html"), ReadOptions())
    assert isinstance(page, Document)
    assert (page.id, page.line, page.markup, page.text) == ("a.html", None, "html", "<p>a&#xD800;b\n")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf"], ids=["no bytes", "spaces", "mark only"])
def test_a_page_of_nothing_is_empty(tmp_path, content):
    (refused,) = read(tmp_path / "a.html", content, "html")
    assert isinstance(refused, Refusal) and refused.reason == "empty"


def test_a_nul_in_a_page_is_refused_at_its_byte(tmp_path):
    (refused,) = read(tmp_path / "a.html", "<p>é\n\0".encode(), "html")
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.line, refused.byte_offset) == ("binary", 2, 6)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "growing.jsonl"
    path.write_bytes(GOOD * 2)
    documents = texts_of(path, "jsonl")
    assert next(documents) == "good"
    with path.open("ab") as file:
        file.write(GOOD)
    with pytest.raises(DataError, match=r"growing\.jsonl\n.*changed while it was read"):
        list(documents)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        list(texts_of(tmp_path / "pipe", "text"))
