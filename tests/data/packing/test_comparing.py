"""The ways of packing side by side: what each is known for."""

from __future__ import annotations

import pytest

from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.comparing import compare_packings
from vitruvius.data.packing.sample import PADDING

np = pytest.importorskip("numpy")


def test_each_packing_pays_in_its_own_coin(numbered):
    lengths = np.random.default_rng(6).lognormal(4, 1, 500).astype(int) + 2
    found = compare_packings(numbered(lengths.tolist(), shard_tokens=9000), context=128)
    assert set(found) == {"stream", "best-fit", "one-document", "by-length", "greedy"}
    assert {result.tokens for result in found.values()} == {int(lengths.sum())}
    # Windows pad nothing and cut most; best fit cuts what it must and pads next to nothing.
    assert found["stream"].padding == 0
    assert found["stream"].cut_documents > found["best-fit"].cut_documents == found["best-fit"].long_documents
    assert found["best-fit"].padding_share < 0.01 < found["greedy"].padding_share < found["one-document"].padding_share
    assert found["by-length"].cut_documents > found["stream"].cut_documents
    assert found["by-length"].padding_share < found["one-document"].padding_share


@pytest.mark.parametrize("packing", ["stream", "best-fit", "one-document", "by-length"])
@pytest.mark.parametrize("context", [64, 96, 500])
def test_what_a_token_reads_is_counted_exactly(numbered, packing, context):
    lengths = np.random.default_rng(6).lognormal(4, 1, 60).astype(int) + 2
    shards = numbered(lengths.tolist(), shard_tokens=900)
    read = tokens = 0
    for batch in PackedBatches(shards, batch=4, context=context, packing=packing).once():
        for row in batch.documents:
            for document in set(row.tolist()) - {PADDING}:
                length = int((row == document).sum())
                read, tokens = read + length * (length + 1) // 2, tokens + length
    found = compare_packings(shards, context=context)[packing]
    assert (found.attended_pairs, found.packed_tokens) == (read, tokens)
    assert found.mean_attended_tokens == read / tokens


def test_data_that_some_packing_makes_nothing_of_is_compared_without_it(numbered):
    found = compare_packings(numbered([1, 1]), context=8)
    assert "by-length" not in found
    assert found["stream"].samples == found["one-document"].samples == 0
    assert found["best-fit"].samples == 1
