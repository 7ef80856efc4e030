"""The ways of packing side by side: what each is known for."""

from __future__ import annotations

import pytest

from vitruvius.data.packing.comparing import compare_packings

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


def test_data_that_some_packing_makes_nothing_of_is_compared_without_it(numbered):
    found = compare_packings(numbered([1, 1]), context=8)
    assert "by-length" not in found
    assert found["stream"].samples == found["one-document"].samples == 0
    assert found["best-fit"].samples == 1
