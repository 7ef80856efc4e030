"""fp16 and its loss scale: it falls at an overflow, keeps what would vanish, and resumes bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]

from vitruvius.errors import RunError, SpecError
from vitruvius.nn import Model
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import from_plain
from vitruvius.training.numerics import notes_on, numerics_of
from vitruvius.training.scaling import LARGEST, LEAST, LossScaler
from vitruvius.training.settings import Guard, Scaler

FP16 = {"dtype": "fp16", "schedule": "constant", "warmup": 1, "eval_batches": 1, "final_eval_batches": 1}


@pytest.fixture
def times(monkeypatch):
    """Multiplies the training loss of chosen passes, by their number (from 1), or of all of them."""
    original, passes, factors = Model.loss, {"n": 0}, {}

    def loss(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        if kwargs.get("per_token"):
            return found
        passes["n"] += 1
        return found * factors.get(passes["n"], factors.get("all", 1.0))

    monkeypatch.setattr(Model, "loss", loss)

    def plant(chosen):
        passes["n"] = 0
        factors.clear()
        factors.update(chosen)

    return plant


def test_a_gradient_that_overflows_halves_the_scale_and_training_goes_on(dense, run_of, times):
    times({3: 1e4})
    run = run_of(dense, steps=6, **FP16).run
    found = rows(run)
    assert [row["loss_scale"] for row in found] == [2.0**16] * 3 + [2.0**15] * 3
    assert [row.get("applied", 1) for row in found] == [1, 1, 0, 1, 1, 1]
    assert (found[2]["overflow"], math.isfinite(found[2]["loss"])) == (1, True)
    assert not any("overflow" in row for number, row in enumerate(found) if number != 2)
    assert found[-1]["loss"] < found[0]["loss"]
    (event,) = [event for event in RunReader(run).events() if event["kind"] == "overflow"]
    assert (event["step"], event["loss_scale"], event["next_loss_scale"]) == (3, 2.0**16, 2.0**15)
    assert len(event["sample_ids"]) == 4


def test_an_overflow_leaves_weights_and_moments_as_they_are(dense, run_of, times):
    plain = run_of(dense, "plain", steps=2, checkpoint_every=1, keep=9, **FP16).run
    times({2: 1e4})
    sick = run_of(dense, "sick", steps=2, checkpoint_every=1, keep=9, **FP16).run
    first, second = (RunReader(sick).checkpoints()[index].path for index in (0, 1))
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert first.joinpath(file).read_bytes() == second.joinpath(file).read_bytes()
        assert first.joinpath(file).read_bytes() == RunReader(plain).checkpoints()[0].path.joinpath(file).read_bytes()


def test_overflows_count_as_no_retries_of_the_guard(dense, run_of, times):
    times({2: 1e4, 3: 1e4, 4: 1e4})
    done = run_of(dense, steps=6, guard=Guard(not_finite="stop", retries=0), **FP16)
    assert (done.status, [row.get("applied", 1) for row in rows(done.run)]) == ("finished", [1, 0, 0, 0, 1, 1])
    assert rows(done.run)[-1]["loss_scale"] == 2.0**13


def test_too_many_overflows_in_a_row_stop_the_run_with_the_state_before_them(dense, run_of, times, tmp_path):
    times({4: 1e12, 5: 1e12, 6: 1e12, 7: 1e12})
    with pytest.raises(RunError, match=r"step 7 overflow in fp16, after 3 overflows in a row.*scale of 8192"):
        run_of(dense, "sick", steps=9, checkpoint_every=9, scaler=Scaler(overflows=3), **FP16)
    record = RunReader(tmp_path / "sick").record()
    assert (record["status"], RunReader(tmp_path / "sick").checkpoints()[-1].step) == ("failed", 6)


def test_a_loss_that_is_not_finite_is_the_guards_and_leaves_the_scale(dense, run_of, times):
    times({2: math.inf})
    found = rows(run_of(dense, steps=4, guard=Guard(not_finite="skip"), **FP16).run)
    assert found[1]["applied"] == 0
    assert "overflow" not in found[1]
    assert {row["loss_scale"] for row in found} == {2.0**16}


def test_gradients_that_would_vanish_in_fp16_survive_scaled(dense, run_of, times):
    norms = {}
    cases = {
        "fp32": {"dtype": "fp32"},
        "scaled": {"dtype": "fp16"},
        "not scaled": {"dtype": "fp16", "scaler": Scaler(kind="none")},
    }
    for name, settings in cases.items():
        times({"all": 1e-7})
        norms[name] = rows(run_of(dense, name, steps=1, clip=None, **{**FP16, **settings}).run)[0]["grad_norm"]
    assert norms["scaled"] == pytest.approx(norms["fp32"], rel=0.01)
    assert norms["not scaled"] < 0.5 * norms["fp32"]


def test_the_scale_leaves_no_trace_in_norms_clipping_and_updates(dense, run_of):
    """Powers of two: the same run whatever the scale, but for what under- or overflows."""
    found = {}
    for initial in (2.0**10, 2.0**14):
        name = f"scale-{initial:g}"
        found[initial] = rows(run_of(dense, name, steps=4, clip=0.5, scaler=Scaler(initial=initial), **FP16).run)
    for one, other in zip(*found.values(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert one["clipped_to"] == other["clipped_to"] == 0.5


@pytest.mark.parametrize("kind", ["dense", "mixture", "learned"])
def test_the_losses_follow_those_of_fp32(kind, request, run_of):
    architecture = request.getfixturevalue(kind)
    settings = {**FP16, "steps": 20, "checkpoint_every": 20}
    half = rows(run_of(architecture, "half", **settings).run)
    full = rows(run_of(architecture, "full", **{**settings, "dtype": "fp32"}).run)
    for one, other in zip(half, full, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.02)


def test_the_scale_grows_after_so_many_good_updates_and_pieces_share_it(dense, run_of):
    scaler = Scaler(initial=4.0, growth_every=2, growth=4.0)
    found = rows(run_of(dense, steps=6, accumulate=2, scaler=scaler, **FP16).run)
    assert [row["loss_scale"] for row in found] == [4.0, 4.0, 16.0, 16.0, 64.0, 64.0]


@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_resumed_run_ends_in_the_same_bits_before_and_after_an_overflow(after, dense, run_of, times):
    settings = {**FP16, "steps": 6, "scaler": Scaler(growth_every=2)}
    times({3: 1e4})
    straight = run_of(dense, "straight", **settings)
    times({3: 1e4})
    listener = StopAfter(after)
    halved = run_of(dense, "halved", stop=listener.stop, listener=listener, **settings)
    assert halved.step == after
    assert resume(halved.run).status == "finished"
    assert final_manifest(halved.run) == final_manifest(straight.run)
    assert rows(halved.run) == rows(straight.run)


# ----------------------------------------------------------------------------------------------------------------------
# Settings


def finding_of(**plain):
    with pytest.raises(SpecError) as caught:
        from_plain(plain)
    (finding,) = caught.value.findings
    return finding


def test_a_scaler_with_bf16_is_refused_with_the_reason():
    finding = finding_of(dtype="bf16", scaler={"kind": "dynamic"})
    assert finding.path == "train.scaler"
    assert "exponent range of fp32" in finding.what
    assert "fp16" in finding.fix
    assert finding_of(scaler={"initial": 1024.0}).path == "train.scaler"
    assert "nothing is gained" in finding_of(dtype="fp32", scaler={"kind": "dynamic"}).what
    assert finding_of(dtype="bf16", scaler={"kind": "none", "growth": 4.0}).path == "train.scaler"
    assert from_plain({"dtype": "bf16", "scaler": {"kind": "none"}}).scaler.kind == "none"


@pytest.mark.parametrize(
    "wrong", [{"initial": 0.0}, {"initial": math.nan}, {"growth": 0.5}, {"backoff": 1.0}, {"overflows": 0}]
)
def test_a_scale_that_makes_no_sense_is_refused(wrong):
    (name,) = wrong
    assert finding_of(dtype="fp16", scaler=wrong).path == f"train.scaler.{name}"


def test_only_fp16_has_a_scale_and_it_can_be_left_out():
    def kinds(**settings):
        return [type(each).__name__ for each in numerics_of(TrainConfig(**settings))]

    assert kinds() == kinds(dtype="fp32") == kinds(dtype="fp16", scaler=Scaler(kind="none")) == []
    assert kinds(dtype="fp16") == ["LossScaler"]


def test_bf16_is_recommended_where_the_device_has_it(monkeypatch):
    (note,) = notes_on(TrainConfig(dtype="fp16", device="cpu"))
    assert "dtype: bf16" in note
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert list(notes_on(TrainConfig(dtype="fp16", device="cuda"))) == []
    lost = list(notes_on(TrainConfig(dtype="fp16", device="cuda", scaler=Scaler(kind="none"))))
    assert "are lost" in lost[0]
    assert list(notes_on(TrainConfig(device="cpu"))) == []


def test_the_scale_stays_within_bounds():
    scaler = LossScaler(Scaler(growth_every=1, growth=1024.0))
    for _ in range(10):
        scaler.applied()
    assert scaler.scale == LARGEST
    for _ in range(200):
        scaler.overflowed()
    assert (scaler.scale, scaler.overflows) == (LEAST, 200)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"scale": 0.0, "good": 0, "overflows": 0},
        {"scale": "1", "good": 0, "overflows": 0},
        {"scale": 1.0, "good": -1, "overflows": 0},
        {"scale": math.inf, "good": 0, "overflows": 0},
        {"scale": 1.0, "good": 0, "overflows": True},
    ],
)
def test_a_damaged_state_is_refused(wrong):
    with pytest.raises(ValueError, match=r"scale|count"):
        LossScaler(Scaler()).restore(wrong)
