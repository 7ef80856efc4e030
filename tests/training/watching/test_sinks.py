"""Sinks: every row arrives, a missing package is named before the run starts, a broken sink ends nothing."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from vitruvius.errors import UsageError
from vitruvius.runs import RunReader
from vitruvius.training import resume
from vitruvius.training.settings import Watch
from vitruvius.training.watching import require_sinks, sinks
from vitruvius.training.watching.sinks import TensorBoardSink, Told, WandbSink, with_sinks

HAS = {name: importlib.util.find_spec(name) is not None for name in ("tensorboard", "wandb")}


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.notes, self.rows, self.calls = [], [], []

    def note(self, text):
        self.notes.append(text)

    def row(self, row):
        self.rows.append(row)

    def __getattr__(self, name):
        return lambda *_, **__: self.calls.append(name)


class Kept:
    """A sink that keeps what it gets, and breaks at a step."""

    def __init__(self, breaks_at=None):
        self.rows, self.closed, self.breaks_at = [], 0, breaks_at

    def row(self, step, numbers):
        if step == self.breaks_at:
            raise OSError("disk is full")
        self.rows.append((step, numbers))

    def close(self):
        self.closed += 1


class Writer:
    """As torch's SummaryWriter."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, *, log_dir, purge_step):
        self.log_dir, self.purge_step, self.scalars, self.closed = log_dir, purge_step, [], False
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


@pytest.fixture
def known(monkeypatch):
    """Every package of a sink seems to be installed, and TensorBoard's writer is ours."""
    Writer.made = []
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: SimpleNamespace(origin="here") if name == "tensorboard" else real(name),
    )
    monkeypatch.setitem(
        sinks.SINKS, "tensorboard", ("tensorboard", lambda run, step: TensorBoardSink(run, step, Writer))
    )


def test_every_row_of_a_run_and_of_its_resumption_arrives(dense, run_of, known):
    watch = Watch(sinks=("tensorboard",), every=2)
    result = run_of(dense, watch=watch)
    (writer,) = Writer.made
    assert writer.closed and writer.purge_step == 1
    assert writer.log_dir == str(result.run / "tensorboard")
    rows = RunReader(result.run).metrics()
    told = {(name, step): value for name, value, step in writer.scalars}
    for row in rows:
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
        assert {k: told[k, row["step"]] for k in numbers} == numbers
    resume(result.run)
    assert Writer.made[-1].purge_step == rows[-1]["step"] + 1


def test_a_package_that_is_missing_is_named_before_there_is_a_run_folder(dense, run_of, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    with pytest.raises(UsageError, match="needs a package that is not installed: wandb") as caught:
        run_of(dense, "missing", watch=Watch(sinks=("wandb",)))
    assert "pip install wandb" in str(caught.value)
    assert not (tmp_path / "missing").exists()


@pytest.mark.skipif(HAS["wandb"], reason="wandb is installed")
def test_a_folder_of_earlier_runs_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(UsageError, match="not installed: wandb"):
        require_sinks(Watch(sinks=("wandb",)))


def test_without_sinks_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_sinks(Watch())


def test_a_sink_that_breaks_is_named_once_and_the_rest_goes_on():
    heard, broken, whole = Heard(), Kept(breaks_at=2), Kept()
    told = Told(heard, [("broken", broken), ("whole", whole)])
    for step in range(1, 5):
        told.row({"step": step, "loss": 1.0, "samples": "abc", "val_loss": None, "inf": float("inf")})
    told.close()
    assert [step for step, _ in broken.rows] == [1]
    assert whole.rows == [(step, {"loss": 1.0}) for step in range(1, 5)]
    assert len(heard.rows) == 4 and whole.closed == 1
    (note,) = heard.notes
    assert "broken" in note and "disk is full" in note


def test_a_sink_that_cannot_be_opened_or_closed_ends_nothing():
    heard = Heard()

    def refusing():
        raise RuntimeError("no such server")

    class Stuck(Kept):
        def close(self):
            raise RuntimeError("stuck")

    told = Told(heard, [("stuck", Stuck())])
    told.add("refusing", refusing)
    told.started(step=0, steps=1)
    told.saved(None)
    told.ended()
    told.close()
    assert ["refusing" in heard.notes[0], "stuck" in heard.notes[1]] == [True, True]
    assert heard.calls == ["started", "saved", "ended"]


def test_weights_and_biases_gets_settings_and_rows_and_stays_offline(dense, run_of):
    calls = []

    class Module:
        @staticmethod
        def init(**settings):
            calls.append(("init", settings))
            return Module()

        def log(self, numbers, *, step):
            calls.append(("log", step, numbers))

        def finish(self):
            calls.append(("finish",))

    class Run:
        def __init__(self, result):
            self.path, self.reader = result.run, RunReader(result.run)

    result = run_of(dense, steps=1)
    sink = WandbSink(Run(result), 0, Module)
    sink.row(1, {"loss": 2.0})
    sink.close()
    assert calls[0][1]["mode"] == "offline" and calls[0][1]["dir"] == str(result.run)
    assert calls[0][1]["config"]["train"]["steps"] == 1
    assert calls[1:] == [("log", 1, {"loss": 2.0}), ("finish",)]


def test_a_listener_is_itself_where_there_are_no_sinks():
    heard = Heard()
    with with_sinks(heard, Watch(), None, step=0) as told:
        assert told is heard


@pytest.mark.skipif(not HAS["tensorboard"], reason="tensorboard is not installed")
def test_tensorboard_reads_back_what_was_written(dense, run_of):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_of(dense, watch=Watch(sinks=("tensorboard",), every=2))
    read = EventAccumulator(str(result.run / "tensorboard"))
    read.Reload()
    rows = RunReader(result.run).metrics()
    assert [(e.step, pytest.approx(e.value)) for e in read.Scalars("loss")] == [(r["step"], r["loss"]) for r in rows]
    assert "sink_mass/layers.0.mixer" in read.Tags()["scalars"]


@pytest.mark.slow
@pytest.mark.skipif(not HAS["wandb"], reason="wandb is not installed")
def test_wandb_writes_an_offline_run(dense, run_of):
    result = run_of(dense, watch=Watch(sinks=("wandb",), every=2))
    (file,) = (result.run / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"sink_mass/layers.0.mixer" in file.read_bytes()
    json.dumps(RunReader(result.run).record())
