"""The loader gives the batches of `PackedBatches.at`, whoever reads them and whichever is asked for."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvius.data import PackedBatches, TokenShards
from vitruvius.errors import SpecError
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import config_hash, from_plain
from vitruvius.training.config import CurriculumStage, batches_of
from vitruvius.training.engines import Engine
from vitruvius.training.loading import BatchLoader
from vitruvius.training.settings import Loader
from vitruvius.training.settings.preprocess import HookUse

ARRAYS = ("inputs", "targets", "documents", "crosses", "sample_ids", "epochs")
PROCESSES = Loader(workers=2, by="processes", ahead=3)
THREADS = Loader(workers=2, by="threads", ahead=5)


def config_of(**changed):
    return TrainConfig(**{"steps": 100, "batch": 16, "context": 32, "objective": "causal-lm", **changed})


def loader_of(data, config, only=None):
    return BatchLoader(batches_of(TokenShards.open(data), config), config, vocab_size=320, only=only)


def same(one, other):
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b), name
    return True


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"packing": "best-fit", "curriculum": (CurriculumStage(until=3, context=8),)},
        {"packing": "by-length"},
        {"preprocess": (HookUse(hook="fim"), HookUse(hook="token-drop", options={"rate": 0.3}))},
    ],
    ids=["stream", "best-fit and curriculum", "by-length", "hooks"],
)
def test_processes_and_threads_give_the_bytes_of_no_workers(changed, data):
    config = config_of(**changed)
    alone = loader_of(data, config)
    expected = [alone.at(number) for number in range(8)]
    for way in (PROCESSES, THREADS):
        with closing(loader_of(data, config_of(**changed, loader=way))) as loader:
            for number, due in enumerate(expected):
                batch = loader.at(number)
                assert same(batch, due)
                assert batch.inputs.flags.writeable
                assert batch.sample_digest == due.sample_digest


def test_without_hooks_a_batch_is_that_of_packed_batches(data):
    loader = loader_of(data, config_of())
    for number in (0, 3, 60):
        assert same(loader.at(number), loader.batches.at(number))


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.sampled_from([(1, 1), (1, 4), (3, 3), (2, 5), (4, 4)]))
def test_any_batch_may_be_asked_for_at_any_time_and_workers_follow(data, numbers, sizes):
    workers, ahead = sizes
    alone = loader_of(data, config_of())
    with closing(loader_of(data, config_of(loader=Loader(workers=workers, ahead=ahead, by="threads")))) as loader:
        for number in numbers:
            assert same(loader.at(number), alone.at(number))
            assert same(loader.at(number + 1), alone.at(number + 1))


def test_processes_follow_a_rewind_and_a_jump(data):
    alone = loader_of(data, config_of())
    with closing(loader_of(data, config_of(loader=PROCESSES))) as loader:
        for number in (0, 1, 2, 7, 8, 3, 3, 4, 99, 98, 0, 250):
            assert same(loader.at(number), alone.at(number))


def test_nothing_is_read_ahead_of_the_last_step(data, monkeypatch):
    config, seen = config_of(steps=3, loader=Loader(workers=1, by="threads", ahead=8)), []
    with closing(loader_of(data, config)) as loader:
        read = type(loader.reader).read

        def counted(self, number, *rest):
            seen.append(number)
            return read(self, number, *rest)

        monkeypatch.setattr(type(loader.reader), "read", counted)
        for number in range(3):
            loader.at(number)
    assert seen == [0, 1, 2]


def test_a_loader_that_was_closed_goes_on(data):
    with closing(loader_of(data, config_of(loader=Loader(workers=1, by="processes", ahead=1)))) as loader:
        first = loader.at(0)
        loader.close()
        assert same(loader.at(0), first)


# ----------------------------------------------------------------------------------------------------------------------
# Shares


class Shares:
    """One of two processes that share each batch."""

    share, places, shares = Engine.share, Engine.places, 2

    def __init__(self, rank):
        self.share_rank = rank


@pytest.mark.parametrize("way", [Loader(), PROCESSES, THREADS], ids=["alone", "processes", "threads"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_reads_its_share_and_knows_the_whole(way, rank, data, monkeypatch):
    changed = {"packing": "best-fit", "accumulate": 2, "preprocess": (HookUse(hook="token-drop"),)}
    engine, config = Shares(rank), config_of(**changed, loader=way)
    whole = loader_of(data, config_of(**changed))
    with closing(loader_of(data, config, only=engine.places(16, 2).tolist())) as loader:
        batch, due = loader.at(5), whole.at(5)
        for name in ("sample_ids", "epochs"):
            assert np.array_equal(getattr(batch, name), getattr(due, name))
        for name in ("tokens", "padding", "sample_digest", "context", "rows_per_sample"):
            assert getattr(batch, name) == getattr(due, name)
        monkeypatch.setattr(type(batch), "whole", lambda self: pytest.fail("the rest was read"))
        assert same(engine.share(batch, 2), engine.share(due, 2))
        monkeypatch.undo()
        assert same(engine.share(batch, 4), engine.share(due, 4)), "other pieces: the rest is read then"
        assert np.array_equal(batch.inputs, due.inputs)


# ----------------------------------------------------------------------------------------------------------------------
# Epochs


@pytest.mark.parametrize("way", [Loader(), PROCESSES], ids=["alone", "two workers"])
def test_each_sample_comes_once_per_epoch_in_another_order_and_epochs_end_within_batches(way, data):
    config = config_of(batch=13, loader=way)
    with closing(loader_of(data, config)) as loader:
        windows = loader.batches.windows
        assert windows % 13, "an epoch must end in the middle of a batch"
        batches = [loader.at(number) for number in range(-(-3 * windows // 13))]
    ids = np.concatenate([batch.sample_ids for batch in batches])[: 3 * windows].reshape(3, windows)
    epochs = np.concatenate([batch.epochs for batch in batches])[: 3 * windows].reshape(3, windows)
    assert (epochs == np.arange(3)[:, None]).all()
    for order in ids:
        assert sorted(order.tolist()) == list(range(windows))
    assert len({tuple(order.tolist()) for order in ids}) == 3
    mixed = [batch for batch in batches if len(set(batch.epochs.tolist())) == 2]
    assert len(mixed) >= 2


@pytest.fixture
def dropout(monkeypatch):
    """No component of ours has dropout: here every training pass of a dense layer drops a tenth of its stream."""
    import torch

    from vitruvius.training.objectives import CausalLM

    original, drawn = CausalLM.train, []

    def dropping(self, model, piece):
        handle = model.embedding.register_forward_hook(
            lambda module, arguments, out: torch.nn.functional.dropout(out, 0.1, training=module.training)
        )
        try:
            drawn.append(None)
            return original(self, model, piece)
        finally:
            handle.remove()

    monkeypatch.setattr(CausalLM, "train", dropping)
    return drawn


@pytest.mark.slow
def test_a_resumed_stream_equals_the_straight_one_in_each_epoch_with_dropout_and_any_workers(
    dense, run_of, data, dropout
):
    per_epoch = PackedBatches(TokenShards.open(data), batch=48, context=32).windows / 48
    steps = int(3 * per_epoch) + 1
    run = {"steps": steps, "batch": 48, "checkpoint_every": 1000}
    straight = run_of(dense, "straight", **run)
    assert len({row["samples"] for row in rows(straight.run)}) == steps
    two, none = Loader(workers=2), Loader()
    ways = [(0, none, two), (0, two, None), (1, two, none), (1, none, None), (2, two, PROCESSES), (2, none, None)]
    for number, (epoch, first, then) in enumerate(ways):
        stopping = int(per_epoch * (epoch + 0.5))
        listener = StopAfter(stopping)
        half = run_of(dense, f"half-{number}", loader=first, listener=listener, stop=listener.stop, **run)
        assert (half.status, half.step) == ("stopped", stopping)
        resumed = resume(half.run, changes=None if then is None else {"loader": then})
        assert final_manifest(resumed.run) == final_manifest(straight.run)
        assert rows(resumed.run) == rows(straight.run)
    assert len(dropout) == 7 * steps, "it must have dropped in every pass"


def test_what_drops_at_random_changes_the_loss(dense, run_of, request):
    without = run_of(dense, "without", steps=1)
    request.getfixturevalue("dropout")
    assert rows(run_of(dense, "with", steps=1).run)[0]["loss"] != rows(without.run)[0]["loss"]


@pytest.mark.slow
def test_a_rewind_of_the_guard_is_followed_by_workers(dense, run_of, monkeypatch):
    from vitruvius.training.guarding.judge import Judge
    from vitruvius.training.settings import Guard

    found = {}
    for name, way in (("alone", Loader()), ("workers", PROCESSES)):
        calls, original = [], Judge.judge

        def spiking(self, gathered, *rest, calls=calls, original=original, **more):
            import math
            from dataclasses import replace

            calls.append(None)
            bad = len(calls) in {5, 9}
            return original(
                self, replace(gathered, loss=math.nan, objective=math.nan) if bad else gathered, *rest, **more
            )

        monkeypatch.setattr(Judge, "judge", spiking)
        result = run_of(dense, name, steps=8, loader=way, guard=Guard(not_finite="rewind"))
        monkeypatch.undo()
        found[name] = rows(result.run), final_manifest(result.run)
        assert [event["kind"] for event in RunReader(result.run).events()].count("rewound") == 2
    assert found["alone"] == found["workers"]


# ----------------------------------------------------------------------------------------------------------------------
# Settings


def test_the_loader_has_no_part_in_what_a_checkpoint_belongs_to():
    hashes = {config_hash(config_of(loader=way), {}, "0") for way in (Loader(), PROCESSES, THREADS)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"workers": -1}, "train.loader.workers"),
        ({"workers": 65}, "train.loader.workers"),
        ({"workers": 5, "ahead": 4}, "train.loader.ahead"),
        ({"by": "magic"}, "train.loader.by"),
        ({"timeout": 0}, "train.loader.timeout"),
        ({"worker": 1}, "train.loader.worker"),
    ],
)
def test_a_loader_that_cannot_be_meant_is_refused_at_its_setting(section, path):
    with pytest.raises(SpecError) as caught:
        from_plain({"loader": section})
    assert [finding.path for finding in caught.value.findings] == [path]


def test_resuming_takes_another_loader_on_the_command_line(dense, run_of, capsys):
    from vitruvius.cli.main import run as vitruvius

    listener = StopAfter(2)
    half = run_of(dense, listener=listener, stop=listener.stop)
    assert vitruvius(["train", "--resume", str(half.run), "--set", "train.loader.workers=-1"]) == 2
    assert "train.loader.workers" in capsys.readouterr().err
    assert vitruvius(["train", "--resume", str(half.run), "--set", "train.loader.workers=2"]) == 0
    assert final_manifest(half.run) == final_manifest(run_of(dense, "straight").run)
