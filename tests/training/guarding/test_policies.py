"""Every policy against an injected fault: what is seen, done and kept, and that a resumed run does it too."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitruvius.errors import RunError
from vitruvius.nn.routers.softmax import SoftmaxRouterModule
from vitruvius.runs import Checkpoint, RunReader
from vitruvius.runs.anomalies import anomalies_of
from vitruvius.training import resume
from vitruvius.training.checking import from_plain
from vitruvius.training.loading.loader import BatchLoader
from vitruvius.training.master import MasterOptimizer
from vitruvius.training.schedules import learning_rate
from vitruvius.training.settings import Guard
from vitruvius.training.settings.alarms import DETECTORS, Rule
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Updater

LONG = {"steps": 24, "checkpoint_every": 4, "keep": 3, "lr": 1e-3}


def events(run, *kinds):
    return [event for event in RunReader(run).events() if event["kind"] in kinds]


def rows(run):
    return list(RunReader(run).metrics())


def weights(run):
    return load_file(RunReader(run).checkpoints()[-1].path / "model.safetensors")


@pytest.fixture
def after_update(monkeypatch):
    """Calls `fault(model, optimizer)` after the optimizer's step of chosen updates, counted from 1."""

    def plant(fault, *, at=None):
        original, count = Updater.apply, [0]

        def apply(self, *args, **kwargs):
            out = original(self, *args, **kwargs)
            count[0] += 1
            if at is None or count[0] == at:
                fault(self.model, self.optimizer)
            return out

        monkeypatch.setattr(Updater, "apply", apply)

    return plant


@pytest.fixture
def in_gradients(monkeypatch):
    """Calls `fault(model)` on the gradients of one batch, given by its number."""

    def plant(fault, *, batch):
        original, at = BatchLoader.at, [None]

        def seen(self, number):
            at[0] = number
            return original(self, number)

        monkeypatch.setattr(BatchLoader, "at", seen)
        norm = MasterOptimizer.grad_norm

        def grad_norm(self, *args, **kwargs):
            if at[0] == batch:
                fault(self)
            return norm(self, *args, **kwargs)

        monkeypatch.setattr(MasterOptimizer, "grad_norm", grad_norm)

    return plant


@pytest.fixture
def corrupted(monkeypatch):
    """Targets of some batches become one token that is never right."""

    def plant(*batches):
        original = BatchLoader.at

        def at(self, number):
            found = original(self, number)
            return replace(found, targets=np.full_like(found.targets, 7)) if number in batches else found

        monkeypatch.setattr(BatchLoader, "at", at)

    return plant


def poison(model, optimizer):
    """NaN in one weight, and in the master it is rounded from."""
    with torch.no_grad():
        model.layers[1].ffn.down.weight[3, 5] = math.nan
        for name, tensor in optimizer.tensors().items():
            if name == "master.layers.1.ffn.down.weight":
                tensor[3, 5] = math.nan


# ----------------------------------------------------------------------------------------------------------------------
# Numbers that are none


def test_a_nan_in_a_weight_is_named_and_a_rewind_takes_it_back(dense, run_of, after_update):
    after_update(poison, at=10)
    done = run_of(dense, **LONG, guard=Guard(not_finite="rewind"))
    assert done.status == "finished"
    (event,) = events(done.run, "not-finite")
    assert event["step"] == 11
    assert event["first_bad"] == {"where": "weights", "name": "layers.1.ffn.down.weight", "samples": []}
    assert all(torch.isfinite(tensor).all() for tensor in weights(done.run).values())


@pytest.mark.parametrize("policy", ["skip", "lower-lr"])
def test_a_nan_in_a_weight_is_beyond_skipping_and_retries_end(dense, run_of, after_update, policy, tmp_path):
    after_update(poison, at=10)
    with pytest.raises(RunError, match="after 3 retries"):
        run_of(dense, **LONG, guard=Guard(not_finite=policy, retries=3))
    assert [event["verdict"] for event in events(tmp_path / "run", "not-finite")] == [policy] * 3 + ["stop"]


@pytest.mark.parametrize("policy", ["skip", "lower-lr", "rewind"])
def test_an_infinite_gradient_of_one_batch_is_survived(dense, run_of, in_gradients, policy):
    def fault(optimizer):
        next(iter(optimizer.slots())).parameter.grad[0, 0] = math.inf

    in_gradients(fault, batch=10)
    done = run_of(dense, **LONG, guard=Guard(not_finite=policy))
    (event,) = events(done.run, "not-finite")
    assert (event["step"], event["verdict"], event["seen"][0]["what"]) == (11, policy, "grad_norm")
    assert done.status == "finished"
    assert all(torch.isfinite(tensor).all() for tensor in weights(done.run).values())


