"""Parquet and Arrow: rows are documents, damage costs its row group, and no table is larger in memory than stated."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.document import Document
from vitruvius.data.ledger import Refusal
from vitruvius.data.reading.arrow import _field
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.parquet_footer import largest_page, row_groups
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(count: int = 10, **columns):
    base = {"text": [f"text {i}" for i in range(count)], "url": [f"u{i}" for i in range(count)]}
    return pa.table(base | {"number": list(range(count))} | columns)


def write_stream(rows, path: Path, *, rows_per_batch: int = 3, **options) -> None:
    with pa.ipc.new_stream(str(path), rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows, max_chunksize=rows_per_batch)


def write_file(rows, path: Path, *, rows_per_batch: int = 3, **options) -> None:
    with pa.ipc.new_file(str(path), rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows, max_chunksize=rows_per_batch)


def write_parquet(rows, path: Path, *, rows_per_batch: int = 3, **options) -> None:
    pq.write_table(rows, path, row_group_size=rows_per_batch, **options)


WRITERS = {"t.parquet": write_parquet, "stream.arrow": write_stream, "file.arrow": write_file}
FORMATS = pytest.mark.parametrize("name", WRITERS)


def found_in(path: Path, **options) -> list[Document | Refusal]:
    kind = "parquet" if path.suffix == ".parquet" else "arrow"
    return list(read_file(InputFile(name=path.name, path=path, kind=kind), ReadOptions(**options)))


def of(path: Path, rows, **options) -> list[Document | Refusal]:
    WRITERS[path.name](rows, path)
    return found_in(path, **options)


@FORMATS
def test_rows_are_documents_with_their_number_and_address(tmp_path, name):
    found = of(tmp_path / name, table())
    assert [one.id for one in found] == [f"{name}#{row}" for row in range(1, 11)]
    assert [one.text for one in found] == table()["text"].to_pylist()
    assert [one.url for one in found] == table()["url"].to_pylist()
    assert [(one.line, one.byte_offset) for one in found] == [(row, row) for row in range(1, 11)]


@FORMATS
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_of_any_kind_of_string_is_read(tmp_path, name, kind):
    texts = pa.array(["a\r\nb", "é", None, "", "x\0"]).cast(pa.string() if pa.types.is_dictionary(kind) else kind)
    rows = pa.table({"text": texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts})
    found = of(tmp_path / name, rows)
    assert [getattr(one, "text", None) or one.reason for one in found] == ["a\nb", "é", "wrong_type", "empty", "binary"]


@FORMATS
def test_bytes_that_are_no_utf_8_cost_one_row(tmp_path, name):
    texts = pa.array([b"a", b"caf\xe9", b"\xed\xa0\x80", b"b"], pa.binary())
    found = of(tmp_path / name, pa.table({"text": texts}))
    assert [getattr(one, "reason", "kept") for one in found] == ["kept", "invalid_utf8", "invalid_utf8", "kept"]
    # The same in a column that says it holds strings.
    unchecked = pa.StringArray.from_buffers(4, *texts.buffers()[1:])
    found = of(tmp_path / name, pa.table({"text": unchecked}))
    assert [getattr(one, "reason", "kept") for one in found] == ["kept", "invalid_utf8", "invalid_utf8", "kept"]


@FORMATS
def test_a_text_over_the_limit_is_refused_by_its_row(tmp_path, name):
    found = of(tmp_path / name, pa.table({"text": ["x" * 10, "x" * 11, "é" * 5, "é" * 6]}), limit=10)
    assert [getattr(one, "reason", "kept") for one in found] == ["kept", "too_long", "kept", "too_long"]


@FORMATS
def test_a_missing_column_is_named_with_those_there_are(tmp_path, name):
    rows = pa.table({"texts": ["a"], "number": [1], "title": ["b"]})
    with pytest.raises(DataError, match=r"no column 'text'; did you mean 'texts'\?") as error:
        of(tmp_path / name, rows)
    assert name in error.value.where and "texts, title" in error.value.fix


@FORMATS
@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], [{"a": "b"}, None], [1.5, float("nan")]], ids=repr)
def test_a_column_of_something_else_is_refused_by_its_type(tmp_path, name, values):
    with pytest.raises(DataError, match=r"the column 'text' holds .*, not strings"):
        of(tmp_path / name, pa.table({"text": values}))


@FORMATS
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    rows = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match="several columns 'text'"):
        of(tmp_path / name, rows)


@FORMATS
def test_an_address_column_of_numbers_is_no_address(tmp_path, name):
    (one,) = of(tmp_path / name, pa.table({"text": ["a"], "url": [7]}))
    assert one.url is None


@FORMATS
def test_a_table_without_rows_has_no_documents(tmp_path, name):
    assert of(tmp_path / name, table(0)) == []


@FORMATS
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"no table at all, but long enough to be one" * 9])
def test_something_else_by_that_name_is_one_refusal(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (refused,) = found_in(tmp_path / name)
    assert isinstance(refused, Refusal) and refused.reason in {"corrupt_table", "too_much_memory"}


@FORMATS
def test_a_file_cut_short_never_passes_for_a_whole_one(tmp_path, name):
    path = tmp_path / name
    whole = of(path, table(30))
    content = path.read_bytes()
    # The footer of an Arrow file repeats what the stream before it says: it is not needed.
    footer = struct.unpack("<i", content[-10:-6])[0] + 10 if name == "file.arrow" else 0
    for cut in range(0, len(content) - footer, 97):
        path.write_bytes(content[:cut])
        found = found_in(path)
        assert isinstance(found[-1], Refusal) and found[-1].reason in {"corrupt_table", "too_much_memory"}, cut
        assert found[:-1] == whole[: len(found) - 1]


def test_a_damaged_page_costs_its_row_group_and_the_next_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table(9), path, row_group_size=3, write_page_checksum=True, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 2] ^= 1
    path.write_bytes(content)
    found = found_in(path)
    assert [getattr(one, "text", None) or one.reason for one in found] == [
        *("text 0", "text 1", "text 2"), "corrupt_table", *("text 6", "text 7", "text 8"),
    ]  # fmt: skip
    assert "rows 4 to 6 (row group 2)" in found[3].detail and found[3].line == 4


@FORMATS
@settings(max_examples=60)
@given(st.data())
def test_damage_anywhere_is_a_refusal_or_an_error_with_a_name(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("flip") / name
    WRITERS[name](table(12), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert all(isinstance(one, (Document, Refusal)) for one in found_in(path))
    except DataError as error:
        # The name of a column may be what was damaged.
        assert name in error.where


def test_a_row_group_over_the_limit_is_refused_by_name_and_the_next_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    rows = pa.table({"text": ["a", "b", "c" * 5000, "d" * 5000, "e"]})
    pq.write_table(rows, path, row_group_size=2, compression="none", use_dictionary=False)
    found = found_in(path, table_bytes=5000)
    assert [getattr(one, "text", None) or one.reason for one in found] == ["a", "b", "too_much_memory", "e"]
    assert "rows 3 to 4 (row group 2)" in found[2].detail and "5,000" in found[2].detail


def test_only_needed_columns_count_and_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a"] * 3, "image": [b"x" * 10**6] * 3}), path, use_dictionary=False)
    assert [one.text for one in found_in(path, table_bytes=10_000)] == ["a"] * 3


@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_sizes_of_pages_are_read_from_their_headers(tmp_path, compression, dictionary, version):
    path = tmp_path / "t.parquet"
    texts = [f"{i} " * 50 for i in range(2000)]
    pq.write_table(
        pa.table({"text": texts}), path, compression=compression, use_dictionary=dictionary,
        data_page_version=version, data_page_size=20_000, write_statistics=True, write_batch_size=16,
    )  # fmt: skip
    with path.open("rb") as raw:
        (group,) = row_groups(raw, frozenset(["text"]))
        (chunk,) = group.chunks
        largest = largest_page(raw, chunk)
    theirs = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert (group.rows, chunk.packed, chunk.unpacked) == (
        2000, theirs.total_compressed_size, theirs.total_uncompressed_size
    )  # fmt: skip
    assert (chunk.start, chunk.has_dictionary) == (theirs.dictionary_page_offset or theirs.data_page_offset, dictionary)
    assert chunk.unpacked / 50 < largest <= chunk.unpacked
    assert dictionary or largest < 40_000


def test_a_page_over_the_limit_is_refused_whatever_the_footer_says(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a" * 100_000]}), path, compression="zstd", use_dictionary=False)
    (refused,) = found_in(path, batch_bytes=50_000)
    assert refused.reason == "too_much_memory" and "a page of 100,0" in refused.detail


def test_a_parquet_bomb_stops_at_the_stated_ratio(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a" * 2**20] * 4}), path, compression="zstd", use_dictionary=False)
    (refused,) = found_in(path, bomb_floor_bytes=1 << 20)
    assert refused.reason == "decompression_bomb"
    assert [len(one.text) for one in found_in(path)] == [2**20] * 4


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("write", [write_stream, write_file])
def test_a_batch_over_the_limit_is_refused_before_it_is_read(tmp_path, write, compression):
    path = tmp_path / "t.arrow"
    write(pa.table({"text": ["a", "b", "c", "x" * 10**6]}), path, compression=compression)
    *good, refused = found_in(path, batch_bytes=100_000)
    assert [one.text for one in good] == ["a", "b", "c"]
    assert refused.reason == "too_much_memory" and refused.detail.startswith("from row 4 on: a batch of 1,0")


def test_a_dictionary_batch_counts_too(tmp_path):
    path = tmp_path / "t.arrow"
    texts = pa.array(["x" * 10**6, "y"]).dictionary_encode()
    write_stream(pa.table({"text": texts}), path, compression="zstd")
    (refused,) = found_in(path, batch_bytes=100_000)
    assert refused.reason == "too_much_memory"


@pytest.mark.parametrize("claimed", [2**62, 2**40, -5])
def test_a_message_that_claims_a_huge_body_is_refused_unread(tmp_path, claimed):
    path = tmp_path / "t.arrow"
    write_stream(table(3), path)
    content = path.read_bytes()
    # The second message is the batch: its prefix has 8 bytes, and then the length of its body is field 3 of its table.
    batch = 8 + struct.unpack_from("<I", content, 4)[0] + 8
    body = _field(content[batch:], struct.unpack_from("<I", content, batch)[0], 3) + batch
    assert struct.unpack_from("<q", content, body)[0] in range(50, 1000)
    path.write_bytes(content[:body] + struct.pack("<q", claimed) + content[body + 8 :])
    found = found_in(path)
    assert [one.reason for one in found] == ["corrupt_table" if claimed < 0 else "too_much_memory"]


def test_a_folder_saved_by_datasets_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    from vitruvius.data.reading.inputs import find_inputs

    saved = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "url": ["u"] * 20})
    saved.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    (tmp_path / "saved" / "cache-1234.arrow").write_bytes(b"a cache that is no data")
    inputs = find_inputs([tmp_path / "saved"])
    found = [one for file in inputs.files for one in read_file(file, ReadOptions())]
    assert [one.text for one in found] == [f"text {i}" for i in range(20)]
    assert len({one.id for one in found}) == 20


_RSS = """
import sys
from pathlib import Path
from vitruvius.data.reading.arrow import _field
from vitruvius.data.reading.documents import InputFile, ReadOptions, read_file
from vitruvius.data.reading.libraries import library
library("pyarrow.parquet")
file = InputFile(name="a", path=Path(sys.argv[1]), kind=sys.argv[2])
found = read_file(file, ReadOptions())
first = next(found)
base = peak()
print(sum(len(one.text) for one in found) + len(first.text))
print(peak() - base)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["one row group", "dictionary", "stream", "file", "zstd"])
def test_a_table_much_larger_than_the_bound_is_read_within_it(measured, tmp_path, shape):
    size, count = 2**16, 3072
    path = tmp_path / ("t.arrow" if shape in {"stream", "file", "zstd"} else "t.parquet")
    if shape == "dictionary":
        # Three thousand times the same megabyte in a few bytes.
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array(["x" * 2**20]))
        pq.write_table(pa.table({"text": texts}), path)
        size = 2**20
    else:
        rows = pa.table({"text": [json.dumps(i) * (size // len(json.dumps(i))) for i in range(count)]})
        size = 0
        if shape == "one row group":
            # A page is unpacked as a whole, so it must not be most of the table.
            pq.write_table(
                rows, path, row_group_size=count, use_dictionary=False, compression="none", write_batch_size=16
            )
        elif shape == "file":
            write_file(rows, path, rows_per_batch=64)
        else:
            write_stream(rows, path, rows_per_batch=64, compression="zstd" if shape == "zstd" else None)
    kind = "parquet" if path.suffix == ".parquet" else "arrow"
    total, grown = map(int, measured(_RSS, path, kind))
    assert total == size * count if size else total > 190 * 2**20
    assert grown < 48 * 2**20
