"""Units: however the inputs are cut, and in whatever order they are named, the same documents come out."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.document import Document
from vitruvius.data.reading.documents import InputFile, ReadOptions
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.reading.units import Tally, Unit, first_lines, read_unit, units_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.data.reading.inputs import Inputs


def records(inputs: Inputs, unit_bytes: int, **options) -> list[tuple]:
    """Everything that is read, unit after unit, with lines counted from the start of each file."""
    units = [Unit.from_json(json.loads(json.dumps(unit.as_json()))) for unit in units_of(inputs, unit_bytes=unit_bytes)]
    found, lines = [], []
    for unit in units:
        tally = Tally()
        found.append(list(read_unit(unit, ReadOptions(**options), tally=tally)))
        lines.append(tally.lines)
    return [
        (one.file, None if one.line is None else one.line + before, one.byte_offset)
        + ((one.id, one.text, one.url) if isinstance(one, Document) else (one.reason, one.detail))
        for before, unit in zip(first_lines(units, lines), found, strict=True)
        for one in unit
    ]


LINES = st.lists(
    st.sampled_from(
        [b'{"text": "a"}', b"", b"{", b'{"text": "' + b"x" * 90 + b'"}', b"\xff", b'{"text": "b", "url": "u"}']
    ),
    max_size=30,
)


@settings(max_examples=80)
@given(LINES, st.booleans(), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 60), st.sampled_from([50, 1000]))
def test_a_cut_file_gives_what_the_whole_one_does(tmp_path_factory, lines, ended, newline, unit_bytes, limit):
    folder = tmp_path_factory.mktemp("cut")
    (folder / "a.jsonl").write_bytes(newline.join(lines) + (newline if ended else b""))
    inputs = find_inputs([folder])
    assert records(inputs, unit_bytes, limit=limit) == records(inputs, 2**30, limit=limit)


def test_a_line_longer_than_several_units_is_read_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n')
    inputs = find_inputs([path])
    assert len(units_of(inputs, unit_bytes=100)) == 51
    assert [row[1] for row in records(inputs, 100)] == [1, 2, 3]


@pytest.fixture
def corpus(tmp_path) -> Path:
    for number in range(6):
        rows = [json.dumps({"text": f"{number} {i}"}) + "\n" for i in range(40 * number)]
        (tmp_path / f"{number}.jsonl").write_text("".join(rows))
    (tmp_path / "3b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "5.jsonl").read_bytes()))
    (tmp_path / "a.txt").write_text("a text\n" * 100)
    (tmp_path / "page.html").write_text("<p>page")
    return tmp_path


@pytest.mark.parametrize("unit_bytes", [1, 100, 3000, 2**30])
def test_the_documents_do_not_depend_on_the_size_of_units(corpus, unit_bytes):
    whole = records(find_inputs([corpus]), 2**40)
    assert records(find_inputs([corpus]), unit_bytes) == whole
    assert len({row[3] for row in whole}) == len(whole) == 600 + 200 + 2


def test_the_units_do_not_depend_on_the_order_of_arguments(corpus):
    other = corpus / ".." / corpus.name
    orders: Sequence[list[Path]] = (
        [corpus, corpus / "2.jsonl", other],
        [other, corpus, corpus / "2.jsonl"],
        [corpus / "2.jsonl", other / "3.jsonl", other, corpus],
    )
    found = [units_of(find_inputs(order), unit_bytes=1000) for order in orders]
    assert found[0] == found[1] == found[2]
    counts = [find_inputs(order).passed_over for order in orders]
    assert counts[0] == counts[1] == counts[2]


def test_small_files_share_a_unit_and_large_ones_do_not(corpus):
    units = units_of(find_inputs([corpus]), unit_bytes=1500)
    shape = [[part.file.path.name for part in unit.parts] for unit in units]
    assert shape[0] == ["0.jsonl", "1.jsonl"]
    assert ["5.jsonl"] in shape and ["a.txt", "page.html"] in shape
    assert all(sum(part.size for part in unit.parts) <= 1500 or len(unit.parts) == 1 for unit in units)


def test_parquet_is_cut_at_row_groups(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = pa.table({"text": [f"text {i} " * 20 for i in range(100)]})
    parquet.write_table(rows, tmp_path / "a.parquet", row_group_size=7)
    inputs = find_inputs([tmp_path])
    assert len(units_of(inputs, unit_bytes=500)) > 4
    whole = records(inputs, 2**40)
    assert [row[1] for row in whole] == list(range(1, 101))
    assert records(inputs, 500) == records(inputs, 1) == whole


def test_a_damaged_parquet_file_is_a_unit_with_a_refusal(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 5000 + b"PAR1")
    (row,) = records(find_inputs([tmp_path]), 100)
    assert row[3] == "corrupt_table"


def test_utf_16_is_refused_once_however_it_is_cut(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(('{"text": "a"}\n' * 100).encode("utf-16"))
    assert records(find_inputs([tmp_path]), 50) == records(find_inputs([tmp_path]), 2**40)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b'{"text": "b"}\n' * 9), r"was cut from 140 to 126 bytes"),
        (lambda path: path.write_bytes(b'{"text": "b"}\n' * 11), r"grew from 140 to 154 bytes"),
        (lambda path: os.utime(path, ns=(1, 1)), r"was written to"),
        (lambda path: path.unlink(), r"cannot be read: No such file"),
    ],
    ids=["cut", "grown", "written", "gone"],
)
def test_a_file_that_changed_since_the_plan_is_named(tmp_path, change, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 10)
    (unit,) = units_of(find_inputs([path]))
    change(path)
    with pytest.raises(DataError, match=said) as error:
        list(read_unit(unit, ReadOptions()))
    assert "a.jsonl" in error.value.where


def test_a_name_that_is_not_utf_8_comes_back_from_json(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(b'{"text": "a"}\n')
    inputs = find_inputs([tmp_path])
    (row,) = records(inputs, 100)
    assert row[0].endswith("caf\\udce9.jsonl") and row[3].encode()
    (unit,) = units_of(inputs)
    assert json.dumps(unit.as_json(), ensure_ascii=False).encode()
    assert Unit.from_json(unit.as_json()) == unit


def test_nothing_is_read_of_a_unit_before_it_is_asked_for(tmp_path):
    unit = Unit.from_json({"parts": []})
    assert list(read_unit(unit, ReadOptions())) == []
    missing = InputFile(name="gone", path=tmp_path / "gone.jsonl", kind="jsonl")
    with pytest.raises(DataError, match="gone"):
        units_of(type(find_inputs([__file__]))(files=(missing,), passed_over={}))
