"""Training with DeepSpeed's ZeRO: processes that share a model compute what one does, and write what it writes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from halves import furthest  # pyright: ignore[reportMissingImports]
from sharded_ranks import architecture_of  # pyright: ignore[reportMissingImports]

from vitruvius.errors import RunError, SpecError, UsageError
from vitruvius.nn import build
from vitruvius.nn.weights import write_tensors
from vitruvius.sizing.parallel.deepspeed import BUCKET, DeepSpeed
from vitruvius.spec import from_plain, preset, resolve, to_data
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.engines import DeepSpeedEngine, deepspeed_engine, joined
from vitruvius.training.engines.deepspeed_parts import Fragment, Fragments
from vitruvius.training.grouping import adamw_groups
from vitruvius.training.launch import VARIABLES, Launch, as_launched
from vitruvius.training.settings import EngineSettings, Samples
from vitruvius.training.settings.zero import VERSION, require_deepspeed

SCRIPT = Path(__file__).with_name("deepspeed_ranks.py")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
with_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed: pip install '.[deepspeed]'")
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3}
"""Relative, of the losses of the first updates; docs/distributed.md promises it."""
CASES = ("mixture", "biased", "clipped", "borrowing", "uneven")
TWINS = ("seq2seq-small", "context-aware-bert")


def agrees(found, tolerance):
    """All processes finished; rows and files are those of the single one: same samples, nearly the same numbers."""
    assert {end["value"] and end["value"]["status"] for end in found["ends"]} == {"finished"}, found["ends"]
    one, two = found["one"], found["two"]
    assert [row["samples"] for row in two] == [row["samples"] for row in one]
    assert [row["tokens"] for row in two] == [row["tokens"] for row in one]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
    assert "detectors-failed" not in found["events"]
    assert furthest(one, two) < tolerance
    assert furthest(one, two, "grad_norm") < 30 * tolerance
    scored = [(a, b) for a, b in zip(one, two, strict=True) if "val_loss" in a]
    assert len(scored) == 2
    assert all(abs(a["val_loss"] / b["val_loss"] - 1) < tolerance for a, b in scored)
    assert all(a["val_tokens"] == b["val_tokens"] for a, b in scored)
    assert found["shapes"][0] == found["shapes"][1], "checkpoints hold whole tensors, in the same format"


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
class TestSameRun:
    @pytest.mark.parametrize("case", CASES)
    def test_processes_that_share_a_model_give_the_losses_of_one_under(self, case, stage, asked):
        found = asked("equal", *(f"{each}-{stage}" for each in CASES))[f"{case}-{stage}"]
        agrees(found, TOLERANCE["fp32"])
        if case == "mixture":
            for key in ("expert_load_max_over_mean", "dead_experts"):
                assert [row[key] for row in found["two"]] == [row[key] for row in found["one"]]
        if case == "clipped":
            assert all("clipped_to" in row for row in found["two"]), "else this says nothing about clipping"

    @pytest.mark.parametrize("name", TWINS)
    def test_the_twin_of_a_preset_trains_as_in_one_process(self, name, stage, asked):
        found = asked("equal", *(f"twin-{each}-{stage}" for each in TWINS))
        agrees(found[f"twin-{name}-{stage}"], TOLERANCE["fp32"])

    def test_in_bf16_losses_differ_by_its_rounding(self, stage, asked):
        found = asked("equal", f"bf16-{stage}")[f"bf16-{stage}"]
        agrees(found, TOLERANCE["bf16"])
        assert found["one"] != found["two"], "then the tolerance says too little"

    def test_a_run_that_is_stopped_or_killed_goes_on_to_the_same_bits(self, stage, asked):
        found = asked("again", str(stage))
        assert {end["value"]["exit_code"] for end in found["stopped"]} == {75}
        survivor, victim = found["killed"]
        assert victim["signal"] == signal.SIGKILL
        assert "another process is gone or does not answer" in survivor["error"]
        assert found["status"] == "failed"
        assert {end["value"]["status"] for ends in found["resumed"] for end in ends} == {"finished"}
        assert found["bits"][0] == found["bits"][1] == found["bits"][2]
        assert found["rows"][0] == found["rows"][1] == found["rows"][2]

    @pytest.mark.parametrize(("policy", "applied"), [("skip", [1, 1, 0, 1, 1, 1]), ("rewind", [1] * 6)])
    def test_a_gradient_that_is_no_number_in_one_process_is_judged_alike_by_all(self, policy, applied, stage, asked):
        found = asked("guarded", str(stage))[policy]
        assert [end["value"]["status"] for end in found["ends"]] == ["finished", "finished"]
        assert found["applied"] == applied
        assert all(abs(row["loss"]) < 10 for row in found["rows"]), "nothing is left of the gradient that was dropped"

    def test_a_disk_that_is_full_while_tensors_are_gathered_ends_all_and_leaves_older_checkpoints(self, stage, asked):
        found = asked("guarded", str(stage))
        assert all("no room for a checkpoint" in end["error"] for end in found["full"])
        assert found["kept"] == [2]


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
class TestCheckpoints:
    """ZeRO-3 -> local -> ddp -> fsdp2 -> ZeRO-2 -> ZeRO-3, each stopped by SIGTERM to one process."""

    def test_every_process_loads_the_bits_of_the_files_whatever_wrote_them(self, dtype, asked):
        ways = asked("reshard", dtype)["ways"]
        for number, ends in enumerate(ways):
            last = number == len(ways) - 1
            for end in ends:
                assert end["value"] is not None, end
                assert end["value"]["step"] == (12 if last else 2 * number + 3)
                assert end["value"]["status"] == ("finished" if last else "stopped")
                assert end["value"].get("same", True)
        assert all(end["value"]["looked"] > 50 for ends in ways[-2:] for end in ends)

    def test_the_run_is_that_of_one_process(self, dtype, asked):
        found = asked("reshard", dtype)["rows"]
        assert [row["samples"] for row in found["run"]] == [row["samples"] for row in found["straight"]]
        assert furthest(found["run"], found["straight"]) < 5 * TOLERANCE[dtype]


@with_deepspeed
@pytest.mark.slow
def test_each_process_keeps_its_part_of_what_the_stage_divides(asked):
    found = asked("sizes")
    (whole,) = found["1"]
    count = whole["parameters"]
    rest = whole["between"] - 14 * count  # batches, tables of positions
    assert 0 <= rest < count
    # Weights 2, masters 4, moments 8; then gradients: 2, or in fp32.
    for stage, between, gradients in (("2", 2 + 12 / 2, 4 / 2), ("3", (2 + 12 + 4) / 2, 0)):
        for process in found[stage]:
            assert between * count <= process["between"] <= between * count + rest
            assert gradients * count <= process["gradients"] - process["between"] <= gradients * count + rest


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "accumulate", "most", "ways"),
    [("bf16", 2, 64, "2-2 3-3"), ("fp32", 1, BUCKET, "3-2"), ("fp32", 2, BUCKET, "2-2")],
)
def test_a_plan_counts_what_each_process_keeps_to_the_byte(dtype, accumulate, most, ways, asked):
    architecture = architecture_of("odd-vocabulary")
    graph = resolve(architecture)
    groups = adamw_groups(graph, ensure(TrainConfig(dtype=dtype), architecture))
    counted = DeepSpeed.of(graph, groups, stages={2, 3}, most=most)
    value_bytes = {"bf16": 2, "fp32": 4}[dtype]
    for name, processes in asked("planned", dtype, str(accumulate), str(most), *ways.split()).items():
        stage, ranks = map(int, name.split("-"))
        said = counted.stored(stage=stage, ranks=ranks, value_bytes=value_bytes, pieces=accumulate)
        for part in ("weights", "optimizer"):
            assert {process[part] for process in processes} == {getattr(said, part)}, (name, part)
        # In fp32 whole tensors are summed, a piece beside the sum of those before; the last update has the sum alone.
        kept = "summing" if dtype == "fp32" and stage == 2 else "gradients"
        assert max(process[kept] for process in processes) == said.gradients, name
        assert {process["parameters"] for process in processes} == {counted.parameters}
        # Under stage 2 the bucket has the weights' format, and comes with the backward pass; under 3 it is fp32.
        assert {process["bucket"] for process in processes} == {counted.bucket * (value_bytes if stage == 2 else 4)}
        assert said.gathered > counted.bucket * (value_bytes if stage == 2 else 4)


@with_deepspeed
@pytest.mark.slow
def test_what_does_not_fit_is_said_in_every_process(asked):
    found = asked("unlike")
    assert all("cannot share 3 samples evenly" in end["error"] for end in found["odd"])
    assert "another process is gone or does not answer" in found["absent"][0]["error"]


@with_deepspeed
@pytest.mark.slow
def test_under_torchrun_nothing_is_compiled_and_stdout_holds_the_result_alone(data, tmp_path):
    built, run = tmp_path / "extensions", tmp_path / "run"
    small = ["width=16", "context=16", "vocab_size=320", "layers=layer", "blocks.layer.mixer.heads=2"]
    small += ["blocks.layer.mixer.kv_heads=1", "blocks.layer.ffn.hidden=16", "train.steps=2"]
    settings = [part for text in [*small, "train.engine={kind: deepspeed, zero: 3}"] for part in ("--set", text)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "vitruvius", "train", "tiny-llama", "--data", str(data), "--out", str(run), "--json"]
    # No compiler and no ninja within reach.
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(built), "PATH": str(tmp_path)}
    done = subprocess.run(
        [*launch, *command, "--batch", "4", *settings],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert not built.exists() or not list(built.rglob("*"))
    assert "deprecated" not in done.stderr


class TestMissing:
    """Said before a process waits for another."""

    def test_a_package_that_is_not_installed_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match="not installed: deepspeed") as error:
            DeepSpeedEngine(Launch(ranks=2, local_ranks=2), EngineSettings(kind="deepspeed"))
        assert "pip install 'vitruvius[deepspeed]'" in str(error.value)
        assert error.value.where == "train.engine.kind"

    @pytest.mark.parametrize("version", ["0.18.4", "1.0.0", "unknown"])
    def test_another_version_is_refused(self, version, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
        with pytest.raises(UsageError, match=rf"deepspeed {version} is installed, and this works with {VERSION}"):
            require_deepspeed()

    def test_the_version_it_is_written_against_is_taken(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{VERSION}.8+cpu")
        require_deepspeed()

    def test_weights_in_two_formats_are_refused_before_anything_is_divided(self, monkeypatch):
        monkeypatch.setattr(deepspeed_engine, "require_deepspeed", lambda: None)
        engine = DeepSpeedEngine(Launch(ranks=2, local_ranks=2), EngineSettings(kind="deepspeed"))
        model = build(preset("tiny-llama", overrides=["width=16", "layers=layer"]), dtype="bf16")
        assert engine.place(model, torch.device("cpu")) is model
        model.final_norm.float()
        with pytest.raises(UsageError, match="keeps weights in bfloat16 and float32") as error:
            engine.place(model, torch.device("cpu"))
        assert "use dtype: fp32" in str(error.value)

    def test_without_torchrun_it_is_refused(self, monkeypatch):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        with (
            pytest.raises(UsageError, match="needs processes that torchrun has started"),
            joined(EngineSettings(kind="deepspeed"), device="cpu"),
        ):
            pass


class TestSettings:
    def refused(self, architecture=None, **settings):
        with pytest.raises(SpecError) as error:
            ensure(TrainConfig(steps=2, **settings), architecture or preset("tiny-llama"))
        return str(error.value)

    @pytest.mark.parametrize(
        ("settings", "path", "way_out"),
        [
            ({"optimizer": "muon"}, "train.optimizer", "use optimizer: adamw, or kind: fsdp2"),
            ({"optimizer": "adamw-8bit"}, "train.optimizer", "use optimizer: adamw, or kind: ddp"),
            ({"compile": "default"}, "train.compile", "use compile: none"),
            ({"dtype": "fp16"}, "train.dtype", "use dtype: bf16"),
            ({"ema": 0.99}, "train.ema", "leave it out, or use kind: fsdp2"),
            ({"samples": Samples(every=1, prompts=("a",))}, "train.samples.every", "leave train.samples out"),
        ],
    )
    def test_what_zero_does_not_go_with_is_a_finding_with_the_way_out(self, settings, path, way_out):
        text = self.refused(engine=EngineSettings(kind="deepspeed"), **settings)
        assert path in text
        assert way_out in text

    def test_multi_token_prediction_is_refused(self):
        plain = to_data(preset("tiny-llama"))
        plain["mtp"] = {"depth": 1, "block": "layer", "loss_weight": 0.3}
        text = self.refused(from_plain(plain), engine=EngineSettings(kind="deepspeed"))
        assert "no token so far ahead" in text

    @pytest.mark.parametrize("kind", ["local", "ddp", "fsdp2"])
    def test_a_stage_belongs_to_deepspeed(self, kind):
        assert f"kind: {kind} has none" in self.refused(engine=EngineSettings(kind=kind, zero=2))

    def test_layers_and_experts_are_not_shared_under_it(self):
        assert "shares none" in self.refused(engine=EngineSettings(kind="deepspeed", tensor_parallel=2))
        moe = preset("tiny-llama-moe")
        assert "divides none" in self.refused(moe, engine=EngineSettings(kind="deepspeed", expert_parallel=2))

    def test_a_resumed_run_keeps_its_stage_where_several_processes_are_launched(self, monkeypatch):
        for name in VARIABLES:
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        shared = EngineSettings(kind="deepspeed", zero=3)
        assert as_launched(shared) == shared
        monkeypatch.delenv("RANK")
        assert as_launched(shared) == EngineSettings()


class TestFragments:
    SHAPE = (3, 5)

    def fragments(self, rank, **weights):
        fragment = Fragment(shape=self.SHAPE, runs=((0, 8), (8, 15), (15, 15)))
        return Fragments(rank=rank, by_name={"layers.0.q.weight": fragment}, weights=weights)

    def test_what_an_optimizer_keeps_is_shared_as_its_parameter_is_and_a_weight_where_it_is_named(self):
        fragments = self.fragments(1)
        part = fragments.part("exp_avg.layers.0.q.weight", torch.zeros(7))
        assert (tuple(part.shape), part.numel(), part.element_size()) == (self.SHAPE, 15, 4)
        assert fragments.find("layers.0.q.weight") is None
        assert fragments.find("step") is None
        divided = self.fragments(1, **{"layers.0.q.weight": lambda: torch.ones(7)})
        assert divided.part("layers.0.q.weight", torch.empty(0)).local.sum() == 7

    def test_the_runs_that_processes_read_make_up_the_file(self, tmp_path):
        path, whole = tmp_path / "optimizer.safetensors", torch.arange(15.0).view(self.SHAPE)
        write_tensors(path, {"exp_avg.layers.0.q.weight": whole, "step": torch.tensor(3)})
        read = [self.fragments(rank).read(path) for rank in range(3)]
        assert torch.equal(torch.cat([each["exp_avg.layers.0.q.weight"] for each in read]), whole.flatten())
        assert all(int(each["step"]) == 3 for each in read)

    def test_a_tensor_of_another_shape_is_refused(self, tmp_path):
        path = tmp_path / "optimizer.safetensors"
        write_tensors(path, {"exp_avg.layers.0.q.weight": torch.zeros(5, 3)})
        with pytest.raises(RunError, match=r"is \[5, 3\], expected \[3, 5\]"):
            self.fragments(0).read(path)
