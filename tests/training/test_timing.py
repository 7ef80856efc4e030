"""How long a run will take: its counts are exact, its arithmetic is stated, and a bound is a bound."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from vitruvius.runs import RunReader
from vitruvius.sizing.hardware import device_named
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.measured_time import LEAST, LEFT_OUT, MOST, measure, measured_estimate
from vitruvius.training.plan import plan
from vitruvius.training.request import Request
from vitruvius.training.settings import EngineSettings, Samples
from vitruvius.training.timing import Counts, Measured, bounded, checkpoint_bytes, counts_of, extrapolated


class Heard:
    """Counts what a run does."""

    def __init__(self):
        self.saves = 0

    def started(self, *, step, steps):
        pass

    def row(self, row):
        pass

    def saved(self, checkpoint):
        self.saves += 1

    def note(self, text):
        pass

    def ended(self):
        pass


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 7, "checkpoint_every": 2, "eval_every": 3, "eval_batches": 1},
        {"steps": 6, "checkpoint_every": 2, "eval_every": 3, "eval_batches": 1},
        {"steps": 4, "checkpoint_every": 9, "eval_every": 0, "eval_batches": None, "final_eval_batches": None},
        {
            "steps": 5,
            "checkpoint_every": 1,
            "eval_every": 1,
            "eval_batches": 2,
            "final_eval_batches": 3,
            "accumulate": 2,
        },
        {"steps": 1, "samples": Samples(every=3, max_tokens=2)},
        {"steps": 6, "samples": Samples(every=2, max_tokens=2)},
    ],
)
def test_a_run_does_what_was_counted(settings, dense, data, run_of):
    heard = Heard()
    run = run_of(dense, listener=heard, **settings).run
    counts = counts_of(
        ensure(
            TrainConfig(**{"batch": 4, "checkpoint_every": 2, "eval_every": 0, "eval_batches": 1, **settings}), dense
        ),
        data,
    )
    rows = RunReader(run).metrics()
    scored = [row["val_tokens"] for row in rows if "val_tokens" in row]
    assert counts.updates == len(rows)
    assert counts.validations == len(scored)
    assert counts.windows * dense.context == sum(scored)
    assert counts.checkpoints == heard.saves
    written = (run / "samples.jsonl").read_text().count("\n") if (run / "samples.jsonl").exists() else 0
    assert counts.samples == written


def test_the_whole_is_the_parts_times_their_counts():
    counts = Counts(updates=100, validations=3, windows=40, checkpoints=5, samples=2)
    found = extrapolated(
        Measured(updates=(1.0, 3.0, 2.0, 8.0), window=0.5, checkpoint=2.0, sample=4.0, left_out=2), counts
    )
    assert found.update_seconds == 2.5
    assert found.seconds == 250 + 20 + 10 + 8
    assert (found.seconds_low, found.seconds_high) == (100 + 38, 800 + 38)
    assert (found.validation_seconds, found.checkpoint_seconds, found.sample_seconds) == (20, 10, 8)
    assert "1 to 8 s" in found.notes[0]
    assert extrapolated(Measured(updates=(3.0,), window=0, checkpoint=0, sample=0, left_out=0), counts).seconds == 300


def request_of(architecture, data, **settings):
    from vitruvius.spec import to_yaml
    from vitruvius.spec.reading import read_with_findings
    from vitruvius.spec.tree import Mark, node_at

    reading = replace(read_with_findings("tiny-llama"), architecture=architecture, text=to_yaml(architecture))
    config = ensure(TrainConfig(**{"batch": 4, "threads": 1, "eval_batches": 1, **settings}), architecture)
    return Request(reading=reading, data=data, out=data, config=config, section=node_at({}, Mark("x", 1, 1)))


def ticking():
    """A clock that moves a second each time it is looked at."""
    now = iter(range(10**6))
    return lambda: float(next(now))


def test_a_few_real_updates_are_measured_within_a_budget(dense, data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = {"steps": 1000, "eval_every": 10, "samples": Samples(every=100, max_tokens=2)}
    found = measure(request_of(dense, data, **settings), clock=ticking())
    # By its own clock ten seconds are over soon after the least number of updates.
    assert LEAST <= len(found.updates) <= 12
    assert all(seconds > 0 for seconds in found.updates)
    assert found.window > 0 and found.checkpoint > 0 and found.sample > 0
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_stands_ends_at_the_most(dense, data):
    found = measure(request_of(dense, data, steps=1000), clock=lambda: 0.0)
    assert len(found.updates) == MOST and found.left_out == LEFT_OUT and found.sample == 0


def test_a_run_that_is_shorter_than_the_measurement_is_measured_all_the_same(dense, data):
    found = measured_estimate(request_of(dense, data, steps=1))
    assert found.updates_measured == 1 and found.counts.updates == 1


class WorkClock:
    """Time that passes when work is done: 2 s an update, 3 s a checkpoint, a quarter of a second a held-out window."""

    def __init__(self, monkeypatch):
        from vitruvius.training.evaluate import Validation
        from vitruvius.training.saving import Saver
        from vitruvius.training.updating import Updater

        self.now = 0.0
        self.after(monkeypatch, Updater, "gradients", lambda *_: 2.0)
        self.after(monkeypatch, Saver, "start", lambda *_: 3.0)
        self.after(monkeypatch, Validation, "score", lambda one, _, batches, *__: 0.25 * windows(one, batches))
        monkeypatch.setattr("vitruvius.training.loop.time", SimpleNamespace(perf_counter=self))

    def __call__(self):
        return self.now

    def after(self, monkeypatch, owner, name, cost):
        work = getattr(owner, name)

        def slow(*arguments, **more):
            self.now += cost(*arguments)
            return work(*arguments, **more)

        monkeypatch.setattr(owner, name, slow)


def windows(validation, batches):
    whole = validation.batches.windows
    return whole if batches is None else min(whole, batches * validation.per_batch * validation.batches.batch)


def test_the_estimate_is_what_the_run_takes_where_nothing_else_moves_the_clock(dense, data, run_of, monkeypatch):
    settings = {"steps": 40, "eval_every": 15, "checkpoint_every": 12, "eval_batches": 2, "final_eval_batches": None}
    clock = WorkClock(monkeypatch)
    estimate = measured_estimate(request_of(dense, data, **settings), clock=clock)
    clock.now = 0.0
    run_of(dense, **settings)
    assert estimate.seconds == pytest.approx(clock.now)
    assert estimate.update_seconds == 2.0 and estimate.checkpoint_seconds == 4 * 3.0


def test_several_processes_are_not_measured(dense, data):
    from vitruvius.errors import UsageError

    with pytest.raises(UsageError, match="one process is measured"):
        measured_estimate(request_of(dense, data, engine=EngineSettings(kind="ddp")))


def test_measuring_leaves_no_trace_in_what_is_trained_next(dense, data, run_of):
    before = run_of(dense, "before").run
    measure(request_of(dense, data, steps=6))
    after = run_of(dense, "after").run
    name = "checkpoints/step-6/manifest.json"
    assert (before / name).read_bytes() == (after / name).read_bytes()


def test_a_bound_is_the_roofline_of_the_updates_and_the_forward_passes_of_held_out_text(dense, data):
    from vitruvius.sizing import size

    request = request_of(dense, data, steps=50, eval_every=10)
    device = device_named("rtx-4090")
    counts = counts_of(request.config, data)
    found = bounded(dense, request.config, counts, device)
    bill = size(dense, context=32, mode="train", dtype="bf16")
    least = bill.train_flops_per_token * 50 * 4 * 32 / device.flops["bf16"]
    assert found.updates_seconds >= least * 0.999
    forward = bill.train_flops_per_token / 3 * counts.windows * 32 / device.flops["bf16"]
    assert found.validation_seconds == pytest.approx(forward)
    assert found.seconds == found.updates_seconds + found.validation_seconds
    assert found.seconds_expected > found.seconds and found.seconds_high is None
    planned = plan(request, on=device)
    assert planned.time == found and planned.to_dict()["time"]["source"] == "bound"
    assert plan(request).to_dict()["time"] is None


def test_the_bytes_of_a_checkpoint_are_those_on_disk(dense, run_of):
    run = run_of(dense, steps=2).run
    written = sum(path.stat().st_size for path in (run / "checkpoints" / "step-2").glob("*.safetensors"))
    config = ensure(TrainConfig(batch=4), dense)
    assert checkpoint_bytes(dense, config) == pytest.approx(written, rel=0.1)