# ----------------------------------------------------------------------------------------------------------------------
# Spikes


@pytest.mark.parametrize("policy", ["note", "skip", "lower-lr", "rewind"])
def test_corrupted_tokens_are_a_spike(dense, run_of, corrupted, policy):
    corrupted(15)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    done = run_of(dense, **settings, guard=Guard(window=8, loss_z=4.0, grad_z=None, spike=policy))
    (event,) = events(done.run, "spike")
    assert (event["step"], event["verdict"], event["seen"][0]["what"]) == (16, policy, "loss")
    applied = [row["step"] for row in rows(done.run) if row.get("applied", 1) == 0]
    assert applied == {"note": [], "skip": [16], "lower-lr": [16], "rewind": []}[policy]
    assert bool(events(done.run, "rewound")) == (policy == "rewind")


def test_a_spike_stops_a_run_that_says_so_with_the_state_before_it(dense, run_of, corrupted, tmp_path):
    corrupted(15)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    with pytest.raises(RunError, match="the loss of step 16"):
        run_of(dense, **settings, guard=Guard(window=8, loss_z=4.0, grad_z=None, spike="stop"))
    assert RunReader(tmp_path / "run").checkpoints()[-1].step == 15


def test_an_exploding_norm_is_a_spike_of_its_own(dense, run_of, in_gradients):
    def fault(optimizer):
        for slot in optimizer.slots():
            slot.parameter.grad.mul_(1e6)

    in_gradients(fault, batch=15)
    done = run_of(dense, **LONG, guard=Guard(window=8, spike="skip"))
    (event,) = events(done.run, "spike")
    assert [(sight["what"], float(sight["value"]) > 1e5) for sight in event["seen"]] == [("grad_norm", True)]
    assert rows(done.run)[15]["applied"] == 0


# ----------------------------------------------------------------------------------------------------------------------
# Alarms


def swell(factor):
    """Queries and keys of one layer grow with every update."""

    def fault(model, optimizer):
        kept = optimizer.tensors()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in {"layers.1.mixer.q.weight", "layers.1.mixer.k.weight"}:
                    parameter.mul_(factor)
                    if f"master.{name}" in kept:
                        kept[f"master.{name}"].mul_(factor)

    return fault


def test_drifting_attention_is_an_alarm_long_before_the_loss_moves(dense, run_of, after_update):
    after_update(swell(1.25))
    guard = Guard(every=2, window=16, loss_z=6.0, grad_z=None, keep="nothing")
    stop = StopRequest()
    settings = {"steps": 120, "checkpoint_every": 120, "lr": 1e-2, "warmup": 1, "guard": guard}
    done = run_of(dense, **settings, stop=stop, listener=Stopping(stop, 70))
    alarm = events(done.run, "alarm")[0]
    (sight,) = alarm["seen"]
    assert sight["what"] == "attention-logit"
    assert sight["place"].startswith("layers.1.mixer head ")
    spikes = [event["step"] for event in events(done.run, "spike") if event["seen"][0]["what"] == "loss"]
    losses = [row["loss"] for row in rows(done.run)]
    # The loss still falls when the alarm is raised, and for a good while after it.
    assert alarm["step"] <= 20
    assert losses[alarm["step"] + 10] < losses[alarm["step"] - 1] - 0.3
    assert spikes[0] >= alarm["step"] + 30


@pytest.mark.parametrize("policy", ["note", "lower-lr", "rewind", "stop"])
def test_every_policy_answers_an_alarm(dense, run_of, after_update, policy, tmp_path):
    after_update(swell(4.0), at=9)
    rules = {**dict.fromkeys(DETECTORS), "attention-logit": Rule(growth=8.0)}
    guard = Guard(every=3, baseline=2, alarm=policy, alarms=rules)
    if policy == "stop":
        with pytest.raises(RunError, match=r"the attention-logit of step 12 is .* \(over .*, growth\)"):
            run_of(dense, **LONG, guard=guard)
        assert RunReader(tmp_path / "run").checkpoints()[-1].step == 11
        # What is saved is the state before the update, the alarm not yet raised.
        with pytest.raises(RunError, match="the attention-logit of step 12"):
            resume(tmp_path / "run")
        return
    done = run_of(dense, **LONG, guard=guard)
    (event,) = events(done.run, "alarm")
    (sight,) = event["seen"]
    assert (event["step"], event["verdict"]) == (12, policy)
    assert (sight["what"], sight["rule"], sight["place"].split(" ")[0]) == (
        "attention-logit",
        "growth",
        "layers.1.mixer",
    )
    assert float(sight["value"]) > sight["limit"]
    found = rows(done.run)
    factors = [row["lr"] / plain for row, plain in zip(found, scheduled(done.run), strict=True)]
    assert factors[10] == 1.0 or policy == "rewind"
    assert factors[-1] == pytest.approx(1.0 if policy == "note" else 0.5)
    assert [row["step"] for row in found if row.get("applied", 1) == 0] == ([12] if policy == "lower-lr" else [])
    assert bool(events(done.run, "rewound")) == (policy == "rewind")


