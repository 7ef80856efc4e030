"""From sizing's parallel plans to settings of a run."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from vitruvius.errors import UsageError
from vitruvius.nn import build
from vitruvius.sizing.communication import network_of
from vitruvius.sizing.hardware import device_named
from vitruvius.sizing.parallel.evaluate import Evaluation
from vitruvius.sizing.workload import Workload
from vitruvius.spec import preset, resolve, shrink
from vitruvius.spec.source import parse_text
from vitruvius.spec.tree import to_plain as tree_to_plain
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure, from_plain
from vitruvius.training.grouping import adamw_groups
from vitruvius.training.optim import groups_of
from vitruvius.training.placing import place
from vitruvius.training.rules import findings
from vitruvius.training.settings import EngineSettings
from vitruvius.training.settings import zero as package
from vitruvius.training.workload import tokens_read

CASES = [
    ("llama-3-8b", "h100-80gb", 8, 16, 8192),
    ("llama-3-8b", "h100-80gb", 64, 64, 8192),
    ("llama-moe", "h100-80gb", 16, 32, 4096),
    ("tiny-llama", "rtx-4090", 1, 8, 256),
    ("tiny-llama", "rtx-4090", 2, 8, 256),
    ("tiny-llama-moe", "a100-80gb", 4, 8, 128),
    ("seq2seq-small", "rtx-4090", 2, 8, 512),
    ("smollm2-135m", "rtx-4090", 2, 8, 2048),
    ("llama-3-8b", "a100-80gb", 4, 4, 2048),
]


def placed(name, device, count, batch, context, kind=None, **more):
    architecture = preset(name)
    config = ensure(TrainConfig(batch=batch, context=context, **more), architecture)
    return architecture, config, place(architecture, config, device_named(device), count, kind=kind)


@pytest.fixture
def installed(monkeypatch):
    """DeepSpeed, as far as a plan asks."""
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(package.importlib.metadata, "version", lambda _: f"{package.VERSION}.8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}x{case[1]}")
def test_what_it_prints_is_accepted_by_the_settings_and_takes_what_sizing_says(case):
    architecture, config, found = placed(*case)
    assert found.chosen is not None
    written = tree_to_plain(parse_text(found.yaml(), file="run.yaml"))["train"]
    settings = from_plain({**written, "context": config.context})  # pyright: ignore[reportGeneralTypeIssues]
    assert findings(settings, architecture) == []
    plan = found.chosen.plan
    # Each process gets as many micro-batches as the plan has.
    ranks = plan.degrees.data
    assert settings.batch == config.batch == plan.schedule.micro_batch * settings.accumulate * ranks
    assert settings.engine.tensor_parallel == plan.degrees.tensor
    assert plan.degrees.data * plan.degrees.tensor == found.count
    assert settings.engine.kind == ("local" if found.count == 1 else "ddp" if plan.degrees.zero == 0 else "fsdp2")
    device = device_named(case[1])
    workload = Workload(mode="train", context=tokens_read(config), weights="bf16", optimizer="adamw")
    again = Evaluation(resolve(architecture), workload, device, network_of(device)).plan(plan.degrees, plan.schedule)
    assert again.memory == plan.memory and plan.memory.total <= device.usable_bytes
    told = found.to_dict("run.yaml")
    assert told["chosen"]["memory"]["total_bytes"] == plan.memory.total


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: f"{case[0]}-{case[2]}x{case[1]}")
def test_every_alternative_says_why_it_was_not_chosen(case):
    _, _, found = placed(*case)
    assert all(option.why_not for option in found.others)
    assert all(refused.why for refused in found.refused)
    ours = [option for option in found.others if option.config is not None]
    assert all(option.step_seconds >= found.chosen.step_seconds * 0.97 for option in ours)


@pytest.mark.parametrize("more", [{}, {"ema": 0.999, "z_loss": 1e-4}], ids=["plain", "average and z-loss"])
def test_one_device_takes_what_size_says(more):
    from vitruvius.sizing import size

    architecture, _config, found = placed("smollm2-135m", "rtx-4090", 1, 4, 2048, **more)
    plan = found.chosen.plan
    bill = size(
        architecture,
        context=2048,
        mode="train",
        batch=plan.schedule.micro_batch,
        accumulate=plan.schedule.micro_batches,
        checkpointing=plan.schedule.checkpointing,
        average="fp32" if more else "none",
        z_loss="added" if more else "none",
    )
    assert plan.memory.peak == bill.to_dict()["memory"]["peak_bytes"]
    assert found.launch("run.yaml") == "vitruvius train run.yaml"


def test_an_average_is_divided_as_the_masters_are():
    architecture, _, plain = placed("llama-3-8b", "h100-80gb", 8, 16, 8192)
    _, _, averaged = placed("llama-3-8b", "h100-80gb", 8, 16, 8192, ema=0.999)
    assert plain.chosen.plan.degrees == averaged.chosen.plan.degrees
    more = averaged.chosen.plan.memory.optimizer - plain.chosen.plan.memory.optimizer
    # 4 bytes a parameter, over eight ranks; rows of a tensor that do not divide evenly stand on the first ones.
    whole = sum(tensor.count for tensor in resolve(architecture).tensors().values())
    assert 4 * whole / 8 <= more <= 4 * whole / 8 * 1.01


def test_a_launch_says_how_many_machines_and_processes():
    _, _, found = placed("llama-3-8b", "h100-80gb", 64, 64, 8192)
    words = shlex.split(found.launch("run.yaml --out r"))
    assert words[:5] == ["torchrun", "--nnodes", "8", "--nproc-per-node", "8"]
    assert words[-5:] == ["vitruvius", "train", "run.yaml", "--out", "r"]
    _, _, found = placed("llama-3-8b", "h100-80gb", 8, 16, 8192)
    assert found.launch("x").startswith("torchrun --standalone --nproc-per-node 8 -m vitruvius train x")


def test_what_fits_nowhere_has_no_settings_and_a_way_out():
    _, _, found = placed("llama-3-8b", "rtx-4090", 1, 1, 8192)
    assert found.chosen is None and "vitruvius plan" in found.way_out
    told = found.to_dict("x")
    assert told["fits"] is False and told["yaml"] is None and told["command"] is None and told["refused"]
    with pytest.raises(UsageError, match="fits and can be run"):
        found.settings()


def test_a_batch_that_cannot_be_dealt_out_is_not_placed():
    _, _, found = placed("tiny-llama", "rtx-4090", 7, 8, 256)
    assert found.chosen is None or found.chosen.config.batch == 8


@pytest.mark.parametrize("count", [0, -1, 2**40])
def test_numbers_of_devices_that_nobody_has_are_refused(count):
    with pytest.raises(UsageError, match="out of range"):
        placed("tiny-llama", "rtx-4090", count, 8, 256)


def test_a_setting_that_an_engine_refuses_moves_the_choice():
    """Samples need a whole model in a process: what is left is DDP, or nothing."""
    from vitruvius.training.settings import Samples

    architecture, config, found = placed("llama-3-8b", "h100-80gb", 8, 16, 8192)
    assert found.chosen.config.engine.kind == "fsdp2"
    config = replace(config, samples=Samples(every=10))
    found = place(architecture, config, device_named("h100-80gb"), 8)
    assert found.chosen is None
    assert any("train.samples.every" in option.why_not for option in found.others)


class TestDeepSpeed:
    """ZeRO-2 is planned; DeepSpeed's ZeRO-3 where it is named."""

    CASE = ("llama-3-8b", "h100-80gb", 8, 16, 2048)
    SMALL = ("smollm2-135m", "rtx-4090", 2, 8, 2048)

    def test_fsdp_is_preferred_where_it_is_as_fast(self, installed):
        _, _, found = placed(*self.SMALL)
        assert found.chosen.config.engine.kind == "fsdp2"
        (ours,) = [option for option in found.others if option.name == "ZeRO-2 2"]
        assert ours.config.engine == EngineSettings(kind="deepspeed", zero=2)
        assert "times the time" in ours.why_not and ours.step_seconds >= found.chosen.step_seconds

    @pytest.mark.parametrize("stage", [2, 3])
    def test_a_stage_that_is_named_is_planned_and_nothing_else(self, stage, installed):
        engine = EngineSettings(kind="deepspeed", zero=stage, timeout=99)
        _, _, found = placed(*self.CASE, kind="deepspeed", engine=engine)
        assert found.chosen.name == f"ZeRO-{stage} 8" and found.others == ()
        assert found.settings()["engine"] == {"kind": "deepspeed", "zero": stage, "timeout": 99}
        assert f"zero: {stage}" in found.yaml() and found.to_dict("x")["kind"] == "deepspeed"

    def test_a_plan_counts_what_deepspeed_keeps(self, installed):
        engine = EngineSettings(kind="deepspeed", zero=2)
        architecture, config, found = placed(*self.CASE, kind="deepspeed", engine=engine)
        sizes = {name: tensor.count for name, tensor in resolve(architecture).tensors().items()}
        groups = [sum(sizes[name] for name in names) for names in adamw_groups(resolve(architecture), config)]
        assert len(groups) == 2 and sum(groups) == sum(sizes.values())
        assert all(group % 16 == 0 for group in groups)  # nothing is padded
        memory = found.chosen.plan.memory
        assert (memory.weights, memory.gradients, memory.optimizer) == tuple(
            sum(groups) * each // 8 for each in (16, 4, 12)
        )

    def test_messages_are_fp32_and_waited_for(self, installed):
        architecture, _, found = placed(*self.CASE, kind="deepspeed", engine=EngineSettings(kind="deepspeed", zero=2))
        plan = found.chosen.plan
        count = sum(tensor.count for tensor in resolve(architecture).tensors().values())
        sent = {each.what: each for each in plan.traffic}
        assert (sent["gradients"].collective, sent["gradients"].bytes_each) == ("all-reduce", 4 * count)
        assert sent["gradients"].times == plan.schedule.micro_batches
        assert {each.waits for each in plan.traffic} == {"always"} and plan.beside_seconds == 0

    def test_where_it_is_not_installed_the_plan_says_so(self, monkeypatch):
        monkeypatch.setattr(package.importlib.util, "find_spec", lambda _: None)
        _, _, found = placed(*self.CASE, kind="deepspeed", engine=EngineSettings(kind="deepspeed"))
        assert found.chosen is None and {option.name for option in found.others} == {"ZeRO-2 8", "ZeRO-3 8"}
        for option in found.others:
            assert "not installed: deepspeed" in option.why_not and "pip install" in option.why_not
        _, _, found = placed(*self.CASE)
        assert found.chosen.config.engine.kind == "fsdp2"

    @pytest.mark.parametrize("setting", [{"optimizer": "muon"}, {"ema": 0.99}, {"dtype": "fp16"}])
    def test_what_zero_does_not_go_with_is_the_reason(self, setting, installed):
        _, _, found = placed(*self.SMALL, **setting)
        (ours,) = [option for option in found.others if option.name == "ZeRO-2 2"]
        assert ours.config is None and f"train.{next(iter(setting))}" in ours.why_not

    def test_groups_are_those_of_the_optimizer(self):
        for name in ("tiny-llama", "tiny-llama-moe", "mamba2", "context-aware-bert"):
            architecture = shrink(preset(name))
            for decay in ("matrices", "matrices-not-embeddings", "nothing"):
                config = ensure(TrainConfig(decay=decay), architecture)
                made = groups_of(build(architecture), config)
                said = adamw_groups(resolve(architecture), config)
                assert [sorted(group.parameters) for group in made] == [sorted(names) for names in said if names]


