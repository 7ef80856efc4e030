"""Long documents, many shards and many documents: read through maps, with nothing in memory that grows with them."""

from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.packing import stream
from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.curriculum import Stage
from vitruvius.data.packing.sample import PADDING
from vitruvius.data.packing.shards import TokenShards
from vitruvius.errors import DataError

np = pytest.importorskip("numpy")

LONG = 131_072


@pytest.fixture(scope="module")
def long(numbered) -> TokenShards:
    """A document of two and a half windows between short ones, and another in a shard of its own."""
    return numbered([300, LONG * 5 // 2, 40, 1000, LONG + 1, 9], shard_tokens=LONG * 3)


@pytest.mark.parametrize("packing", ["stream", "best-fit", "one-document"])
def test_a_document_longer_than_131072_tokens_is_read_in_windows_of_that_length(long, packing):
    batches = PackedBatches(long, batch=2, context=LONG, packing=packing, seed=1)
    seen = []
    for batch in batches.once():
        assert batch.inputs.shape[1] == LONG
        inside = (batch.targets >= 0) & ~batch.crosses
        assert (batch.targets[inside] == batch.inputs[inside] + 1).all()
        seen.append(batch.inputs[batch.documents != PADDING])
    seen = np.concatenate(seen)
    assert len(np.unique(seen)) == len(seen)
    # One document is a window and its separator: by itself the separator asks for nothing.
    left_out = {"stream": long.tokens - batches.windows * LONG, "best-fit": 0, "one-document": 1}
    assert len(seen) == long.tokens - left_out[packing]


def test_a_curriculum_leads_up_to_windows_of_131072_tokens(long):
    stages = [Stage(until=1, context=2**10), Stage(until=2, context=2**14)]
    batches = PackedBatches(long, batch=1, context=LONG, curriculum=stages)
    assert [batches.at(step).inputs.shape for step in range(3)] == [(128, 1024), (8, 16384), (1, LONG)]


def test_a_window_costs_its_own_tokens_and_no_copy_of_the_shard(numbered):
    shards = numbered([2_000_000, 2_000_000])
    batches = PackedBatches(shards, batch=1, context=LONG)
    batches.at(0)
    tracemalloc.start()
    batches.at(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Inputs, targets and documents are int64; a shard would be 16 MB.
    assert peak < 8 * 8 * LONG


def test_more_shards_than_files_may_be_open_are_read(numbered, monkeypatch):
    monkeypatch.setattr(stream, "MOST_MAPS", 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shards = numbered([7] * 150, shard_tokens=1)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, used + 40), hard))
    try:
        opened = TokenShards.open(shards.directory)
        assert len(opened.shards) == 150
        assert opened.read(0, opened.tokens).tolist() == list(range(1, 1051))
        assert opened.stream.documents_at(0, 1050).tolist() == [number // 7 for number in range(1050)]
        assert opened.document_starts.tolist() == list(range(0, 1051, 7))
        assert opened.document(149).tolist() == list(range(1044, 1051))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_opening_many_documents_loads_none_of_their_starts(numbered):
    shards = numbered([2] * 60_000)
    tracemalloc.start()
    opened = TokenShards.open(shards.directory, verify="sizes")
    batch = PackedBatches(opened, batch=4, context=64).at(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.documents.max() > 1000
    assert opened.shards[0].starts_path.stat().st_size > 480_000
    assert peak < 2**18
    assert opened.stream.document_of(119_999) == (59_999, 119_998, 120_000)


# ----------------------------------------------------------------------------------------------------------------------
# Damage that opening with `sizes` does not look for is found where it is read


@pytest.mark.parametrize("packing", ["stream", "best-fit", "one-document", "by-length"])
@given(place=st.integers(0, 20), value=st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 250))
def test_a_damaged_document_start_is_named_or_changes_nothing(numbered, packing, place, value):
    shards = numbered([10] * 20)
    path = shards.shards[0].starts_path
    content = np.fromfile(path, dtype="<i8")
    same, content[place] = content[place] == value, value
    content.tofile(path)
    damaged = TokenShards.open(shards.directory, verify="sizes")
    try:
        batches = PackedBatches(damaged, batch=5, context=16, packing=packing)
        read = [batch.inputs for batch in batches.once()]
    except DataError as error:
        assert not same
        assert str(path) in str(error)
        assert "out of order" in str(error)
    else:
        assert read
        assert content[0] == 0
        assert content[-1] == 200
