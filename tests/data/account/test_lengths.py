"""Lengths of documents: every figure equals what a list of all of them says."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.account import lengths as module
from vitruvius.data.account.lengths import CONTEXTS, QUANTILES, LengthTable, PackedCuts, document_bounds, summary
from vitruvius.data.packing.index import shard_of
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.errors import DataError

LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 300_000)), min_size=1, max_size=60)


def of(values, parts=3):
    table = LengthTable()
    for part in range(parts):
        table.add(np.array(values[part::parts], dtype=np.int64))
    return summary(table)


@given(LENGTHS)
def test_every_figure_equals_what_the_list_of_lengths_says(values):
    found = of(values)
    ordered = sorted(values)
    assert (found["documents"], found["tokens"]) == (len(values), sum(values))
    assert (found["shortest"], found["longest"]) == (ordered[0], ordered[-1])
    for quantile in QUANTILES:
        due = math.ceil(quantile * len(values) / 1000)
        assert found["quantiles"][f"{quantile / 1000:g}"] == ordered[due - 1]
    running = 0
    for value in ordered:
        running += value
        if 2 * running >= sum(values):
            assert found["token_weighted_median"] == value
            break
    for row in found["longer_than"]:
        over = [value for value in values if value > row["tokens_over"]]
        assert (row["documents"], row["tokens"]) == (len(over), sum(over))
    for row in found["contexts"]:
        context = row["context"]
        assert row["documents_truncated"] == sum(value > context for value in values)
        assert row["tokens_truncated"] == sum(max(0, value - context) for value in values)
        assert row["slots_empty"] == sum(max(0, context - value) for value in values)
        kept = sum(values) - row["tokens_truncated"]
        assert kept + row["slots_empty"] == context * len(values)


@given(LENGTHS)
def test_the_bins_of_the_histogram_hold_every_document_once(values):
    bins = of(values)["histogram"]
    assert [row["above"] for row in bins] == [0, *(row["up_to"] for row in bins[:-1])]
    for row in bins:
        inside = [value for value in values if row["above"] < value <= row["up_to"]]
        assert (row["documents"], row["tokens"]) == (len(inside), sum(inside))
    assert sum(row["documents"] for row in bins) == len(values)
    assert bins[-1]["documents"] > 0


def test_no_documents_have_no_lengths():
    assert summary(LengthTable()) is None


def test_a_table_settles_without_losing_a_document(monkeypatch):
    monkeypatch.setattr(module, "_PENDING", 10)
    values = list(range(1, 200)) * 2
    assert of(values, parts=50) == of(values, parts=1)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(1, 5))
def test_packed_windows_cut_the_documents_that_lie_on_both_sides_of_a_multiple(values, per_shard):
    cuts = PackedCuts()
    for first in range(0, len(values), per_shard):
        ends = np.cumsum(values[first : first + per_shard])
        cuts.add("all", np.array([0, *ends[:-1]], dtype=np.int64), ends.astype(np.int64))
        cuts.end_shard("all", int(ends[-1]))
    stream = np.repeat(np.arange(len(values)), values)
    for row in cuts.counts():
        windows = [set(stream[i : i + row["context"]].tolist()) for i in range(0, len(stream), row["context"])]
        several = sum(sum(number in window for window in windows) > 1 for number in range(len(values)))
        assert row["documents_cut"] == several
        assert row["windows"] == (len(stream) - 1) // row["context"]
        assert row["tokens_left_out"] == len(stream) - row["windows"] * row["context"]
    assert [row["context"] for row in cuts.counts()] == list(CONTEXTS)


def shard(folder, starts):
    """A shard whose file of starts holds `starts`, whatever they are."""
    writer = SplitWriter(folder, "train", vocab_size=10, shard_tokens=10**6)
    for _ in starts[1:]:
        writer.add([1, 0], text_bytes=1)
    made = shard_of(folder, writer.close()["shards"][0])
    content = np.array(starts, dtype="<i8").tobytes()
    made.starts_path.write_bytes(content)
    return replace(made, tokens=starts[-1], starts_sha256=hashlib.sha256(content).hexdigest())


def test_documents_are_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    starts = [0, 3, 4, 10, 12, 30, 31]
    whole = shard(tmp_path, starts)
    for size in (1, 2, 3, 100):
        monkeypatch.setattr(module, "_STARTS", size)
        pairs = [
            pair for some in document_bounds(whole) for pair in zip(*(part.tolist() for part in some), strict=True)
        ]
        assert pairs == list(itertools.pairwise(starts))


@pytest.mark.parametrize("starts", [[1, 3, 9], [0, 5, 4, 9], [0, 3, 3, 9], [0, -4, 9]])
def test_starts_out_of_order_are_refused_with_the_file(tmp_path, starts):
    with pytest.raises(DataError, match="out of order"):
        list(document_bounds(shard(tmp_path, starts)))


def test_a_file_of_starts_that_changed_is_refused(tmp_path):
    whole = shard(tmp_path, [0, 4, 9])
    whole.starts_path.write_bytes(np.array([0, 5, 9], dtype="<i8").tobytes())
    with pytest.raises(DataError, match="SHA-256"):
        list(document_bounds(whole))
    whole.starts_path.write_bytes(b"\0" * 16)
    with pytest.raises(DataError, match="16 bytes, the index says 24"):
        list(document_bounds(whole))
    whole.starts_path.unlink()
    with pytest.raises(DataError, match="missing"):
        list(document_bounds(whole))
