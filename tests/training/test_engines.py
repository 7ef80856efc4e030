"""Data parallel training: two processes compute what one does, stop and fail together, and share their checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from halves import furthest  # pyright: ignore[reportMissingImports]
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.data import Batch
from vitruvius.errors import SpecError, UsageError
from vitruvius.runs import RunReader
from vitruvius.training import TrainConfig, resume, train
from vitruvius.training.checking import ensure
from vitruvius.training.engines import LocalEngine, joined
from vitruvius.training.launch import VARIABLES, Launch, agreed_launch, ensure_divides, launched, speaks_here
from vitruvius.training.settings import EngineSettings

SCRIPT = Path(__file__).with_name("ranks.py")
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3}
"""Relative, of the losses of the first updates; docs/distributed.md promises it."""


def agrees(found, dtype="fp32"):
    """Both processes finished, and their rows are those of the single one: same samples, nearly the same numbers."""
    assert [end["value"]["status"] for end in found["ends"]] == ["finished", "finished"]
    one, two = found["one"], found["two"]
    assert [row["samples"] for row in two] == [row["samples"] for row in one]
    assert [row["tokens"] for row in two] == [row["tokens"] for row in one]
    assert [row.keys() for row in two] == [row.keys() for row in one]
    assert furthest(one, two) < TOLERANCE[dtype]
    assert furthest(one, two, "grad_norm") < 3 * TOLERANCE[dtype]
    scored = [(a, b) for a, b in zip(one, two, strict=True) if "val_loss" in a]
    assert len(scored) == 2
    assert all(abs(a["val_loss"] / b["val_loss"] - 1) < TOLERANCE[dtype] for a, b in scored)
    assert all(a["val_tokens"] == b["val_tokens"] for a, b in scored)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dense", "mixture"])
def test_two_processes_give_the_losses_of_one(case, asked):
    agrees(asked("equal", "dense", "mixture")[case])


@pytest.mark.slow
def test_the_load_of_experts_is_counted_over_all_processes(asked):
    found = asked("equal", "dense", "mixture")["mixture"]
    for key in ("expert_load_max_over_mean", "expert_load_cv", "dead_experts"):
        assert [row[key] for row in found["two"]] == [row[key] for row in found["one"]]
    assert furthest(found["one"], found["two"], "aux_loss") < 1e-5


CASES = ["biased", "many-experts", "accumulate", "checkpointing", "muon", "curriculum", "by-length", "prefix"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "large-batch"])
def test_two_processes_give_the_losses_of_one_under(case, asked):
    agrees(asked("equal")[case])


@pytest.mark.slow
def test_in_bf16_two_processes_differ_from_one_by_its_rounding(asked):
    found = asked("equal")["bf16"]
    agrees(found, "bf16")
    assert found["one"] != found["two"], "then the tolerance says too little"


@pytest.mark.slow
def test_experts_that_one_process_never_used_are_trained_all_the_same(asked):
    found = asked("equal")["many-experts"]
    assert found["one"][0]["dead_experts"] > 0, "there must be some that no token reaches"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["2-1", "1-2", "2-2"])
def test_a_checkpoint_is_resumed_by_another_number_of_processes(way, asked):
    found = asked("reshard")
    resumed, straight = found[way], found["straight-1"]
    for end in resumed["ends"]:
        # Every process loaded the bits that stand in the files.
        assert end["value"] == {
            "same": True,
            "looked": 1,
            "from": "step-3",
            "status": "finished",
            "step": 6,
            "exit_code": 0,
        }
    assert [row["samples"] for row in resumed["rows"]] == [row["samples"] for row in straight]
    assert furthest(resumed["rows"], straight) < TOLERANCE["fp32"]


@pytest.mark.slow
def test_resuming_with_as_many_processes_keeps_every_bit(asked):
    found = asked("reshard")
    assert found["2-2"]["digests"] == found["digests"]["straight-2"]
    assert found["2-2"]["rows"] == found["straight-2"]
    assert found["2-1"]["digests"] != found["digests"]["straight-2"], "sums in another order have other last bits"


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_update(asked):
    events = asked("reshard")["2-2"]["events"]
    assert events == ["launched", "stopped", "resumed", "launched", "finished"]


@pytest.mark.slow
def test_processes_draw_different_numbers_and_draw_them_again_after_a_resume(asked):
    found = asked("draws")
    straight, first, second = ([end["value"] for end in found[name]] for name in ("straight", "first", "second"))
    assert [a + b for a, b in zip(first, second, strict=True)] == straight
    assert not set(straight[0]) & set(straight[1])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_gradient_that_is_no_number_in_one_process_is_judged_alike_by_all(policy, asked):
    found = asked("guarded")
    one, two = found[f"{policy}-1"], found[f"{policy}-2"]
    assert [end["value"]["status"] for end in two["ends"]] == ["finished", "finished"]
    assert one["events"] == [kind for kind in two["events"] if kind != "launched"]
    applied = [row.get("applied", 1) for row in one["rows"]]
    assert applied == ([1, 1, 0, 1, 1, 1] if policy == "skip" else [1] * 6)
    assert [row.get("applied", 1) for row in two["rows"]] == applied
    assert [row["samples"] for row in two["rows"]] == [row["samples"] for row in one["rows"]]
    assert furthest(one["rows"], two["rows"]) < TOLERANCE["fp32"]


@pytest.mark.slow
def test_a_signal_between_pieces_drops_the_update_in_all_processes(asked):
    found = asked("pieces")
    assert [end["value"]["step"] for end in found["stopped"]] == [2, 2]
    assert [end["value"]["exit_code"] for end in found["stopped"]] == [75, 75]
    assert [end["value"]["status"] for end in found["again"]] == ["finished", "finished"]
    assert found["same"]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_an_error_and_the_run_goes_on_to_the_same_bits(asked):
    found = asked("killed")
    survivor, victim = found["first"]
    assert victim["signal"] == signal.SIGKILL
    assert survivor["error"].startswith("RunError: process 0 of 2: another process is gone or does not answer")
    assert found["status"] == "failed"
    assert [end["value"]["status"] for end in found["again"]] == ["finished", "finished"]
    assert found["bits"][0] == found["bits"][1]


@pytest.mark.slow
class TestFailing:
    """No process waits for ever: each of these ended by itself, or the asked would have failed."""

    @pytest.mark.parametrize(("case", "failed"), [("main", 0), ("other", 1)])
    def test_an_error_in_one_process_ends_the_other(self, case, failed, asked):
        ends = asked("failing")[case]
        assert ends[failed]["error"] == "DataError: shard 7: a shard is damaged"
        assert "another process is gone" in ends[1 - failed]["error"]

    def test_a_silent_process_is_waited_for_until_the_timeout(self, asked):
        silent = asked("failing")["silent"][0]
        assert "does not answer" in silent["error"]
        assert "2000ms" in silent["error"]

    def test_a_process_that_never_comes_is_waited_for_until_the_timeout(self, asked):
        assert "does not answer" in asked("failing")["absent"][0]["error"]

    def test_processes_with_other_settings_are_refused_by_all(self, asked):
        for end in asked("failing")["unlike"]:
            assert "in process 1, data, spec or settings differ from those of process 0" in end["error"]

    def test_weights_that_are_no_longer_the_same_are_never_saved(self, asked):
        for end in asked("failing")["drifted"]:
            assert "in process 1, the weights differ from those of process 0" in end["error"]

    def test_data_that_one_process_does_not_see_is_named_there(self, asked):
        here, there = asked("failing")["missing"]
        assert there["error"].startswith("DataError: ")
        assert "another process is gone" in here["error"]

    def test_what_the_main_process_finds_wrong_is_told_to_the_others(self, asked):
        main, other = asked("failing")["exists"]
        assert main["error"].endswith("this folder already holds a run")
        assert other["error"].endswith("the main process has ended with an error: this folder already holds a run")

    def test_a_batch_that_cannot_be_shared_is_refused(self, asked):
        for end in asked("failing")["uneven"]:
            assert end["error"] == "UsageError: train.batch: 2 processes cannot share 3 samples evenly"

    def test_several_processes_under_kind_local_are_refused(self, asked):
        for end in asked("failing")["local"]:
            assert "2 processes were launched, and kind: local is for one" in end["error"]


@pytest.fixture
def launch(monkeypatch):
    """Set what torchrun would set; None unsets."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def put(**changed):
        usual = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        usual |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        for name, value in (usual | changed).items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


