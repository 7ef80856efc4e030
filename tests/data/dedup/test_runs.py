"""Sorting more than fits in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.dedup import runs
from vitruvius.data.dedup.runs import KEYS, Repeated, RunWriter, key_range, part_of, parts_for, slices

if TYPE_CHECKING:
    from pathlib import Path

RECORD = [("key", "<u8"), ("value", "<u4")]
KEY = st.integers(0, KEYS - 1) | st.sampled_from([0, KEYS - 1, KEYS // 2, KEYS // 3])


@given(KEY, st.integers(1, 10_000))
def test_every_key_is_in_exactly_one_range_and_part_of_names_it(key: int, parts: int):
    part = part_of(key, parts)
    low, high = key_range(part, parts)
    assert low <= key < high
    assert key_range(0, parts).low == 0 and key_range(parts - 1, parts).high == KEYS
    if part:
        assert key_range(part - 1, parts).high == low


def test_ranges_are_as_many_as_it_takes():
    assert [parts_for(records, most=10) for records in (0, 1, 10, 11, 95)] == [0, 1, 1, 2, 10]


@pytest.mark.parametrize("segment", [1, 7, 64, 100_000])
def test_the_slices_of_all_ranges_are_all_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: int):
    monkeypatch.setattr(runs, "SEGMENT", segment)
    rng = np.random.default_rng(0)
    records = np.empty(500, dtype=RECORD)
    records["key"] = rng.choice(rng.integers(0, KEYS, 60, dtype=np.uint64), 500)
    records["key"][:3] = (0, KEYS - 1, KEYS - 1)
    records["value"] = np.arange(500)
    with (tmp_path / "run").open("wb") as file, RunWriter(file, RECORD) as writer:
        for start in range(0, 500, 37):
            writer.add(records[start : start + 37])
    assert writer.records == 500
    found = []
    for part in range(13):
        wanted = key_range(part, 13)
        for some in slices(tmp_path / "run", RECORD, wanted):
            assert all(wanted.low <= int(key) < wanted.high for key in some["key"])
            found.extend(some["value"].tolist())
    assert sorted(found) == list(range(500))


def test_equal_keys_keep_their_order_in_a_segment(tmp_path: Path):
    records = np.zeros(1000, dtype=RECORD)
    records["value"] = np.arange(1000)
    with (tmp_path / "run").open("wb") as file, RunWriter(file, RECORD) as writer:
        writer.add(records)
    (some,) = slices(tmp_path / "run", RECORD, key_range(0, 1))
    assert some["value"].tolist() == list(range(1000))


def test_a_run_may_be_empty(tmp_path: Path):
    with (tmp_path / "run").open("wb") as file, RunWriter(file, RECORD):
        pass
    assert list(slices(tmp_path / "run", RECORD, key_range(0, 1))) == []


@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1000)), max_size=30), max_size=8))
def test_repeated_keys_are_found_with_the_least_document(pieces: list[list[tuple[int, int]]]):
    repeated = Repeated(limit=5)
    everything: dict[int, list[int]] = {}
    for piece in pieces:
        repeated.add(np.array([key for key, _ in piece], "u8"), np.array([doc for _, doc in piece], "u8"))
        for key, document in piece:
            everything.setdefault(key, []).append(document)
    keys, firsts = repeated.found()
    expected = {key: min(documents) for key, documents in everything.items() if len(documents) > 1}
    assert dict(zip(keys.tolist(), firsts.tolist(), strict=True)) == expected
    assert keys.tolist() == sorted(expected)


def test_a_key_that_comes_a_million_times_is_held_once():
    repeated = Repeated(limit=1000)
    for start in range(0, 1_000_000, 1000):
        repeated.add(np.zeros(1000, "u8"), np.arange(start, start + 1000, dtype="u8"))
        assert len(repeated._keys) <= 1
        assert repeated._held <= 1000
    assert [part.tolist() for part in repeated.found()] == [[0], [0]]