class TestNamed:
    """A kind that somebody has named restricts what is planned."""

    @pytest.mark.parametrize("kind", ["ddp", "fsdp2", "deepspeed"])
    def test_nothing_else_is_planned(self, kind, installed):
        _, _, found = placed("tiny-llama-moe", "h100-80gb", 4, 16, 128, kind=kind, engine=EngineSettings(kind=kind))
        assert found.chosen.config.engine.kind == kind
        assert {option.config.engine.kind for option in found.others if option.config} <= {kind}
        assert not any(each.what.startswith(("pipeline", "context")) for each in found.refused)

    def test_a_kind_that_does_not_fit_says_what_it_lacks(self):
        _, _, found = placed("llama-3-8b", "h100-80gb", 8, 16, 2048, kind="ddp")
        assert found.chosen is None and found.others == ()
        assert [each.what for each in found.refused] == ["DDP 8"] and "needs" in found.refused[0].why
        assert "kind: ddp is named; leave it out" in found.way_out
        with pytest.raises(UsageError, match="no arrangement of kind: ddp"):
            found.settings()

    @pytest.mark.parametrize(("kind", "count", "says"), [("local", 2, "--gpus 1"), ("fsdp2", 1, "--gpus 2")])
    def test_a_number_of_devices_that_a_kind_does_not_have_is_the_reason(self, kind, count, says):
        _, _, found = placed("tiny-llama", "h100-80gb", count, 8, 128, kind=kind)
        assert found.chosen is None and says in found.refused[-1].why
        _, _, alone = placed("tiny-llama", "h100-80gb", 1, 8, 128, kind="local")
        assert alone.chosen.name == "one device"
