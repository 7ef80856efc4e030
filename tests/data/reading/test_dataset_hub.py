"""Datasets by the `datasets` library: local folders work without a network, and what cannot be had is said plainly."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from vitruvius.data.document import Document
from vitruvius.data.reading.documents import ReadOptions, read_file
from vitruvius.data.reading.finding import read_one
from vitruvius.data.reading.hub import DatasetName, dataset_name
from vitruvius.data.reading.inputs import find_inputs
from vitruvius.data.reading.units import read_unit, units_of
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(first: int, count: int = 4) -> list[dict]:
    return [{"text": f"text {i}", "url": f"u{i}", "n": i} for i in range(first, first + count)]


def read(argument: str, **options) -> list:
    (file,) = find_inputs([argument]).files
    return list(read_file(file, ReadOptions(**options)))


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("hf:org/name", DatasetName(path="org/name")),
        ("hf:org/name:config@split", DatasetName(path="org/name", config="config", split="split")),
        ("hf:org/name@train", DatasetName(path="org/name", split="train")),
        ("hf:name:en", DatasetName(path="name", config="en")),
        ("hf:./a@b/c", DatasetName(path="./a@b/c")),
    ],
)
def test_a_name_has_a_configuration_and_a_split(argument, name):
    assert dataset_name(argument) == name


def test_a_folder_whose_name_has_marks_wins(tmp_path):
    (tmp_path / "a:b@c").mkdir()
    assert dataset_name("hf:a:b@c") == DatasetName(path="a:b@c")


@pytest.mark.parametrize("argument", ["hf:", "hf:@train", "hf:name:", "hf:name@"])
def test_an_empty_part_is_refused(argument):
    with pytest.raises(DataError, match="empty"):
        find_inputs([argument])


def test_a_local_folder_is_read_in_order_with_ids(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0))
    found = read("hf:ds")
    assert [(one.id, one.text, one.url) for one in found] == [
        (f"hf:ds#{i + 1}", f"text {i}", f"u{i}") for i in range(4)
    ]


def test_shards_are_units_and_each_document_is_found_again(tmp_path):
    for part in range(3):
        write(tmp_path / "ds" / f"train-{part}.jsonl", rows(10 * part))
    inputs = find_inputs(["hf:ds"])
    units = units_of(inputs)
    assert len(units) == 3
    found = [one for unit in units for one in read_unit(unit, ReadOptions())]
    assert [one.text for one in found] == [f"text {10 * part + i}" for part in range(3) for i in range(4)]
    assert found[5].id == "hf:ds/1#2"
    for one in found:
        assert read_one(inputs, one.id, ReadOptions()) == one
    for wrong in ("hf:ds#1", "hf:ds/3#1", "hf:ds/1#9"):
        with pytest.raises(DataError, match="has no row"):
            read_one(inputs, wrong, ReadOptions())


def test_other_formats_come_with_the_library(tmp_path):
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "train.csv").write_text('text,n\n"a, b\nc",1\nd,2\n')
    assert [one.text for one in read("hf:ds")] == ["a, b\nc", "d"]


def test_a_split_is_chosen_and_a_wrong_one_named(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0))
    write(tmp_path / "ds" / "test.jsonl", rows(100))
    assert read("hf:ds")[0].text == "text 0"
    assert read("hf:ds@test")[0].text == "text 100"
    with pytest.raises(DataError, match="nosplit"):
        read("hf:ds@nosplit")
    (tmp_path / "ds" / "train.jsonl").rename(tmp_path / "ds" / "validation.jsonl")
    with pytest.raises(DataError, match="no split `train`, but validation, test"):
        read("hf:ds")


def test_rows_without_usable_text_are_refused_one_by_one(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", [{"text": "a"}, {"text": None}, {"text": ""}, {"text": "x" * 99}])
    assert [getattr(one, "reason", "kept") for one in read("hf:ds", limit=50)] == [
        "kept", "wrong_type", "empty", "too_long",
    ]  # fmt: skip


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0))
    with pytest.raises(DataError, match="no column 'body'"):
        read("hf:ds", field="body")
    assert [one.text for one in read("hf:ds", field="url")] == ["u0", "u1", "u2", "u3"]


def test_a_file_that_breaks_in_the_middle_loses_its_rest(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0, 10))
    with (tmp_path / "ds" / "train.jsonl").open("ab") as file:
        file.write(b"{broken\n")
    *good, refused = read("hf:ds")
    assert all(isinstance(one, Document) for one in good)
    assert refused.reason == "corrupt_table" and refused.line == len(good) + 1


def test_a_hub_that_cannot_be_reached_is_said_at_once():
    with pytest.raises(DataError, match="the hub cannot be reached, and no folder has this name") as error:
        read("hf:org/name")
    assert error.value.where == "hf:org/name"


def test_a_connection_that_fails_is_tried_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def refuse(self, name, **_):
        asked.append(name)
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(DataError, match=r"the hub cannot be reached.*Name or service not known"):
        read("hf:org/name")
    assert asked == ["org/name"]


def test_no_code_of_a_dataset_is_run(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0))
    (tmp_path / "ds" / "ds.py").write_text("open('ran', 'w')\n")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        read("hf:ds")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_save_to_disk_is_named_without_the_prefix(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="save_to_disk") as error:
        read("hf:saved")
    assert "(saved)" in error.value.fix


def test_a_dataset_that_changed_since_the_plan_is_named(tmp_path):
    write(tmp_path / "ds" / "train.jsonl", rows(0))
    (unit,) = units_of(find_inputs(["hf:ds"]))
    os.utime(tmp_path / "ds" / "train.jsonl", ns=(10**18, 2 * 10**18))
    with pytest.raises(DataError, match="was written to since the work was planned"):
        list(read_unit(unit, ReadOptions()))
