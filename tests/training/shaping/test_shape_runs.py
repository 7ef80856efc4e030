"""Runs whose architecture changes: the values asked for, recorded, and the same bits however often they stop."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from vitruvius.errors import CorruptCheckpointError, RunError, VitruviusError
from vitruvius.nn import build
from vitruvius.nn.weights import load_model, load_weights
from vitruvius.runs import RunReader, write_manifest
from vitruvius.runs.shaped import spec_of, values_of
from vitruvius.spec import preset, to_data
from vitruvius.spec.fields import fields_at, with_values
from vitruvius.training import TrainConfig, resume, train
from vitruvius.training.settings import Guard, Watch
from vitruvius.training.settings.shape import Plateau, ShapeSchedule, Signal
from vitruvius.training.stopping import StopRequest

WINDOW = "blocks.dense.mixer.sees.sliding.window"
TOP_K = "blocks.moe.ffn.top_k"
NOISE = "blocks.moe.ffn.router.noise"
SHAPE = (
    ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 2, 5: 8}, between="linear", every=1),
    ShapeSchedule(field=NOISE, steps={0: 1.0, 4: 0.25}),
    ShapeSchedule(field="blocks.moe.mixer.sees", steps={3: "causal & sliding(4)", 6: "causal"}),
    ShapeSchedule(
        field=TOP_K, when=Signal(signal="val_loss", plateau=Plateau(patience=1, min_change=9.0)), then=(1, 3)
    ),
    ShapeSchedule(field="head.softcap", when=Signal(signal="loss", below=(100.0, 90.0), over=3), then=(30.0, None)),
)
SHORT = (
    ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 2, 1: 8}),
    ShapeSchedule(field=NOISE, steps={0: 1.0, 0.5: 0.25}),
)
STEPS = 8
SETTINGS = {"steps": STEPS, "checkpoint_every": 2, "keep": 9, "eval_every": 2, "shape": SHAPE}


class StopAt:
    """Asks a run to stop when the row of a step is there."""

    def __init__(self, step):
        self.request, self.step = StopRequest(), step

    def started(self, **_):
        """Nothing is to be done."""

    def row(self, row):
        """Look at the step."""
        if row["step"] == self.step:
            self.request.ask(signal.SIGTERM)

    def saved(self, checkpoint):
        """Nothing is to be done."""

    def note(self, text):
        """Nothing is to be done."""

    def ended(self):
        """Nothing is to be done."""


def rows_of(run):
    return [{k: v for k, v in row.items() if "second" not in k} for row in RunReader(run).metrics()]


def manifest_of(run, step=STEPS):
    return (run / "checkpoints" / f"step-{step}" / "manifest.json").read_text(encoding="utf-8")


def shapes_in(run):
    return [(e["step"], e["field"], e["from"], e["to"]) for e in RunReader(run).events() if e["kind"] == "shape"]


def test_values_come_when_they_are_due_and_stand_in_rows_events_and_checkpoints(mixture, run_of):
    result = run_of(mixture, **SETTINGS)
    rows = rows_of(result.run)
    told = {
        name: {r["step"]: r[f"shape/{name}"] for r in rows if f"shape/{name}" in r} for name in (WINDOW, NOISE, TOP_K)
    }
    assert told[WINDOW] == {1: 2, 2: 3, 3: 4, 4: 6, 5: 7, 6: 8}
    assert told[NOISE] == {1: 1.0, 5: 0.25}
    # Validations after 2, 4, 6 and 8 updates: the first is the lowest, the second changes the field, and so on.
    assert told[TOP_K] == {1: 2, 5: 1}
    events = RunReader(result.run).events()
    changed = [e for e in events if e["kind"] == "shape"]
    assert {e["why"] for e in changed if e["field"] == WINDOW} == {"step"}
    (top_k,) = (e for e in changed if e["field"] == TOP_K)
    assert (top_k["step"], top_k["from"], top_k["to"]) == (5, 2, 1)
    assert top_k["why"].startswith("val_loss has not fallen below")
    texts = [(e["step"], e["to"]) for e in changed if e["field"] == "blocks.moe.mixer.sees"]
    assert texts == [(4, "causal & sliding(4)"), (7, "causal")]
    caps = [(e["step"], e["to"]) for e in changed if e["field"] == "head.softcap"]
    assert caps == [(4, 30.0), (7, None)]
    assert not any(name.startswith("shape/head") and r[name] is None for r in rows for name in r)
    for checkpoint in RunReader(result.run).checkpoints():
        values = values_of(checkpoint)
        assert values[WINDOW] == {2: 3, 4: 6, 6: 8, 8: 8}[checkpoint.step]
        assert values[TOP_K] == {2: 2, 4: 2, 6: 1, 8: 1}[checkpoint.step]


def test_a_run_is_that_of_models_built_with_each_value(mixture, run_of, data, tmp_path):
    """The first updates are those of a narrow model, and the next is that of a wide one with its weights."""
    steps = ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 2, 2: 8})
    shaped = run_of(mixture, "shaped", steps=4, checkpoint_every=2, shape=(steps,), schedule="constant", warmup=0)
    first = run_of(
        with_values(mixture, {WINDOW: 2}), "first", steps=4, checkpoint_every=2, schedule="constant", warmup=0
    )
    assert [row["loss"] for row in rows_of(shaped.run)][:2] == [row["loss"] for row in rows_of(first.run)][:2]
    assert [row["loss"] for row in rows_of(shaped.run)][2] != [row["loss"] for row in rows_of(first.run)][2]
    # The third update of the shaped run is that of a wide model with the weights after two narrow ones.
    wide = build(with_values(mixture, {WINDOW: 8}), dtype="bf16")
    load_weights(wide, shaped.run / "checkpoints" / "step-2")
    from vitruvius.data import TokenShards
    from vitruvius.training.config import batches_of, resolved
    from vitruvius.training.objectives import make_objective
    from vitruvius.training.session import settled

    config = settled(resolved(TrainConfig(steps=4, batch=4, threads=1), mixture))
    batch = batches_of(TokenShards.open(data, "train"), config).at(2)
    wide.train()
    (piece,) = make_objective(config).pieces(batch, 1, torch.device("cpu"))
    assert float(make_objective(config).train(wide, piece).loss.detach()) == rows_of(shaped.run)[2]["loss"]


def test_the_model_of_a_checkpoint_has_the_shape_that_it_was_trained_in(mixture, run_of):
    run = run_of(mixture, **SETTINGS).run
    for step, window in ((2, 3), (4, 6), (8, 8)):
        model = load_model(run / "checkpoints" / f"step-{step}")
        assert fields_at(model.architecture, WINDOW)[0].value == window
    assert load_model(run).architecture == spec_of(RunReader(run), RunReader(run).checkpoints()[-1])
    assert RunReader(run).record()["spec"]["data"] == to_data(mixture)
    assert fields_at(mixture, WINDOW)[0].value == 8


def test_a_run_without_schedules_is_the_given_spec(mixture, run_of):
    run = run_of(mixture, steps=2).run
    assert values_of(RunReader(run).checkpoints()[-1]) == {}
    assert load_model(run).architecture == mixture


@pytest.mark.parametrize("step", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 5, 6, 7))])
def test_a_run_that_is_stopped_after_any_update_goes_on_to_the_same_bits(mixture, run_of, step):
    straight = run_of(mixture, "straight", **SETTINGS).run
    listener = StopAt(step)
    stopped = run_of(mixture, "stopped", **SETTINGS, listener=listener, stop=listener.request)
    assert (stopped.status, stopped.step) == ("stopped", step)
    assert resume(stopped.run).status == "finished"
    assert rows_of(stopped.run) == rows_of(straight)
    assert manifest_of(stopped.run) == manifest_of(straight)
    assert list(dict.fromkeys(shapes_in(stopped.run))) == shapes_in(straight)


@pytest.mark.parametrize(
    "back_to", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)]
)
def test_a_run_that_lost_its_newest_updates_goes_on_to_the_same_bits(mixture, run_of, back_to):
    run = run_of(mixture, **SETTINGS).run
    rows, last = rows_of(run), manifest_of(run)
    for checkpoint in RunReader(run).checkpoints():
        if checkpoint.step > back_to:
            shutil.rmtree(checkpoint.path)
    assert resume(run).status == "finished"
    assert rows_of(run) == rows
    assert manifest_of(run) == last


def spiking(monkeypatch, at):
    """One loss is ten times what it is, the first time that it is computed."""
    from vitruvius.training.updating import Updater

    whole, left = Updater.gradients, [at]

    def spiked(self, batch, stop):
        gathered = whole(self, batch, stop)
        left[0] -= 1
        return replace(gathered, loss=gathered.loss * 10) if left[0] == 0 else gathered

    monkeypatch.setattr(Updater, "gradients", spiked)


@pytest.mark.slow
def test_a_rewind_goes_back_in_the_schedule_too_and_resumes_to_the_same_bits(mixture, run_of, monkeypatch):
    guard = Guard(window=8, spike="rewind", loss_z=6.0, grad_z=None)
    grown = ShapeSchedule(field="blocks.*.mixer.sees.sliding", steps={0: 2, 9: 4, 11: 8})
    waiting = ShapeSchedule(
        field=TOP_K, when=Signal(signal="loss", plateau=Plateau(patience=4, min_change=9.0)), then=(1, 3)
    )
    settings = {"steps": 16, "checkpoint_every": 4, "keep": 9, "guard": guard, "shape": (grown, waiting)}
    with monkeypatch.context() as patch:
        spiking(patch, at=12)
        straight = run_of(mixture, "straight", **settings).run
    rewound = [event for event in RunReader(straight).events() if event["kind"] == "rewound"]
    assert [event["to_step"] for event in rewound] == [8]
    told = {row["step"]: row[f"shape/{WINDOW}"] for row in rows_of(straight) if f"shape/{WINDOW}" in row}
    assert told == {1: 2, 10: 4, 12: 8}
    # Stopped after the rewind, in the stretch that is done for the second time.
    listener = StopAt(9)
    seen = {"times": 0}
    look = listener.row

    def second_time(row):
        seen["times"] += row["step"] == 9
        if seen["times"] == 2:
            look(row)

    listener.row = second_time
    with monkeypatch.context() as patch:
        spiking(patch, at=12)
        stopped = run_of(mixture, "stopped", **settings, listener=listener, stop=listener.request)
    assert (stopped.status, stopped.step) == ("stopped", 9)
    assert resume(stopped.run).status == "finished"
    assert rows_of(stopped.run) == rows_of(straight)
    assert manifest_of(stopped.run, 16) == manifest_of(straight, 16)


def test_an_update_that_is_not_applied_is_no_signal(mixture, run_of, monkeypatch):
    guard = Guard(window=8, spike="skip", loss_z=6.0, grad_z=None)
    waiting = ShapeSchedule(field=TOP_K, when=Signal(signal="loss", above=20.0), then=(1,))
    spiking(monkeypatch, at=10)
    run = run_of(mixture, steps=12, guard=guard, shape=(waiting,)).run
    assert [row["step"] for row in rows_of(run) if "applied" in row] == [10]
    assert shapes_in(run) == []


def test_a_signal_that_no_row_has_is_told_once(dense, run_of):
    waiting = ShapeSchedule(field="head.softcap", when=Signal(signal="expert_load_cv", below=1.0), then=(30.0,))
    run = run_of(dense, steps=6, shape=(waiting,), watch=Watch(every=2)).run
    events = [event for event in RunReader(run).events() if event["kind"] == "shape-signal-missing"]
    assert [(event["step"], event["signal"]) for event in events] == [(4, "expert_load_cv")]


def test_a_signal_of_the_watch_is_looked_at_when_it_is_measured(dense, run_of):
    waiting = ShapeSchedule(field="head.softcap", when=Signal(signal="attention_entropy", above=0.0), then=(30.0,))
    run = run_of(dense, steps=6, shape=(waiting,), watch=Watch(every=3)).run
    measured = [row["step"] for row in rows_of(run) if any(name.startswith("attention_entropy/") for name in row)]
    assert shapes_in(run) == [(measured[0] + 1, "head.softcap", None, 30.0)]


def test_a_watch_that_a_schedule_waits_for_stays_as_it_is(dense, run_of, tmp_path):
    signal_of_watch = Signal(signal="attention_entropy", above=0.001)
    shape = (ShapeSchedule(field="head.softcap", when=signal_of_watch, then=(30.0,)),)
    stop = StopRequest()
    stop.ask(15)
    run = run_of(dense, "watched", watch=Watch(every=3), shape=shape, stop=stop).run
    for watch in (None, Watch(every=1), Watch(every=3, tokens=4)):
        with pytest.raises(VitruviusError, match=r"train\.watch measures|never measured"):
            resume(run, changes={"watch": watch or Watch(every=None)})
    record = json.loads((run / "run.json").read_text())
    record["config"]["train"]["watch"]["every"] = 1
    (copy := shutil.copytree(run, tmp_path / "edited") / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="another config"):
        resume(copy.parent)
    resume(run, changes={"watch": Watch(every=3, sinks=("tensorboard",))})
    straight = run_of(dense, "straight", watch=Watch(every=3), shape=shape).run
    assert RunReader(run).metrics()[-1]["loss"] == RunReader(straight).metrics()[-1]["loss"]


def test_pieces_and_layers_computed_again_change_nothing_of_the_noise(mixture, run_of):
    # The balance loss of a piece reads the load up to it, so that it is another in pieces, noise or not.
    mixture = with_values(mixture, {"blocks.moe.ffn.router.balance_loss": 0.0})
    shape = (ShapeSchedule(field=NOISE, steps={0: 1.0, 2: 0.5}),)
    once = rows_of(run_of(mixture, "once", steps=3, dtype="fp32", shape=shape).run)
    again = rows_of(run_of(mixture, "again", steps=3, dtype="fp32", shape=shape, checkpointing="layers").run)
    pieces = rows_of(run_of(mixture, "pieces", steps=3, dtype="fp32", shape=shape, accumulate=2).run)
    plain = rows_of(run_of(mixture, "plain", steps=3, dtype="fp32").run)
    assert [row["loss"] for row in again] == [row["loss"] for row in once]
    assert [row["loss"] for row in pieces] == pytest.approx([row["loss"] for row in once], abs=2e-6)
    assert [row["loss"] for row in plain] != pytest.approx([row["loss"] for row in once], abs=1e-4)


def test_a_checkpoint_belongs_to_its_schedule(mixture, run_of):
    run = run_of(mixture, steps=4, shape=SHORT).run
    record = json.loads((run / "run.json").read_text())
    record["config"]["train"]["shape"][1]["steps"]["2"] = 0.75
    record["config"]["train"]["steps"] = 4
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="another config"):
        resume(run)


@pytest.mark.parametrize(
    "damage",
    [
        {"values": {"width": 5}},
        {"values": {WINDOW: "x", NOISE: 1.0}},
        {"values": []},
        {"signals": {"0": {}}},
        {"more": 1},
    ],
)
def test_a_damaged_state_is_an_error_that_names_the_checkpoint(mixture, run_of, damage):
    run = run_of(mixture, steps=4, checkpoint_every=2, shape=SHORT).run
    folder = run / "checkpoints" / "step-4"
    state = json.loads((folder / "state.json").read_text())
    state["companions"]["shape"] |= damage
    (folder / "state.json").write_text(json.dumps(state))
    write_manifest(folder)
    with pytest.raises((RunError, CorruptCheckpointError)) as caught:
        resume(run)
    assert "step-4" in str(caught.value) or "step-4" in str(caught.value.where)
    if "values" in damage:
        with pytest.raises(RunError):
            load_model(run)


def test_a_run_begun_with_given_weights_starts_at_the_schedule_s_first_value(mixture, data, tmp_path, one_thread):
    from vitruvius.training.session import begin

    config = TrainConfig(steps=2, batch=4, threads=1, eval_every=0, eval_batches=1, shape=SHORT)
    checkpoint = begin(build(mixture, dtype="bf16"), data=data, out=tmp_path / "run", made_from="a test", config=config)
    assert values_of(checkpoint) == {}
    assert resume(tmp_path / "run").status == "finished"
    assert rows_of(tmp_path / "run")[0][f"shape/{WINDOW}"] == 2


def test_the_last_validation_done_once_more_is_of_the_last_shape(mixture, run_of):
    straight = run_of(mixture, "straight", **SETTINGS)
    assert straight.val_loss is not None
    again = resume(straight.run)
    assert again.val_loss == straight.val_loss


def test_a_position_gate_opens_in_training(data, tmp_path, one_thread):
    gated = "embedding={position: {kind: gated-additive}}"
    small = ["width=32", "context=32", "vocab_size=320", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1"]
    architecture = preset("tiny-llama", overrides=[*small, "blocks.layer.ffn.hidden=48", "layers=layer", gated])
    shape = (
        ShapeSchedule(field="embedding.position.strength", steps={0: 0, 2: 1}),
        ShapeSchedule(field="embedding.position.temperature", steps={0: 2.0, 4: 0.5}, between="cosine", every=1),
    )
    config = TrainConfig(steps=5, batch=2, threads=1, eval_every=0, eval_batches=1, shape=shape)
    run = train(architecture, data=data, out=tmp_path / "run", config=config).run
    told = [{k: v for k, v in row.items() if k.startswith("shape/")} for row in rows_of(run)]
    assert [row.get("shape/embedding.position.strength") for row in told] == [0, None, 1, None, None]
    temperatures = [row["shape/embedding.position.temperature"] for row in told]
    assert temperatures == sorted(temperatures, reverse=True)
    assert (temperatures[0], temperatures[-1]) == (2.0, 0.5)
