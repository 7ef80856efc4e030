"""What was prepared leaves again, whole, in forms that other tools read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vitruvius.cli.data_export import command
from vitruvius.data import PrepareOptions, prepare
from vitruvius.data.reading.export import Exported, export, form_of, prepared_documents
from vitruvius.errors import DataError, UsageError

pytest.importorskip("tokenizers")
zstandard = pytest.importorskip("zstandard")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = ["id", "text", "url", "source", "split", "tokens"]
NAMES = ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet")


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rows = [
        {"text": f"document {i} — ünïcode \u2028 {'word ' * (i % 7)}", "url": f"https://example.org/{i}"}
        for i in range(60)
    ]
    rows[3].pop("url")
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare([folder / "in.jsonl"], folder / "data", PrepareOptions(vocab=300, held_out=0.2))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_document_comes_out_as_it_went_in(prepared, tmp_path, name):
    went_in = {
        row["text"]: row.get("url") for row in map(json.loads, (prepared / "in.jsonl").read_text().split("\n")[:-1])
    }
    written = export(prepared_documents(prepared / "data"), tmp_path / name)
    rows = rows_of(tmp_path / name)
    assert {row["text"]: row["url"] for row in rows} == went_in
    assert all(list(row) == COLUMNS for row in rows)
    assert len({row["id"] for row in rows}) == written.documents == 60
    assert written.text_bytes == sum(len(text.encode()) for text in went_in)
    assert (written.inexact, written.file_bytes) == (0, (tmp_path / name).stat().st_size)
    assert [row["split"] for row in rows] == sorted(row["split"] for row in rows)
    assert sum(row["tokens"] + 1 for row in rows) == sum(
        split["tokens"] for split in json.loads((prepared / "data" / "counts.json").read_text())["splits"].values()
    )


@pytest.mark.parametrize("name", NAMES)
def test_datasets_reads_it(prepared, tmp_path, name, monkeypatch):
    datasets = pytest.importorskip("datasets")
    export(prepared_documents(prepared / "data", ["train"]), tmp_path / name)
    builder = "parquet" if name.endswith("parquet") else "json"
    found = datasets.load_dataset(
        builder, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.column_names == COLUMNS and set(found["split"]) == {"train"}
    assert found["text"][:] == [row["text"] for row in rows_of(tmp_path / name)]


@pytest.mark.parametrize("name", NAMES)
def test_equal_documents_give_equal_bytes_and_can_be_prepared_again(prepared, tmp_path, name):
    one, two = tmp_path / name, tmp_path / "again" / name
    two.parent.mkdir()
    for path in (one, two):
        export(prepared_documents(prepared / "data"), path)
    assert one.read_bytes() == two.read_bytes()
    again = prepare([one], tmp_path / "data", PrepareOptions(vocab=300, held_out=0.2))
    assert again.counts["documents_out"] == 60
    texts = {document.text for document in prepared_documents(tmp_path / "data", ["validation"])}
    # The split is drawn by the text, so it is the same again.
    assert texts == {row["text"] for row in rows_of(one) if row["split"] == "validation"}


def document(number: int, text: str = "text") -> Exported:
    return Exported(id=str(number), text=text, url=None, source="all", split="train", tokens=1)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_there_stays_when_writing_fails(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"what was there")

    def broken():
        yield document(0)
        raise DataError("a shard is damaged")

    with pytest.raises(DataError, match="damaged"):
        export(broken(), path)
    assert path.read_bytes() == b"what was there"
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["folder.jsonl", "none/a.jsonl"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be written") as error:
        export([document(0)], tmp_path / name)
    assert name in error.value.where


@pytest.mark.parametrize("name", ["a.txt", "parquet", "a.jsonl.bz2", ".jsonlx"])
def test_an_unknown_ending_is_answered_with_the_known(name):
    with pytest.raises(UsageError, match=r"\.jsonl\.zst"):
        form_of(Path(name))


def test_parquet_has_row_groups_of_bounded_size(tmp_path):
    export((document(i) for i in range(2500)), tmp_path / "rows.parquet")
    export((document(i, "x" * 2**22) for i in range(9)), tmp_path / "bytes.parquet")
    groups = [
        [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        for meta in (
            parquet.read_metadata(tmp_path / "rows.parquet"),
            parquet.read_metadata(tmp_path / "bytes.parquet"),
        )
    ]
    assert groups == [[1000, 1000, 500], [4, 4, 1]]


def test_a_tokenizer_that_loses_something_is_counted(tmp_path):
    lossy = [document(0), Exported(id=None, text="a", url=None, source="all", split="train", tokens=1, exact=False)]
    assert export(lossy, tmp_path / "a.jsonl").inexact == 1
    assert rows_of(tmp_path / "a.jsonl")[1]["id"] is None


def test_the_command_tells_what_it_wrote(prepared, tmp_path):
    out = tmp_path / "a.parquet"
    done = CliRunner().invoke(command, [str(prepared / "data"), str(out), "--split", "train", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    rows = rows_of(out)
    assert told == {
        "schema": "vitruvius.data-export/1", "data": str(prepared / "data"), "out": str(out), "form": "parquet",
        "split": "train", "documents": len(rows), "documents_inexact": 0,
        "text_bytes": sum(len(row["text"].encode()) for row in rows), "file_bytes": out.stat().st_size,
        "fingerprint": json.loads((prepared / "data" / "index.json").read_text())["fingerprint"],
    }  # fmt: skip
    plain = CliRunner().invoke(command, [str(prepared / "data"), str(out)])
    assert plain.stdout == f"{out}\n" and "60 documents" in plain.stderr and "load_dataset" in plain.stderr


def test_the_command_refuses_before_it_decodes(prepared, tmp_path):
    for arguments, error in (
        ([str(tmp_path), str(tmp_path / "a.jsonl")], DataError),
        ([str(prepared / "data"), str(tmp_path / "a.csv")], UsageError),
    ):
        done = CliRunner().invoke(command, arguments)
        assert isinstance(done.exception, error)
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_documents_is_said(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "only one"}\n')
    prepare([tmp_path / "a.jsonl"], tmp_path / "data", PrepareOptions(vocab=300))
    with pytest.raises(DataError, match="no documents in validation"):
        list(prepared_documents(tmp_path / "data", ["validation"]))
    assert [one.text for one in prepared_documents(tmp_path / "data")] == ["only one"]