def scheduled(run):
    config = from_plain(RunReader(run).record()["config"]["train"])
    return [learning_rate(config, step) for step in range(config.steps)]


def test_a_dead_router_is_an_alarm_that_names_the_expert(mixture, run_of, monkeypatch):
    def pick(self, choose, signals):
        chosen = original(self, choose, signals)
        return chosen % 2 if calls[0] > 10 else chosen  # two of four experts get everything

    original, calls = SoftmaxRouterModule.pick, [0]
    before = Updater.gradients

    def gradients(self, batch, stop):
        calls[0] += 1
        return before(self, batch, stop)

    monkeypatch.setattr(SoftmaxRouterModule, "pick", pick)
    monkeypatch.setattr(Updater, "gradients", gradients)
    done = run_of(mixture, **LONG, guard=Guard(every=1))
    (sight, *_) = [s for e in events(done.run, "alarm") for s in e["seen"] if s["what"] == "dead-experts"]
    assert sight["place"] == "layers.1.ffn.router first expert 2"
    (event,) = [e for e in events(done.run, "alarm") if any(s["what"] == "dead-experts" for s in e["seen"])]
    assert event["step"] == 15  # five readings in a row
    assert rows(done.run)[-1]["dead_experts/layers.1.ffn.router"] == 2


class Stopping:
    """A listener that asks a run to stop after some rows."""

    def __init__(self, stop, rows):
        self.stop, self.left = stop, rows

    def row(self, row):
        self.left -= 1
        if self.left == 0:
            self.stop.ask(15)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


