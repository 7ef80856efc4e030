"""What each way of packing promises: which tokens come, whom they stand beside, what they are to predict."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vitruvius.data.packing import growing, plans
from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.sample import IGNORED, PADDING
from vitruvius.data.packing.samples import samples_of
from vitruvius.errors import DataError

np = pytest.importorskip("numpy")

PLANNED = ("best-fit", "one-document")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=25)


def edges_of(lengths):
    """Token numbers are places plus one."""
    return np.concatenate([[0], np.cumsum(lengths)])


def all_samples(shards, context, packing):
    (samples,) = samples_of(shards.stream, context, packing=packing, eos_id=shards.eos_id)
    return samples, [samples.read(number) for number in range(samples.count)]


@pytest.mark.parametrize("packing", PLANNED)
@given(lengths=LENGTHS, context=st.integers(1, 24), shard_tokens=st.sampled_from([1, 30, 10**9]))
@example(lengths=[1, 1, 1], context=1, shard_tokens=1)
@example(lengths=[17], context=16, shard_tokens=1)
def test_every_token_comes_once_per_epoch_or_is_counted_as_left_out(numbered, packing, lengths, context, shard_tokens):
    samples, found = all_samples(numbered(lengths, shard_tokens=shard_tokens), context, packing)
    inputs = np.concatenate([np.empty(0, int), *(sample.inputs[sample.documents != PADDING] for sample in found)])
    assert len(set(inputs.tolist())) == len(inputs)
    efficiency = samples.efficiency()
    assert len(inputs) == efficiency.packed_tokens == sum(lengths) - efficiency.left_out_tokens
    assert sum(int((sample.documents == PADDING).sum()) for sample in found) == efficiency.padding
    # What is left out is what could ask for nothing: single tokens that end their document.
    ends = set(edges_of(lengths)[1:].tolist())
    assert set(range(1, sum(lengths) + 1)) - set(inputs.tolist()) <= ends


@pytest.mark.parametrize("packing", PLANNED)
@given(lengths=LENGTHS, context=st.integers(2, 24), shard_tokens=st.sampled_from([1, 30, 10**9]))
def test_only_documents_longer_than_the_context_are_cut(numbered, packing, lengths, context, shard_tokens):
    samples, found = all_samples(numbered(lengths, shard_tokens=shard_tokens), context, packing)
    holders = {}
    for number, sample in enumerate(found):
        for document in set(sample.documents.tolist()) - {PADDING}:
            holders.setdefault(document, []).append(number)
            places = np.flatnonzero(sample.documents == document)
            tokens = sample.inputs[places]
            assert (np.diff(places) == 1).all()
            assert (np.diff(tokens) == 1).all()
            if lengths[document] <= context:
                assert len(tokens) == lengths[document]
                assert tokens[0] == edges_of(lengths)[document] + 1
    cut = {document for document, numbers in holders.items() if len(numbers) > 1}
    assert cut <= {document for document, length in enumerate(lengths) if length > context}
    efficiency = samples.efficiency()
    assert efficiency.long_documents == sum(length > context for length in lengths)
    lost = {document for document in range(len(lengths)) if document not in holders}
    assert efficiency.cut_documents == efficiency.long_documents + len(lost)


@pytest.mark.parametrize("packing", PLANNED)
@given(lengths=LENGTHS, context=st.integers(1, 24))
def test_a_target_is_the_next_token_of_the_document_or_the_first_of_the_next_one(numbered, packing, lengths, context):
    _, found = all_samples(numbered(lengths), context, packing)
    starts, ends = set((edges_of(lengths)[:-1] + 1).tolist()), set(edges_of(lengths)[1:].tolist())
    asked = []
    for sample in found:
        assert (sample.targets != IGNORED).any()
        assert (sample.targets[sample.documents == PADDING] == IGNORED).all()
        assert (sample.inputs[sample.documents == PADDING] == 0).all()
        for place, (token, target) in enumerate(zip(sample.inputs.tolist(), sample.targets.tolist(), strict=True)):
            if sample.crosses[place]:
                assert token in ends
                assert target in starts
                assert sample.inputs[place + 1] == target
            elif target != IGNORED:
                assert target == token + 1
                assert token not in ends
                asked.append(target)
            elif sample.documents[place] != PADDING:
                assert token in ends
    # Within documents everything is asked for once, but for first tokens, which nothing comes before.
    expected = set(range(1, sum(lengths) + 1)) - starts
    assert sorted(asked) == sorted(expected)


@given(lengths=LENGTHS, context=st.integers(1, 24))
def test_one_document_means_one(numbered, lengths, context):
    _, found = all_samples(numbered(lengths), context, "one-document")
    for sample in found:
        assert len(set(sample.documents.tolist()) - {PADDING}) == 1
        assert not sample.crosses.any()


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=25), context=st.integers(2, 24))
def test_best_fit_takes_no_more_samples_than_one_document_each(numbered, lengths, context):
    shards = numbered(lengths)
    fitted = plans.plan_samples(shards.stream, "best-fit", context).efficiency
    alone = plans.plan_samples(shards.stream, "one-document", context).efficiency
    assert fitted.samples <= alone.samples
    assert fitted.padding <= alone.padding


@given(lengths=LENGTHS, context=st.integers(1, 24))
def test_windows_cut_the_documents_that_the_report_counts(numbered, lengths, context):
    shards = numbered(lengths)
    efficiency = plans.stream_efficiency(shards.stream, context)
    samples, found = all_samples(shards, context, "stream")
    inputs = [token for sample in found for token in sample.inputs.tolist()]
    assert efficiency.samples == samples.count
    assert efficiency.packed_tokens == len(inputs)
    edges = edges_of(lengths).tolist()
    cut = 0
    for start, end in itertools.pairwise(edges):
        held = {place // context for place in range(start, end)}
        inside = {window for window in held if window < samples.count}
        cut += bool(inside) and len(held) > 1
    assert efficiency.cut_documents == cut


@pytest.mark.parametrize("packing", PLANNED)
def test_a_plan_in_groups_and_in_files_reads_as_one_in_memory(numbered, packing, monkeypatch):
    lengths = np.random.default_rng(1).integers(1, 90, 400).tolist()
    shards = numbered(lengths, shard_tokens=500)
    monkeypatch.setattr(plans, "GROUP_PIECES", 32)
    monkeypatch.setattr(growing, "MAPPED_FROM", 32)
    samples, found = all_samples(shards, 32, packing)
    assert isinstance(samples.plan.starts.base, np.memmap)
    inputs = np.concatenate([sample.inputs[sample.documents != PADDING] for sample in found])
    efficiency = samples.efficiency()
    assert sorted(inputs.tolist()) == sorted(set(inputs.tolist()))
    assert len(inputs) == efficiency.packed_tokens
    assert sum(lengths) - len(inputs) == efficiency.left_out_tokens < 32
    again = plans.plan_samples(shards.stream, packing, 32)
    assert [getattr(again, name).tolist() for name in ("starts", "lengths", "bins")] == [
        getattr(samples.plan, name).tolist() for name in ("starts", "lengths", "bins")
    ]


def test_a_plan_that_cannot_be_written_says_where_and_how_much(numbered, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    shards = numbered([5] * 100)
    monkeypatch.setattr(growing, "MAPPED_FROM", 32)
    monkeypatch.setattr(growing.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(DataError, match=r"No space left on device\n.*TMPDIR"):
        plans.plan_samples(shards.stream, "one-document", 8)


@pytest.mark.parametrize("packing", PLANNED)
@given(data=st.data())
@settings(max_examples=15)
def test_batches_of_packs_give_each_sample_once_per_epoch(numbered, packing, data):
    shards = numbered(data.draw(st.lists(st.integers(2, 40), min_size=2, max_size=12)))
    batches = PackedBatches(shards, batch=data.draw(st.integers(1, 7)), context=16, packing=packing, seed=4)
    steps = -(-2 * batches.windows // batches.batch)
    ids = np.concatenate([batches.at(step).sample_ids for step in range(steps)])
    for epoch in range(2):
        assert sorted(ids[epoch * batches.windows : (epoch + 1) * batches.windows]) == list(range(batches.windows))
    resumed = PackedBatches(shards, batch=batches.batch, context=16, packing=packing, seed=4)
    for step in reversed(range(steps)):
        first, again = batches.at(step), resumed.at(step)
        assert (first.inputs == again.inputs).all()
        assert (first.targets == again.targets).all()
        assert first.tokens == first.inputs.size - first.padding
