"""What the command line names: files, folders, corpora, datasets; each once, in an order of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitruvius.data.reading.inputs import find_inputs
from vitruvius.errors import DataError


def names(*arguments, **options) -> list[tuple[str, str]]:
    return [(Path(file.name).name, file.kind) for file in find_inputs(arguments, **options).files]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def test_the_suffix_says_the_kind_under_any_compression(tmp_path):
    touch(tmp_path, "a.JSONL", "b.ndjson.zst", "c.txt.bz2", "d.html.xz", "e.py.gz", "f.parquet", "g.arrow", "h.feather")
    assert names(tmp_path) == [
        ("a.JSONL", "jsonl"), ("b.ndjson.zst", "jsonl"), ("c.txt.bz2", "text"), ("d.html.xz", "html"),
        ("e.py.gz", "source"), ("f.parquet", "parquet"), ("g.arrow", "arrow"), ("h.feather", "arrow"),
    ]  # fmt: skip


def test_a_compressed_table_is_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    touch(tmp_path, "a.parquet.gz", "b.txt")
    assert names(tmp_path) == [("b.txt", "text")]
    assert find_inputs([tmp_path]).passed_over == {".parquet.gz": 1}
    for options in ({}, {"kind": "parquet"}, {"kind": "arrow"}):
        with pytest.raises(DataError, match="unpack it first"):
            find_inputs([tmp_path / "a.parquet.gz"], **options)


def test_a_file_reached_twice_is_read_once_under_its_first_name(tmp_path, monkeypatch):
    touch(tmp_path, "folder/a.txt", "folder/b.pdf")
    (tmp_path / "link.txt").symlink_to("folder/a.txt")
    monkeypatch.chdir(tmp_path)
    arguments = ["folder", "./folder/../folder", "link.txt", "folder/a.txt", str(tmp_path / "folder")]
    found = [find_inputs(order) for order in (arguments, arguments[::-1])]
    assert found[0] == found[1]
    assert [file.name for file in found[0].files] == [str(tmp_path / "folder" / "a.txt")]
    assert found[0].passed_over == {".pdf": 1}


def test_a_named_file_that_a_folder_passes_over_is_not_counted_as_such(tmp_path):
    touch(tmp_path, "a.txt", "b.log")
    inputs = find_inputs([tmp_path, tmp_path / "b.log"])
    assert [file.kind for file in inputs.files] == ["text", "text"] and inputs.passed_over == {}


def test_of_a_saved_dataset_only_its_own_tables_are_read(tmp_path):
    touch(tmp_path, "data-00000-of-00001.arrow", "cache-1.arrow", "dataset_info.json")
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert names(tmp_path) == [("data-00000-of-00001.arrow", "arrow")]


@pytest.mark.parametrize("state", ["", "[", "[]", "7", '{"_data_files": 7}', '{"_data_files": [7]}', "[" * 10**5])
def test_a_state_that_is_none_hides_no_table(tmp_path, state):
    touch(tmp_path, "a.arrow")
    (tmp_path / "state.json").write_text(state)
    assert names(tmp_path) == [("a.arrow", "arrow")]


@pytest.mark.parametrize("argument", ["", "none", "x" * 300, "a\0b", "hf:", "no/such/*.jsonl", "-rf", "\x1b[2J"])
def test_a_name_that_leads_nowhere_is_answered(tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        find_inputs([argument])


def test_a_folder_without_a_file_to_read_says_what_it_has(tmp_path):
    touch(tmp_path, "a.pdf", "b.pdf", "c", ".hidden.txt")
    with pytest.raises(DataError, match=r"found 2 \.pdf, 1 \(none\)"):
        find_inputs([tmp_path])


def test_a_file_that_begins_like_a_dataset_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "hf:name.txt")
    assert names("hf:name.txt") == [("hf:name.txt", "text")]
    assert names("hf:other") == [("hf:other", "hf")]