TIMES = {"tokens_per_second", "guard_seconds", "watch_seconds", "watch_share"}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["note", "lower-lr", "rewind"])
@pytest.mark.parametrize("stop_at", [5, 10], ids=str)
def test_a_run_with_alarms_that_was_stopped_goes_on_to_the_same_bits(mixture, run_of, policy, stop_at):
    # Rules that ordinary growth breaks several times, each in its own way. Going back helps only where the checkpoint
    # is within the limit, and a lower rate then keeps it there for a while.
    rules = {
        "stream-rms": Rule(growth=1.02),
        "embedding-norm": Rule(above=0.2, lasting=2),
        "update-ratio": Rule(above=1e-3, lasting=2),
    }
    if policy == "rewind":
        rules = {**dict.fromkeys(DETECTORS), "stream-rms": Rule(above=0.06)}
    guard = Guard(every=3, baseline=1, alarm=policy, alarms=rules, retries=20)
    settings = {**LONG, "lr": 3e-3, "guard": guard}
    straight = run_of(mixture, "straight", **settings)
    assert len(events(straight.run, "alarm")) >= 2
    stop = StopRequest()
    halted = run_of(mixture, "halted", **settings, stop=stop, listener=Stopping(stop, stop_at))
    assert halted.status == "stopped"
    assert resume(halted.run).status == "finished"
    one, other = weights(straight.run), weights(halted.run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for first, second in zip(rows(straight.run), rows(halted.run), strict=True):
        assert {k: v for k, v in first.items() if k not in TIMES} == {k: v for k, v in second.items() if k not in TIMES}
    newest = [RunReader(run).checkpoints()[-1].path / "state.json" for run in (straight.run, halted.run)]
    states = [json.loads(path.read_text())["companions"]["alarms"] for path in newest]
    assert states[0] == states[1]


@pytest.mark.slow
def test_detectors_change_nothing_while_they_only_note(mixture, run_of):
    watched = run_of(mixture, "watched", **LONG, guard=Guard(every=1))
    plain = run_of(mixture, "plain", **LONG, guard=Guard(every=None))
    one, other = weights(watched.run), weights(plain.run)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_detectors_that_fail_are_named_and_left_out(dense, run_of, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no memory for maps")

    monkeypatch.setattr("vitruvius.training.guarding.readers.read_pass", broken)
    done = run_of(dense, guard=Guard(every=2))
    (event,) = events(done.run, "detectors-failed")
    assert "no memory for maps" in event["error"]
    assert done.status == "finished"
    assert "embedding_norm_max/embedding" in rows(done.run)[-1]


# ----------------------------------------------------------------------------------------------------------------------
# What is kept


def test_the_batch_and_the_state_before_it_are_set_aside(dense, run_of, corrupted, data):
    corrupted(15)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    done = run_of(dense, **settings, guard=Guard(window=8, loss_z=4.0, grad_z=None, spike="skip"))
    (anomaly,) = anomalies_of(done.run)
    assert str(anomaly) == "step 16 (spike: skip, with the state before it)"
    told = json.loads((anomaly.path / "anomaly.json").read_text())
    assert (told["kind"], told["verdict"], told["batch"], told["checkpoint"]) == ("spike", "skip", 15, "step-15")
    samples = [json.loads(line) for line in (anomaly.path / "samples.jsonl").read_text().splitlines()]
    (event,) = events(done.run, "spike")
    assert [sample["sample"] for sample in samples] == event["sample_ids"]
    assert [sample["epoch"] for sample in samples] == event["epochs"]
    assert all(len(sample["tokens"]) == 32 for sample in samples)
    assert "times" in " ".join(sample["text"] for sample in samples)
    # Without dropout the mean of the samples' losses is the batch's, up to the rounding of bf16.
    assert np.mean([sample["loss"] for sample in samples]) == pytest.approx(float(event["seen"][0]["value"]), rel=2e-2)
    Checkpoint(step=15, path=anomaly.path / "step-15").verify()


def test_the_state_that_was_set_aside_does_it_again(dense, run_of, corrupted):
    corrupted(15)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    done = run_of(dense, **settings, guard=Guard(window=8, loss_z=4.0, grad_z=None, spike="skip"))
    (anomaly,) = anomalies_of(done.run)
    first, before = rows(done.run), weights(done.run)
    checkpoints = done.run / "checkpoints"
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    shutil.copytree(anomaly.path / "step-15", checkpoints / "step-15")
    assert resume(done.run).status == "finished"
    again, after = rows(done.run), weights(done.run)
    assert [row["loss"] for row in again] == [row["loss"] for row in first]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_newest_stay_and_what_was_noted_leaves_no_checkpoint(dense, run_of, corrupted):
    corrupted(12, 15, 18, 21)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    done = run_of(dense, **settings, guard=Guard(window=8, loss_z=3.0, grad_z=None, keep_newest=2))
    seen = [event["step"] for event in events(done.run, "spike")]
    assert len(seen) >= 3
    kept = anomalies_of(done.run)
    assert [anomaly.step for anomaly in kept] == seen[-2:]
    assert not any(anomaly.has_checkpoint for anomaly in kept)
    nothing = run_of(dense, "nothing", **settings, guard=Guard(window=8, loss_z=3.0, grad_z=None, keep="nothing"))
    assert anomalies_of(nothing.run) == ()


def test_a_disk_that_is_full_costs_the_folder_and_not_the_run(dense, run_of, corrupted, monkeypatch):
    corrupted(15)

    class Notes(Stopping):
        def __init__(self):
            self.told = []

        def row(self, row):
            pass

        def note(self, text):
            self.told.append(text)

    monkeypatch.setattr("vitruvius.training.guarding.keeping.size_of", lambda contents: 1 << 60)
    listener = Notes()
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    guard = Guard(window=8, loss_z=4.0, grad_z=None, spike="skip")
    done = run_of(dense, **settings, guard=guard, listener=listener)
    assert done.status == "finished"
    assert any("was not set aside" in text and "free" in text for text in listener.told)
    assert list((done.run / "anomalies").iterdir()) == []


def test_leftovers_of_a_kill_are_cleared_and_are_no_anomalies(dense, run_of, corrupted):
    corrupted(15)
    settings = {**LONG, "lr": 1e-2, "warmup": 1}
    stop = StopRequest()
    guard = Guard(window=8, loss_z=4.0, grad_z=None)
    halted = run_of(dense, **settings, guard=guard, stop=stop, listener=Stopping(stop, 12))
    leftover = halted.run / "anomalies" / ".step-9.partial"
    leftover.mkdir(parents=True)
    (leftover / "samples.jsonl").write_text("half")
    (halted.run / "anomalies" / "step-x").mkdir()
    (halted.run / "anomalies" / "step-7").mkdir()
    (halted.run / "anomalies" / "step-7" / "anomaly.json").write_bytes(b"\xff{")
    assert [(a.step, a.kind) for a in anomalies_of(halted.run)] == [(7, "unreadable")]
    resume(halted.run)
    assert not leftover.exists()
    assert [(a.step, a.kind) for a in anomalies_of(halted.run)] == [(7, "unreadable"), (16, "spike")]
