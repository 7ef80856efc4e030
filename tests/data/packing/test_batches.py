"""Batches: a function of seed and step, each window once per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.shards import TokenShards, dtype_for
from vitruvius.data.packing.shuffle import shuffled
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

np = pytest.importorskip("numpy")

EOS = 0


def open_stream(folder: Path, lengths: list[int], shard_tokens: int = 10**9) -> TokenShards:
    """Documents of these lengths; the token at place p of the stream is p, but for the separators."""
    writer = SplitWriter(folder, "train", vocab_size=10_000, shard_tokens=shard_tokens)
    place = 0
    for length in lengths:
        writer.add([*range(place + 1, place + length), EOS], text_bytes=length - 1)
        place += length
    index = {"vocab_size": 10_000, "dtype": dtype_for(10_000), "eos_id": EOS, "fingerprint": "0" * 64}
    return TokenShards(folder, "train", index | {"splits": {"train": writer.close()}})


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> TokenShards:
    return open_stream(tmp_path_factory.mktemp("s"), [7, 1, 30, 12, 50, 3, 3, 44], shard_tokens=40)


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 5))
def test_the_shuffle_is_a_permutation_of_any_size(size, seed, epoch):
    assert sorted(shuffled(np.arange(size), size, seed=seed, epoch=epoch).tolist()) == list(range(size))


def test_the_shuffle_is_the_same_on_every_machine():
    # Golden values: a change here changes the data order of every run and breaks resuming.
    assert shuffled(np.arange(10), 10, seed=0, epoch=0).tolist() == [5, 9, 3, 1, 2, 0, 8, 6, 7, 4]
    assert shuffled(np.arange(3), 2**40, seed=7, epoch=2).tolist() == [312725086354, 100771646263, 723272244016]


def test_the_shuffle_mixes_every_place():
    # Over many epochs each number visits each place about equally often (chi-squared, 99 degrees of freedom).
    places = np.array([shuffled(np.arange(10), 10, seed=3, epoch=epoch) for epoch in range(2000)])
    counts = np.stack([np.bincount(places[:, i], minlength=10) for i in range(10)])
    assert ((counts - 200) ** 2 / 200).sum() < 200


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(shuffled(np.arange(50), 50, seed=s, epoch=e).tolist()) for s in range(5) for e in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("context", [1, 4, 7, 149], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 64], ids=str)
def test_every_window_comes_once_per_epoch(shards, batch, context):
    batches = PackedBatches(shards, batch=batch, context=context, seed=5)
    steps = -(-3 * batches.windows // batch)
    ids = np.concatenate([batches.at(step).sample_ids for step in range(steps)])
    epochs = np.concatenate([batches.at(step).epochs for step in range(steps)])
    for epoch in range(3):
        here = ids[epochs == epoch]
        assert sorted(here.tolist()) == list(range(batches.windows))
        assert ids[epoch * batches.windows : (epoch + 1) * batches.windows].tolist() == here.tolist()


def test_the_windows_of_an_epoch_predict_every_token_but_the_first_and_the_incomplete_last(shards):
    batches = PackedBatches(shards, batch=4, context=11, seed=1)
    targets = np.concatenate([batch.targets.ravel() for batch in batches.once()])
    stream = shards.read(0, shards.tokens)
    assert sorted(targets.tolist()) == sorted(stream[1 : 1 + batches.windows * 11].tolist())
    assert shards.tokens - 1 - len(targets) < 11


def test_targets_are_the_tokens_after_the_inputs(shards):
    stream = shards.read(0, shards.tokens)
    batches = PackedBatches(shards, batch=5, context=9, seed=2)
    for step in range(10):
        found = batches.at(step)
        assert found.inputs.shape == found.targets.shape == found.documents.shape == found.crosses.shape == (5, 9)
        assert found.inputs.dtype == found.targets.dtype == found.documents.dtype == np.int64
        for row, window in enumerate(found.sample_ids):
            assert found.inputs[row].tolist() == stream[window * 9 : window * 9 + 9].tolist()
            assert found.targets[row].tolist() == stream[window * 9 + 1 : window * 9 + 10].tolist()


def test_document_ids_change_right_after_each_separator(shards):
    batches = PackedBatches(shards, batch=1, context=shards.tokens - 1, order="in-order")
    found = batches.at(0)
    expected = np.repeat(np.arange(shards.documents), np.diff(shards.document_starts))[:-1]
    assert found.documents[0].tolist() == expected.tolist()
    assert (found.crosses == (found.inputs == EOS)).all()


def test_a_step_does_not_depend_on_the_steps_before_it(shards):
    straight = PackedBatches(shards, batch=3, context=8, seed=9)
    digests = [straight.at(step).sample_digest for step in range(40)]
    resumed = PackedBatches(shards, batch=3, context=8, seed=9)
    assert [resumed.at(step).sample_digest for step in reversed(range(40))] == digests[::-1]
    assert len(set(digests)) == 40


def test_another_seed_gives_another_order(shards):
    first, second = (PackedBatches(shards, batch=3, context=8, seed=seed).at(0).sample_digest for seed in (0, 1))
    assert first != second


def test_in_order_means_the_order_of_the_stream(shards):
    batches = PackedBatches(shards, batch=4, context=10, order="in-order")
    ids = np.concatenate([batch.sample_ids for batch in batches.once()])
    assert ids.tolist() == list(range(batches.windows))


def test_data_shorter_than_one_window_is_refused_with_the_counts(tmp_path):
    shards = open_stream(tmp_path, [5, 5])
    assert PackedBatches(shards, batch=1, context=9).windows == 1
    with pytest.raises(DataError, match=r"has 10 tokens; one window of context 10 needs 11\n.*at most 9"):
        PackedBatches(shards, batch=1, context=10)


@pytest.mark.parametrize(("batch", "context"), [(0, 4), (-1, 4), (4, 0)], ids=["no batch", "negative", "no context"])
def test_a_batch_or_context_below_one_is_refused(shards, batch, context):
    with pytest.raises(UsageError, match="below 1"):
        PackedBatches(shards, batch=batch, context=context)
