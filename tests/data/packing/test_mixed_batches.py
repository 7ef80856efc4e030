"""Batches of several sources and of several lengths: shares, epochs, and the same tokens whatever the stage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data.packing.batches import PackedBatches
from vitruvius.data.packing.curriculum import Stage, context_at
from vitruvius.data.packing.use import use_of
from vitruvius.errors import DataError, UsageError

np = pytest.importorskip("numpy")

SOURCES = {"code": [40, 3, 60, 21, 77], "docs": [30, 9], "web": [200, 150, 11]}


@pytest.fixture(scope="module")
def mixed(numbered):
    return numbered(SOURCES, shard_tokens=90)


def source_of(batches, batch):
    firsts = [share.first_sample for share in batches.shares]
    return [batches.shares[int(np.searchsorted(firsts, i, side="right")) - 1].source for i in batch.sample_ids]


def tokens_of(source):
    names = sorted(SOURCES)
    assert names == list(SOURCES), "tokens are numbered in this order"
    start = 1 + sum(sum(SOURCES[name]) for name in names[: names.index(source)])
    return range(start, start + sum(SOURCES[source]))


@pytest.mark.parametrize("packing", ["stream", "best-fit", "one-document"])
@pytest.mark.parametrize("mix", [None, {"web": 0.7, "code": 0.2, "docs": 0.1}, {"web": 1, "code": 5, "docs": 0}])
def test_a_sample_holds_tokens_of_its_source_alone(mixed, packing, mix):
    batches = PackedBatches(mixed, batch=5, context=12, packing=packing, mix=mix, seed=3)
    for step in range(20):
        batch = batches.at(step)
        for source, row, documents in zip(source_of(batches, batch), batch.inputs, batch.documents, strict=True):
            assert {int(token) for token in row[documents >= 0]} <= set(tokens_of(source))


@pytest.mark.parametrize("packing", ["stream", "best-fit", "one-document"])
@given(
    weights=st.tuples(*[st.sampled_from([0, 0.1, 0.35, 1, 2, 7])] * 3).filter(any),
    batch=st.integers(1, 9),
    steps=st.integers(1, 30),
)
@settings(max_examples=20)
def test_after_any_step_each_source_has_its_share_and_every_sample_comes_once_per_epoch(
    mixed, packing, weights, batch, steps
):
    mix = dict(zip(SOURCES, weights, strict=True))
    batches = PackedBatches(mixed, batch=batch, context=12, packing=packing, mix=mix, seed=1)
    drawn = {name: [] for name in SOURCES}
    for step in range(steps):
        found = batches.at(step)
        for source, sample, epoch in zip(source_of(batches, found), found.sample_ids, found.epochs, strict=True):
            drawn[source].append((int(epoch), int(sample)))
        done = (step + 1) * batch
        for share in batches.shares:
            assert share.share == pytest.approx(mix[share.source] / sum(weights))
            assert abs(len(drawn[share.source]) - share.share * done) <= share.bound + 1e-9
    for share in batches.shares:
        seen = drawn[share.source]
        for epoch in range(len(seen) // share.samples):
            expected = {(epoch, share.first_sample + number) for number in range(share.samples)}
            assert set(seen[epoch * share.samples : (epoch + 1) * share.samples]) == expected
        assert batches.epochs(steps)[share.source] == len(seen) / share.samples
    assert set(batches.left_out) == {name for name in SOURCES if not drawn[name] and mix[name] == 0}


def test_without_weights_every_source_ends_its_epoch_when_the_others_do(mixed):
    batches = PackedBatches(mixed, batch=1, context=12, seed=0)
    ids = [int(batches.at(step).sample_ids[0]) for step in range(batches.windows)]
    assert sorted(ids) == list(range(batches.windows))
    assert set(batches.epochs(batches.windows).values()) == {1.0}


def test_a_step_does_not_depend_on_the_steps_before_it(mixed):
    settings = {"batch": 3, "context": 12, "mix": {"web": 3, "code": 2, "docs": 1}, "seed": 5}
    straight, resumed = PackedBatches(mixed, **settings), PackedBatches(mixed, **settings)
    batches = [straight.at(step) for step in range(40)]
    for step in reversed(range(40)):
        assert (resumed.at(step).inputs == batches[step].inputs).all()
        assert resumed.at(step).sample_digest == batches[step].sample_digest


def test_sources_of_one_size_have_orders_of_their_own(numbered):
    shards = numbered({"left": [500], "right": [500]})
    batches = PackedBatches(shards, batch=80, context=10, seed=0)
    batch = batches.at(0)
    owners = np.array(source_of(batches, batch))
    left, right = batch.sample_ids[owners == "left"], batch.sample_ids[owners == "right"] - batches.windows // 2
    assert len(left) == len(right) == 40
    assert left.tolist() != right.tolist()


def test_the_weights_of_the_data_hold_until_the_run_names_others(numbered):
    shards = numbered({"code": [100], "web": [100]}, weights={"web": 0.9, "code": 0.1})
    assert {share.source: share.share for share in PackedBatches(shards, batch=1, context=9).shares} == {
        "web": 0.9,
        "code": 0.1,
    }
    named = PackedBatches(shards, batch=1, context=9, mix={"web": 1, "code": 1})
    assert [share.share for share in named.shares] == [0.5, 0.5]


def test_a_source_that_nothing_is_left_of_has_no_turn(numbered):
    shards = numbered({"code": [], "web": [100]}, weights={"web": 0.2, "code": 0.8})
    assert shards.sources["code"].documents == 0
    batches = PackedBatches(shards, batch=3, context=9)
    assert [(share.source, share.share) for share in batches.shares] == [("web", 1.0)]
    assert batches.left_out == ("code",)
    for packing in ("stream", "best-fit", "one-document", "by-length"):
        with pytest.raises(DataError, match="source code has 0 tokens"):
            PackedBatches(shards, batch=3, context=9, packing=packing, mix={"web": 1, "code": 1})


def test_weights_that_nothing_is_left_of_are_refused_with_others_to_give(numbered):
    shards = numbered({"code": [], "web": [100]}, weights={"web": 0, "code": 1})
    with pytest.raises(DataError, match=r"nothing is left of the sources.*\n.*train.mix={code: 0, web: 1}"):
        PackedBatches(shards, batch=3, context=9)


def test_together_a_split_is_one_stream(mixed):
    batches = PackedBatches(mixed, batch=4, context=12, order="in-order", sources="together")
    inputs = np.concatenate([batch.inputs.ravel() for batch in batches.once()])
    assert inputs.tolist() == list(range(1, 1 + batches.windows * 12))


@pytest.mark.parametrize(
    ("mix", "what", "fix"),
    [
        ({"web": 1, "code": 1}, "'docs' has no weight", "0 leaves one out"),
        ({"web": 1, "code": 1, "docs": 1, "wbe": 1}, "no source 'wbe'", "code, docs, web"),
        ({"web": 0, "code": 0, "docs": 0}, "weight 0", "above 0"),
        ({"web": -1, "code": 0, "docs": 1}, "-1 is no weight", "from 0"),
        ({"web": float("nan"), "code": 0, "docs": 1}, "nan is no weight", "from 0"),
    ],
)
def test_a_mix_that_does_not_fit_the_data_is_refused_with_the_way_out(mixed, mix, what, fix):
    with pytest.raises(UsageError, match=what) as caught:
        PackedBatches(mixed, batch=1, context=12, mix=mix)
    assert fix in str(caught.value)


def test_a_source_too_short_for_a_sample_is_left_out_unless_it_was_asked_for(mixed):
    batches = PackedBatches(mixed, batch=1, context=100)
    assert batches.left_out == ("docs",)
    assert "docs left out" in use_of(batches, steps=1).lines()[0]
    with pytest.raises(DataError, match=r"source docs has 39 tokens.*\n.*code: 1, docs: 0, web: 2") as caught:
        PackedBatches(mixed, batch=1, context=100, mix={"web": 2, "code": 1, "docs": 1})
    assert "packing=best-fit" in str(caught.value)
    with pytest.raises(DataError, match="no source of train has more than 361 tokens"):
        PackedBatches(mixed, batch=1, context=1000)


# ----------------------------------------------------------------------------------------------------------------------
# Lengths


@given(
    stages=st.lists(st.tuples(st.integers(1, 20), st.sampled_from([1, 2, 3, 4, 6, 12])), max_size=4),
    step=st.integers(0, 25),
    packing=st.sampled_from(["stream", "best-fit"]),
)
def test_a_stage_cuts_the_same_samples_into_shorter_rows(mixed, stages, step, packing):
    curriculum = [Stage(until=until, context=context) for until, context in sorted(stages)]
    plain = PackedBatches(mixed, batch=4, context=12, seed=2, packing=packing).at(step)
    cut = PackedBatches(mixed, batch=4, context=12, seed=2, packing=packing, curriculum=curriculum).at(step)
    length = context_at(curriculum, step, 12)
    assert cut.inputs.shape == cut.targets.shape == cut.documents.shape == (4 * 12 // length, length)
    for name in ("inputs", "targets", "documents", "crosses"):
        assert (getattr(cut, name).reshape(4, 12) == getattr(plain, name)).all()
    assert cut.sample_ids.tolist() == plain.sample_ids.tolist()
    assert cut.sample_digest == plain.sample_digest
    assert cut.rows_per_sample == 12 // length


def test_a_stage_ends_before_the_step_it_names():
    stages = [Stage(until=3, context=4), Stage(until=5, context=8)]
    assert [context_at(stages, step, 16) for step in range(7)] == [4, 4, 4, 8, 8, 16, 16]


def test_validation_reads_whole_samples_whatever_the_curriculum(mixed):
    batches = PackedBatches(mixed, batch=4, context=12, curriculum=[Stage(until=100, context=3)])
    assert {batch.inputs.shape[1] for batch in batches.once()} == {12}


@pytest.mark.parametrize("context", [5, 24, 0])
def test_a_stage_that_does_not_divide_the_context_is_refused(mixed, context):
    with pytest.raises(UsageError, match="cannot be cut into equal pieces"):
        PackedBatches(mixed, batch=1, context=12, curriculum=[Stage(until=1, context=context)])


def test_rows_by_length_leave_a_curriculum_nothing_to_cut(mixed):
    with pytest.raises(UsageError, match="no stage can cut"):
        PackedBatches(mixed, batch=1, context=12, packing="by-length", curriculum=[Stage(until=1, context=3)])


# ----------------------------------------------------------------------------------------------------------------------
# What a run is told


def test_a_run_is_told_what_it_reads_how_often(mixed):
    batches = PackedBatches(
        mixed,
        batch=10,
        context=12,
        packing="best-fit",
        mix={"web": 3, "code": 0, "docs": 1},
        curriculum=[Stage(until=5, context=4)],
    )
    use = use_of(batches, steps=40)
    sources, packing, lengths, often = use.lines()
    docs = use.sources[0].packing.samples
    assert sources == (
        f"sources: docs 25.0% of the samples, read {100 / docs:.2f} times; "
        f"web 75.0% of the samples, read {300 / use.sources[1].packing.samples:.2f} times; code left out"
    )
    assert packing.startswith(f"packing best-fit: {use.padding_share:.2%} padding, 3 of 5 documents cut")
    assert lengths == "sample lengths: 4 tokens until step 5, then 12"
    assert often.startswith("docs, web: text that is read more than 4 times")
    plain = use.to_dict()
    assert [source["repeated_too_often"] for source in plain["sources"]] == [True, True]
    assert (plain["left_out"], plain["curriculum"]) == (["code"], [{"until": 5, "context": 4}])


def test_one_source_in_a_plain_stream_is_nothing_to_talk_about(numbered):
    assert use_of(PackedBatches(numbered([50]), batch=1, context=7), steps=1000).lines() == []


def test_the_padding_of_a_run_is_that_of_its_batches(mixed):
    batches = PackedBatches(mixed, batch=1, context=12, packing="one-document")
    found = [batches.at(step) for step in range(batches.windows)]
    padding = sum(batch.padding for batch in found)
    assert use_of(batches, steps=1).padding_share == pytest.approx(padding / (12 * batches.windows))
