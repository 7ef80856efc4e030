"""Rows of pairs: what a row holds, what limits do and count, and that batches follow from seed and step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vitruvius.data import PackedBatches, TokenShards, use_of
from vitruvius.data.packing.pairs import PairLimits
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.errors import UsageError

pytest.importorskip("tokenizers")
WIDE = PairLimits(source=400, target=100)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(3)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(50):
            words = " ".join(f"w{draw.integers(99)}" for _ in range(draw.integers(1, 40)))
            file.write(
                json.dumps({"source": f"{number} {words}", "target": f"t{number} " * draw.integers(1, 6)}) + "\n"
            )
    prepare_pairs([folder / "in.jsonl"], folder / "data", PairOptions(vocab=300, held_out=0.0))
    return TokenShards.open(folder / "data", "train")


def batches(shards, limits, **more):
    return PackedBatches(shards, batch=4, context=1, pairs=limits, **more)


def test_a_row_is_the_source_and_what_the_decoder_reads_and_asks_for_the_target(shards):
    for batch in batches(shards, WIDE, order="in-order").once():
        for row, sample in enumerate(batch.sample_ids.tolist()):
            source, target = shards.document(2 * sample), shards.document(2 * sample + 1)
            ends = len(source), len(source) + len(target)
            assert (batch.documents[row, : ends[0]] == 2 * sample).all()
            assert (batch.documents[row, ends[0] : ends[1]] == 2 * sample + 1).all()
            assert (batch.documents[row, ends[1] :] == -1).all()
            np.testing.assert_array_equal(batch.inputs[row, : ends[0]], source)
            assert batch.inputs[row, ends[0]] == shards.eos_id
            np.testing.assert_array_equal(batch.inputs[row, ends[0] + 1 : ends[1]], target[:-1])
            np.testing.assert_array_equal(batch.targets[row, ends[0] : ends[1]], target)
            assert (batch.targets[row, : ends[0]] == -100).all() and (batch.targets[row, ends[1] :] == -100).all()


def test_a_cut_source_still_ends_and_a_cut_target_does_not(shards):
    limits = PairLimits(source=8, target=3)
    for batch in batches(shards, limits, order="in-order").once():
        for row, sample in enumerate(batch.sample_ids.tolist()):
            source, target = shards.document(2 * sample), shards.document(2 * sample + 1)
            here = batch.documents[row]
            read, asked = batch.inputs[row][here % 2 == 0], batch.targets[row][(here >= 0) & (here % 2 == 1)]
            assert len(read) == min(8, len(source)) and read[-1] == shards.eos_id
            np.testing.assert_array_equal(read[:-1], source[: len(read) - 1])
            np.testing.assert_array_equal(asked, target[:3])


@pytest.mark.parametrize("lengths", ["mixed", "grouped"])
@pytest.mark.parametrize("longer", ["cut", "drop"])
def test_every_pair_is_read_once_an_epoch_and_what_limits_do_is_counted(shards, longer, lengths):
    limits = PairLimits(source=40, target=12, longer=longer, lengths=lengths)
    sizes = np.diff(shards.document_starts).reshape(-1, 2)
    long = sizes > [40, 12]
    made = batches(shards, limits)
    use = use_of(made, steps=10).pairs
    kept = 50 - long.any(axis=1).sum() if longer == "drop" else 50
    assert use.pairs == made.windows == kept
    assert use.left_out == 50 - kept
    assert (use.sources_cut, use.targets_cut) == ((0, 0) if longer == "drop" else tuple(long.sum(axis=0)))
    read = [document // 2 for batch in made.once() for document in sorted(set(batch.documents.ravel())) if document > 0]
    seen = sorted(number for batch in made.once() for number in {d // 2 for d in batch.documents.ravel() if d >= 0})
    assert len(seen) == len(set(seen)) == kept and read
    (padding,) = (made.efficiency()[name].padding for name in made.efficiency())
    assert padding == sum(batch.padding for batch in made.once())


def test_grouped_batches_hold_pairs_of_about_one_length(shards):
    limits = PairLimits(source=96, target=32, lengths="grouped")
    widths = set()
    for step in range(30):
        batch = batches(shards, limits).at(step)
        lengths = (batch.documents >= 0).sum(axis=1)
        widths.add(batch.context)
        assert (lengths <= batch.context).all()
        assert (lengths > batch.context // 2).all() or batch.context == 32
    assert len(widths) > 1


@pytest.mark.parametrize("lengths", ["mixed", "grouped"])
def test_batches_follow_from_seed_and_step_alone(shards, lengths):
    limits = PairLimits(source=64, target=16, lengths=lengths)
    straight = [batches(shards, limits, seed=5).at(step) for step in range(40)]
    again = batches(shards, limits, seed=5)
    for step in (39, 0, 17, 12, 26):
        np.testing.assert_array_equal(again.at(step).inputs, straight[step].inputs)
        assert again.at(step).sample_digest == straight[step].sample_digest
    other = batches(shards, limits, seed=6)
    assert [other.at(step).sample_digest for step in range(5)] != [one.sample_digest for one in straight[:5]]


def test_limits_that_leave_no_text_are_refused():
    with pytest.raises(UsageError, match="hold no text"):
        PairLimits(source=1, target=5)
