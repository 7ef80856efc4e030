"""Rows of one document: every token once, no row of two documents, no batch of two lengths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.packing import growing, plans, rows
from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.sample import IGNORED, PADDING
from vitruvius.data.packing.samples import samples_of

np = pytest.importorskip("numpy")

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=20)
CONTEXTS = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 20, 32])


@pytest.fixture(autouse=True, scope="module")
def short_rows():
    """Rows from 2 tokens on, so that small data has many lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "SHORTEST_ROW", 2)
        yield


def all_rows(shards, context):
    """(length of rows, row) of every sample; a row is (inputs, targets, documents, crosses)."""
    for part in samples_of(shards.stream, context, packing="by-length", eos_id=shards.eos_id):
        for number in range(part.count):
            sample = part.read(number)
            columns = (sample.inputs, sample.targets, sample.documents, sample.crosses)
            for row in zip(*(column.reshape(-1, part.row) for column in columns), strict=True):
                yield part.row, row


def test_lengths_are_the_context_and_its_halves():
    assert rows.row_lengths(32) == [32, 16, 8, 4, 2]
    assert rows.row_lengths(24) == [24, 12, 6, 3]
    assert rows.row_lengths(7) == [7]


@given(lengths=LENGTHS, context=CONTEXTS, shard_tokens=st.sampled_from([1, 50, 10**9]))
def test_every_token_comes_once_and_a_row_holds_one_document(numbered, lengths, context, shard_tokens):
    shards = numbered(lengths, shard_tokens=shard_tokens)
    ends = set(np.cumsum(lengths).tolist())
    seen = []
    for length, (inputs, targets, documents, crosses) in all_rows(shards, context):
        real = documents != PADDING
        assert not crosses.any()
        assert (targets[~real] == IGNORED).all()
        if not real.any():
            continue  # the end of the last sample of a length
        assert len(set(documents[real].tolist())) == 1
        assert (np.diff(inputs[real]) == 1).all()
        assert real[: real.sum()].all()
        assert real.all() or length == rows.row_lengths(context)[-1]
        for token, target in zip(inputs[real].tolist(), targets[real].tolist(), strict=True):
            assert target == (IGNORED if token in ends else token + 1)
        assert (targets != IGNORED).any()
        seen += inputs[real].tolist()
    assert len(seen) == len(set(seen))
    assert set(range(1, sum(lengths) + 1)) - set(seen) <= ends


@given(length=st.integers(2, 200))
def test_a_document_is_in_as_few_rows_as_its_binary_form_has_ones(numbered, length):
    shards = numbered([length])
    found = [int((documents != PADDING).sum()) for _, (_, _, documents, _) in all_rows(shards, 32)]
    expected = [32] * (length // 32) + [size for size in (16, 8, 4, 2) if length & size]
    assert sorted(filter(None, found)) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("mix", [None, {"a": 3, "b": 1}])
@given(batch=st.integers(1, 5), seed=st.integers(0, 3))
@settings(max_examples=10)
def test_a_batch_has_rows_of_one_length_and_every_row_comes_once_per_epoch(numbered, mix, batch, seed):
    lengths = np.random.default_rng(8).integers(2, 90, 60).tolist()
    shards = numbered({"a": lengths[:40], "b": lengths[40:]})
    batches = PackedBatches(shards, batch=batch, context=16, packing="by-length", mix=mix, seed=seed)
    seen, drawn = {}, dict.fromkeys(("a", "b"), 0)
    for step in range(4 * batches.windows // batch + 30):
        found = batches.at(step)
        assert found.inputs.size == 16 * batch
        assert found.rows_per_sample == 16 // found.inputs.shape[1]
        for sample, epoch in zip(found.sample_ids.tolist(), found.epochs.tolist(), strict=True):
            assert (sample, epoch) not in seen
            seen[sample, epoch] = step
            drawn["a" if sample < batches.shares[1].first_sample else "b"] += 1
        for share in batches.shares:
            assert abs(drawn[share.source] - share.share * (step + 1) * batch) <= share.bound + 1e-9
        assert batches.epochs(step + 1) == {
            share.source: drawn[share.source] / share.samples for share in batches.shares
        }
    assert {sample for sample, epoch in seen if epoch == 0} == set(range(batches.windows))


def test_a_step_does_not_depend_on_the_steps_before_it(numbered):
    shards = numbered(np.random.default_rng(8).integers(2, 90, 60).tolist())
    straight, resumed = (PackedBatches(shards, batch=2, context=16, packing="by-length", seed=1) for _ in range(2))
    batches = [straight.at(step) for step in range(50)]
    for step in reversed(range(50)):
        assert (resumed.at(step).inputs == batches[step].inputs).all()
    assert len({batch.inputs.shape for batch in batches}) > 2


def test_what_is_reported_is_what_is_read(numbered):
    lengths = np.random.default_rng(2).integers(1, 90, 300).tolist()
    shards = numbered(lengths)
    batches = PackedBatches(shards, batch=3, context=32, packing="by-length")
    found = list(batches.once())
    efficiency = batches.efficiency()["all"]
    assert efficiency.packed_tokens == sum(batch.tokens for batch in found)
    assert efficiency.padding == sum(batch.padding for batch in found)
    assert efficiency.samples == batches.windows == sum(len(batch.sample_ids) for batch in found)
    held = {}
    for batch in found:
        for row, documents in enumerate(batch.documents):
            for document in set(documents.tolist()) - {PADDING}:
                held.setdefault(document, []).append(int((batch.documents[row] == document).sum()))
    cut = sum(len(held.get(number, [])) != 1 or sum(held[number]) != size for number, size in enumerate(lengths))
    assert efficiency.cut_documents == cut
    assert efficiency.long_documents == sum(size > 32 for size in lengths)


def test_rows_in_groups_and_in_files_are_still_every_row(numbered, monkeypatch):
    monkeypatch.setattr(plans, "GROUP_PIECES", 16)
    monkeypatch.setattr(growing, "MAPPED_FROM", 16)
    lengths = np.random.default_rng(2).integers(2, 90, 300).tolist()
    test_every_token_comes_once_and_a_row_holds_one_document.hypothesis.inner_test(numbered, lengths, 16, 500)
