"""The guard: what it sees, what it does about it, and that a resumed run does the same."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from vitruvius.errors import RunError, SpecError
from vitruvius.nn import Model, build
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import from_plain
from vitruvius.training.guarding.judge import Judge, deviations
from vitruvius.training.session import begin
from vitruvius.training.settings import Guard
from vitruvius.training.stopping import StopRequest
from vitruvius.training.updating import Gathered


def gathered(loss: float = 2.0, norm: float = 1.0) -> Gathered:
    return Gathered(loss=loss, objective=loss, grad_norm=norm, metrics={})


def judge_after(losses, norms=None, **settings) -> Judge:
    judge = Judge(Guard(window=16, **settings))
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        judge.applied(loss, norm)
    return judge


def test_deviations_are_those_of_a_normal_distribution():
    draw = random.Random(0)
    values = [draw.gauss(5.0, 2.0) for _ in range(20_000)]
    assert deviations(11.0, values) == pytest.approx(3.0, abs=0.05)


def test_a_spike_does_not_hide_the_next_one():
    noise = [2.0 + 0.01 * math.sin(number) for number in range(15)]
    with_spike = judge_after([*noise, 50.0])
    assert with_spike.judge(gathered(loss=3.0)).verdict == "note"


def test_nothing_is_a_spike_until_the_window_is_full():
    assert judge_after([2.0] * 15).judge(gathered(loss=1e6)).verdict == "apply"
    assert judge_after([2.0] * 16).judge(gathered(loss=1e6)).verdict == "note"


@pytest.mark.parametrize(
    ("seen", "what"),
    [(gathered(loss=9.0), "loss"), (gathered(norm=1e9), "grad_norm"), (gathered(loss=math.nan), "loss")],
    ids=["loss", "norm", "nan"],
)
def test_what_was_seen_is_named_with_its_value_and_limit(seen, what):
    noise = [2.0 + 0.01 * math.sin(number) for number in range(16)]
    judgement = judge_after(noise, [1.0 + 0.01 * math.cos(n) for n in range(16)], spike="skip").judge(seen)
    assert [sight.what for sight in judgement.sights] == [what]
    assert judgement.verdict == ("stop" if math.isnan(seen.loss) else "skip")


def test_a_falling_loss_is_no_spike():
    falling = [5.0 - 0.1 * number for number in range(16)]
    assert judge_after(falling).judge(gathered(loss=3.0)).verdict == "apply"


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"spike": "explode"}, "train.guard.spike"),
        ({"loss_z": -1}, "train.guard.loss_z"),
        ({"lr_cut": 1.0}, "train.guard.lr_cut"),
        ({"windw": 8}, "train.guard.windw"),
        ({"spike": "skip", "loss_z": None, "grad_z": None}, "train.guard.spike"),
    ],
)
def test_a_guard_that_cannot_be_meant_is_refused_at_its_setting(settings, path):
    with pytest.raises(SpecError) as caught:
        from_plain({"guard": settings})
    assert path in [finding.path for finding in caught.value.findings]


# ----------------------------------------------------------------------------------------------------------------------
# In a run, with a fault at one batch


@pytest.fixture
def fault(monkeypatch):
    """Multiplies the loss of chosen batches (by the number of training calls) while it is on."""
    original = Model.loss
    bad: dict[str, object] = {}

    def sick(self, tokens, *args, **kwargs):
        loss = original(self, tokens, *args, **kwargs)
        if kwargs.get("per_token") or not torch.equal(tokens, bad.get("tokens", torch.empty(0))):
            return loss
        return loss * bad["factor"]

    monkeypatch.setattr(Model, "loss", sick)

    def plant(tokens: torch.Tensor, factor: float) -> None:
        bad.update(tokens=tokens, factor=factor)

    return plant


def batch_of(run, step: int) -> torch.Tensor:
    """What the run reads at a step, counted from 0."""
    from vitruvius.data import TokenShards
    from vitruvius.training.config import batches_of

    record = RunReader(run).record()
    config = from_plain(record["config"]["train"])
    return torch.from_numpy(batches_of(TokenShards.open(record["data"]["path"]), config).at(step).inputs)


def weights(run):
    from safetensors.torch import load_file

    (newest,) = RunReader(run).checkpoints()[-1:]
    return load_file(newest.path / "model.safetensors")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


LONG = {"steps": 24, "checkpoint_every": 4, "keep": 3, "lr": 1e-3}


@pytest.mark.parametrize("action", ["skip", "lower-lr", "rewind"])
@pytest.mark.parametrize("factor", [math.nan, math.inf], ids=["nan", "inf"])
def test_a_run_survives_a_batch_that_is_not_finite(dense, run_of, fault, action, factor):
    plain = run_of(dense, "plain", **LONG)
    fault(batch_of(plain.run, 10), factor)
    done = run_of(dense, "sick", **LONG, guard=Guard(not_finite=action))
    assert done.status == "finished"
    rows = RunReader(done.run).metrics()
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert all(math.isfinite(row["loss"]) for row in rows if row.get("applied", 1))
    (event,) = [event for event in RunReader(done.run).events() if event["kind"] == "not-finite"]
    assert (event["step"], event["verdict"]) == (11, action)
    assert event["first_bad"]["where"] == "loss"
    if action == "skip":
        assert [row["step"] for row in rows if row.get("applied", 1) == 0] == [11]
        assert [row["lr"] for row in rows] == [row["lr"] for row in RunReader(plain.run).metrics()]
    elif action == "lower-lr":
        assert rows[11]["lr"] == RunReader(plain.run).metrics()[11]["lr"] / 2
    else:
        # Back to step 8; step 9 reads the batch after the bad one.
        assert rows[8]["samples"] != RunReader(plain.run).metrics()[8]["samples"]
        assert [row["loss"] for row in rows[:8]] == [row["loss"] for row in RunReader(plain.run).metrics()[:8]]
    assert all(torch.isfinite(tensor).all() for tensor in weights(done.run).values())


def test_a_skipped_update_changes_no_weight(dense, run_of, fault):
    settings = {"steps": 3, "checkpoint_every": 1, "keep": 3, "warmup": 1, "schedule": "constant"}
    plain = run_of(dense, "plain", **settings)
    fault(batch_of(plain.run, 1), math.nan)
    sick = run_of(dense, "sick", **settings, guard=Guard(not_finite="skip"))
    first, second, _ = (checkpoint.path / "model.safetensors" for checkpoint in RunReader(sick.run).checkpoints())
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("action", ["skip", "lower-lr", "rewind"])
@pytest.mark.parametrize("stop_at", [9, 11, 14], ids=str)
def test_a_guarded_run_that_was_stopped_goes_on_to_the_same_bits(dense, run_of, fault, action, stop_at):
    plain = run_of(dense, "plain", **LONG)
    fault(batch_of(plain.run, 10), math.nan)
    guard = Guard(not_finite=action)
    straight = run_of(dense, "straight", **LONG, guard=guard)

    class Stopping:
        def __init__(self, stop):
            self.stop, self.rows = stop, 0

        def row(self, row):
            self.rows += 1
            if self.rows == stop_at:
                self.stop.ask(15)

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    stop = StopRequest()
    halted = run_of(dense, "halted", **LONG, guard=guard, stop=stop, listener=Stopping(stop))
    assert halted.status == "stopped"
    assert resume(halted.run).status == "finished"
    assert same(weights(straight.run), weights(halted.run))
    one, other = (RunReader(run).metrics() for run in (straight.run, halted.run))
    drop = {"tokens_per_second"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in one] == [
        {k: v for k, v in row.items() if k not in drop} for row in other
    ]


def test_a_rewind_goes_back_to_no_start_that_a_stop_has_saved(dense, run_of, fault):
    settings = {"steps": 5, "checkpoint_every": 4}
    fault(batch_of(run_of(dense, "plain", **settings).run, 2), math.nan)
    guard = Guard(not_finite="rewind")
    straight = run_of(dense, "straight", **settings, guard=guard)
    assert not [event for event in RunReader(straight.run).events() if event["kind"] == "rewound"]
    stop = StopRequest()
    stop.ask(15)
    halted = run_of(dense, "halted", **settings, guard=guard, stop=stop)
    assert (halted.status, halted.step) == ("stopped", 0)
    assert resume(halted.run).status == "finished"
    assert same(weights(straight.run), weights(halted.run))


def test_a_rewind_goes_back_to_the_weights_that_a_run_was_begun_with(dense, run_of, fault, data, tmp_path):
    settings = {"steps": 5, "batch": 4, "threads": 1, "checkpoint_every": 4, "eval_every": 0, "eval_batches": 1}
    fault(batch_of(run_of(dense, "plain", **settings).run, 2), math.nan)
    config = TrainConfig(**settings, guard=Guard(not_finite="rewind"))
    begin(build(dense, dtype="fp32", seed=9), data=data, out=tmp_path / "begun", made_from="a test", config=config)
    assert resume(tmp_path / "begun").status == "finished"
    (event,) = [event for event in RunReader(tmp_path / "begun").events() if event["kind"] == "rewound"]
    assert event["to_step"] == 0


def test_routers_forget_the_load_of_an_update_that_was_skipped(mixture, run_of, fault, monkeypatch):
    # The balance loss reads the load gathered over an update: after a skipped one it must be that of the next alone.
    from vitruvius.nn.updates import gathered_by
    from vitruvius.training.updating import Updater

    settings = {"steps": 6, "checkpoint_every": 6}
    plain = run_of(mixture, "plain", **settings)
    fault(batch_of(plain.run, 2), math.nan)
    starts: list[list[object]] = []
    original = Updater.gradients

    def watched(self, batch, stop):
        starts.append([known for _, known in gathered_by(self.model)])
        return original(self, batch, stop)

    monkeypatch.setattr(Updater, "gradients", watched)
    run_of(mixture, "sick", **settings, guard=Guard(not_finite="skip"))
    assert starts[0]
    for start in starts:
        assert all(torch.equal(one, other) for one, other in zip(start, starts[0], strict=True))


@pytest.mark.slow
def test_a_spike_is_noted_by_default_and_the_bits_stay(dense, run_of, fault):
    settings = {"steps": 24, "checkpoint_every": 24}
    guard = Guard(window=8, loss_z=4.0)
    plain = run_of(dense, "plain", **settings, guard=guard)
    fault(batch_of(plain.run, 15), 50.0)
    noted = run_of(dense, "noted", **settings, guard=guard)
    (event,) = [event for event in RunReader(noted.run).events() if event["kind"] == "spike"]
    assert (event["step"], event["verdict"]) == (16, "note")
    assert {sight["what"] for sight in event["seen"]} >= {"loss"}
    assert len(event["sample_ids"]) == 4
    skipped = run_of(dense, "skipped", **settings, guard=Guard(window=8, loss_z=4.0, spike="skip"))
    assert RunReader(skipped.run).metrics()[15]["applied"] == 0


def test_retries_are_bounded(dense, run_of, monkeypatch):
    original = Model.loss
    monkeypatch.setattr(Model, "loss", lambda self, *a, **k: original(self, *a, **k) * math.nan)
    with pytest.raises(RunError, match="after 3 retries"):
        run_of(dense, "sick", steps=20, guard=Guard(not_finite="skip", retries=3))


def test_the_layer_that_made_the_first_nan_is_named(dense, run_of, tmp_path, monkeypatch):
    def sick(self, x_BTD, *args, **kwargs):
        out = original(self, x_BTD, *args, **kwargs)
        calls.append(None)
        return out * math.nan if len(calls) % 2 == 0 else out  # the second layer's

    from vitruvius.nn.ffn.mlp import GatedModule

    original, calls = GatedModule.forward, []
    monkeypatch.setattr(GatedModule, "forward", sick)
    with pytest.raises(RunError, match="step 1"):
        run_of(dense, "sick", steps=4)
    (event,) = [event for event in RunReader(tmp_path / "sick").events() if event["kind"] == "not-finite"]
    assert event["first_bad"]["where"] == "output"
    assert event["first_bad"]["name"] == "layers.1.ffn"


def test_the_default_guard_is_in_the_record_and_old_rows_are_as_before(dense, run_of):
    done = run_of(dense)
    record = json.loads((done.run / "run.json").read_text())
    assert record["config"]["train"]["guard"]["not_finite"] == "stop"
    assert all("applied" not in row for row in RunReader(done.run).metrics())
    assert TrainConfig().guard == Guard()
