"""A document is found again by its id, without reading what is not needed."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading import documents
from vitruvius.data.reading.documents import ReadOptions, read_file
from vitruvius.data.reading.finding import read_one
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lines = [json.dumps({"text": f"line {i}", "url": f"u{i}"}).encode() + b"\n" for i in range(30)]
    lines[7] = b"not json\n"
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    (tmp_path / "long.txt").write_bytes(b"".join(b"%d\n" % i for i in range(40)) + b"\xff\n")
    (tmp_path / "short.md").write_bytes(b"a text\n")
    (tmp_path / "bad.md").write_bytes(b"a \xff text\n")
    (tmp_path / "page.html").write_bytes(b"<p>page")
    (tmp_path / "with@1").mkdir()
    (tmp_path / "with@1" / "a:2#3.txt").write_bytes(b"a name of marks\n")
    table = pa.table({"text": [*(f"row {i}" for i in range(1, 30)), None]})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = ReadOptions(document_bytes=60)


def test_every_document_is_found_by_its_id(corpus):
    inputs = find_inputs(["."])
    every = [one for file in inputs.files for one in read_file(file, OPTIONS)]
    ids = [one.id for one in every if isinstance(one, Document)]
    assert len(ids) == len(set(ids)) > 110
    for one in every:
        if isinstance(one, Document):
            assert read_one(inputs, one.id, OPTIONS) == one


def test_what_was_refused_is_found_too(corpus):
    inputs = find_inputs(["."])
    refused = read_one(inputs, "a.jsonl:8", OPTIONS)
    assert isinstance(refused, Refusal) and refused.reason == "invalid_json"
    assert read_one(inputs, f"a.jsonl@{refused.byte_offset}", OPTIONS) == refused
    for document_id in ("t.parquet#30", "t.arrow#30"):
        assert read_one(inputs, document_id, OPTIONS).reason == "wrong_type"
    assert read_one(inputs, "bad.md", OPTIONS).reason == "invalid_utf8"


def test_a_line_may_be_named_by_its_number(corpus):
    inputs = find_inputs(["."])
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert read_one(inputs, f"{name}:30", OPTIONS).text == "line 29"


@pytest.mark.parametrize("document_id", ["a.jsonl@{}", "t.parquet#29"])
def test_only_the_needed_part_of_a_file_is_read(corpus, monkeypatch, document_id):
    inputs = find_inputs(["."])
    offset = (corpus / "a.jsonl").read_bytes().index(b'{"text": "line 29"')
    seen = []

    def counted(stream, name, options, span, inner=documents.READERS["jsonl"]):
        for one in inner(stream, name, options, span):
            seen.append(one)
            yield one

    monkeypatch.setitem(documents.READERS, "jsonl", counted)
    found = read_one(inputs, document_id.format(offset), OPTIONS)
    assert isinstance(found, Document) and found.line in {29, 30}
    assert len(seen) <= 1


@pytest.mark.parametrize(
    ("document_id", "said"),
    [
        ("a.jsnl@0", r"no input has a document of this id; did you mean a document of a\.jsonl\?"),
        ("something else", "no input has a document of this id"),
        ("", "no input has a document of this id"),
        ("a.jsonl@5", r"no document of a\.jsonl begins at byte 5; did you mean a\.jsonl@0\?"),
        ("a.jsonl@60", r"did you mean a\.jsonl@32\?"),
        ("a.jsonl@99999999", r"no document of a\.jsonl begins at byte 99,999,999"),
        ("a.jsonl@" + "9" * 19, "begins at byte"),
        ("a.jsonl@" + "9" * 40, "no input has a document"),
        ("a.jsonl", r"a\.jsonl has several documents"),
        ("a.jsonl:0", "has no record of line 0"),
        ("a.jsonl:31", "has no record of line 31"),
        ("a.jsonl#3", "has no row 3"),
        ("b.jsonl.gz@5", "begins at byte 5"),
        ("b.jsonl.gz@99999999", "begins at byte 99,999,999"),
        ("long.txt", "has several documents"),
        ("long.txt@7", "begins at byte 7"),
        ("t.parquet#0", "has no row 0"),
        ("t.parquet#31", "has no row 31"),
        ("t.arrow#31", "has no row 31"),
        ("page.html@3", "begins at byte 3"),
        ("short.md:1", "has no record of line 1"),
    ],
)
def test_an_unknown_id_is_answered_with_what_it_may_have_meant(corpus, document_id, said):
    with pytest.raises(DataError, match=said) as error:
        read_one(find_inputs(["."]), document_id, OPTIONS)
    assert error.value.where == document_id and error.value.fix


def test_a_damaged_file_says_so_instead_of_losing_the_id(corpus):
    content = (corpus / "b.jsonl.gz").read_bytes()
    (corpus / "b.jsonl.gz").write_bytes(content[: len(content) // 2])
    (corpus / "t.parquet").write_bytes(b"PAR1 and no footer")
    inputs = find_inputs(["."])
    for document_id in ("b.jsonl.gz@99999", "t.parquet#3"):
        with pytest.raises(DataError, match=r"begins at byte|has no row"):
            read_one(inputs, document_id, OPTIONS)