def test_without_torchrun_there_is_one_process_that_speaks(launch):
    del launch
    assert launched() is None
    assert speaks_here()
    with joined(EngineSettings(), device="cpu") as engine:
        assert (engine.rank, engine.ranks, engine.is_main) == (0, 1, True)


def test_the_launch_is_read_from_the_environment(launch):
    launch(RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    assert launched() == Launch(rank=3, ranks=4, local_rank=1, local_ranks=2)
    assert not speaks_here()


def test_kind_ddp_without_torchrun_names_what_is_missing_and_makes_no_folder(launch, dense, data, tmp_path):
    launch(RANK=None, LOCAL_RANK=None)
    config = TrainConfig(steps=1, threads=1, engine=EngineSettings(kind="ddp"))
    with pytest.raises(UsageError, match=r"torchrun has started \(RANK, LOCAL_RANK not set\)"):
        train(dense, data=data, out=tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_one_process_of_torchrun_may_be_local(launch):
    launch(WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    assert agreed_launch(EngineSettings()).ranks == 1


@pytest.mark.parametrize("value", ["", "-1", "two", "1_0", "٣", "1e9", "9" * 5000])
@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_a_variable_that_is_no_number_is_named(name, value, launch):
    launch(**{name: value})
    with pytest.raises(UsageError) as caught:
        launched()
    assert caught.value.where == name
    assert len(caught.value.what) < 100


@pytest.mark.parametrize(
    "changed", [{"RANK": "2"}, {"LOCAL_RANK": "2"}, {"LOCAL_WORLD_SIZE": "3"}, {"WORLD_SIZE": "0"}]
)
def test_variables_that_contradict_each_other_are_refused(changed, launch):
    launch(**changed)
    with pytest.raises(UsageError, match="cannot all be true"):
        launched()


def test_a_batch_is_shared_in_pieces_or_refused_with_a_way_out():
    ensure_divides(TrainConfig(batch=8, accumulate=2), 4)
    with pytest.raises(UsageError, match="3 processes, each in 2 pieces, cannot share 8") as caught:
        ensure_divides(TrainConfig(batch=8, accumulate=2), 3)
    assert "multiple of 6, such as --batch 6" in caught.value.fix


def test_a_backend_that_the_device_does_not_have_is_refused(dense):
    for device, backend in (("cpu", "nccl"), ("cuda", "gloo")):
        with pytest.raises(SpecError) as caught:
            ensure(TrainConfig(device=device, engine=EngineSettings(kind="ddp", backend=backend)), dense)
        assert [finding.path for finding in caught.value.findings] == ["train.engine.backend"]


def test_the_number_of_processes_is_no_part_of_what_a_checkpoint_belongs_to(dense):
    from vitruvius.training.checking import config_hash

    config = ensure(TrainConfig(), dense)
    ddp = replace(config, engine=EngineSettings(kind="ddp", backend="gloo", timeout=5))
    assert config_hash(config, {}, "") == config_hash(ddp, {}, "")


@given(
    ranks=st.integers(1, 5),
    pieces=st.integers(1, 4),
    each=st.integers(1, 3),
    rows=st.integers(1, 3),
    length=st.integers(1, 4),
)
def test_slice_k_of_all_processes_together_is_slice_k_of_the_batch(ranks, pieces, each, rows, length):
    samples = ranks * pieces * each
    cells = np.arange(samples * rows * length).reshape(samples * rows, length)
    batch = Batch(
        inputs=cells,
        targets=cells + 1,
        documents=cells * 0,
        crosses=cells < 0,
        sample_ids=np.arange(samples) + 7,
        epochs=np.arange(samples) % 3,
    )
    shares = [
        LocalEngine(Launch(rank=rank, ranks=ranks, local_ranks=ranks)).share(batch, pieces) for rank in range(ranks)
    ]
    for name in ("inputs", "targets", "documents", "crosses", "sample_ids", "epochs"):
        cut = [np.split(getattr(share, name), pieces) for share in shares]
        together = [np.concatenate([slices[piece] for slices in cut]) for piece in range(pieces)]
        assert np.array_equal(np.concatenate(together), getattr(batch, name))
    assert {share.rows_per_sample for share in shares} == {rows}


SMALL = ["width=16", "context=16", "vocab_size=320", "blocks.layer.mixer.heads=2", "blocks.layer.mixer.kv_heads=1"]
SMALL += ["blocks.layer.ffn.hidden=16", "layers=layer*2", "train.threads=1", "train.eval_every=0"]


def torchrun(data, run, *arguments, settings=(), flags=("--nproc-per-node", "2", "--standalone")):
    """The command, started; stdout and stderr are pipes."""
    command = [sys.executable, "-m", "torch.distributed.run", *flags, "-m", "vitruvius", "train"]
    given_settings = [part for text in (*SMALL, *settings) for part in ("--set", text)]
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.Popen(
        [*command, "tiny-llama", "--data", str(data), "--out", str(run), *arguments, *given_settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )


def ended(process, timeout=300):
    try:
        return process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


DDP = "train.engine={kind: ddp, timeout: 60}"


@pytest.mark.slow
class TestTorchrun:
    """As a user starts it."""

    def test_two_processes_train_and_one_of_them_speaks(self, data, tmp_path):
        process = torchrun(data, tmp_path / "run", "--steps", "3", "--json", settings=[DDP])
        out, err = ended(process)
        assert process.returncode == 0, err
        assert json.loads(out)["status"] == "finished"
        assert err.count("training: step 0 of 3") == 1
        assert err.count("next: ") == 1
        record = RunReader(tmp_path / "run").record()
        assert (record["status"], record["config"]["train"]["engine"]["kind"]) == ("finished", "ddp")

    def test_without_the_setting_it_is_refused_and_the_setting_named(self, data, tmp_path):
        process = torchrun(data, tmp_path / "run", "--steps", "3")
        out, err = ended(process)
        assert process.returncode != 0
        assert out == ""
        assert "2 processes were launched, and kind: local is for one" in err
        assert "bug in vitruvius" not in err
        assert not (tmp_path / "run").exists()

    def test_sigterm_to_torchrun_leaves_a_checkpoint_that_one_process_goes_on_from(self, data, tmp_path):
        run = tmp_path / "run"
        process = torchrun(data, run, "--steps", "100000", "--checkpoint-every", "100000", settings=[DDP])
        try:
            deadline, rows = time.monotonic() + 240, run / "metrics.jsonl"
            while not (rows.exists() and rows.stat().st_size) and process.poll() is None:
                assert time.monotonic() < deadline, "no update was done"
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
        finally:
            _, err = ended(process)
        assert process.returncode != 0
        reader = RunReader(run)
        (checkpoint,) = reader.checkpoints()
        assert (reader.record()["status"], reader.record()["result"]["exit_code"]) == ("stopped", 75), err
        assert checkpoint.step == reader.metrics()[-1]["step"] > 0
        from vitruvius.training.stopping import StopRequest

        stop = StopRequest()
        stop.ask(signal.SIGTERM)
        assert resume(run, stop=stop).step == checkpoint.step
