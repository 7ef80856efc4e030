"""Training in shards: processes that share one model compute what one process does, and write the same checkpoints."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from halves import furthest  # pyright: ignore[reportMissingImports]
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError, UsageError
from vitruvius.spec import preset
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.engines.sharded import ShardedEngine
from vitruvius.training.engines.shards import Grid, Shard, Shards, Split
from vitruvius.training.launch import VARIABLES, Launch, as_launched
from vitruvius.training.settings import EngineSettings, Samples
from vitruvius.training.splitting import undivided, whole_kinds

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
TOLERANCE = {"fp32": 1e-6, "tensor": 5e-6, "bf16": 1e-3}
"""Relative, of the losses of the first updates; docs/distributed.md promises it."""
FAST = ("dense", "tensor")
MIXTURES = ("mixture", "tensor-mixture")
SLOW = ("biased", "many-experts", "muon", "average", "curriculum", "uneven", "repeated", "borrowing")
TENSOR = ("grid", "grid-muon", "tensor-z-loss", "tensor-odd-vocabulary", "tensor-borrowing", "tensor-repeated")
TWINS = ("seq2seq-small", "context-aware-bert", "deepseek-v3", "gemma-2-2b", "mamba2", "speedrun", "tiny-mixtral")
TENSOR_TWINS = ("seq2seq-small", "deepseek-v3", "pythia-160m")


def agrees(found, tolerance):
    """All processes finished; rows and files are those of the single one: same samples, nearly the same numbers."""
    assert {end["value"] and end["value"]["status"] for end in found["ends"]} == {"finished"}, found["ends"]
    one, two = found["one"], found["two"]
    assert [row["samples"] for row in two] == [row["samples"] for row in one]
    assert [row["tokens"] for row in two] == [row["tokens"] for row in one]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
    assert furthest(one, two) < tolerance
    assert furthest(one, two, "grad_norm") < 30 * tolerance
    scored = [(a, b) for a, b in zip(one, two, strict=True) if "val_loss" in a]
    assert len(scored) == 2
    assert all(abs(a["val_loss"] / b["val_loss"] - 1) < tolerance for a, b in scored)
    assert all(a["val_tokens"] == b["val_tokens"] for a, b in scored)
    assert found["shapes"][0] == found["shapes"][1], "checkpoints hold whole tensors"


@pytest.mark.slow
@pytest.mark.parametrize("case", FAST)
def test_processes_with_parts_give_the_losses_of_one(case, asked):
    agrees(asked("equal", *FAST)[case], TOLERANCE["tensor" if case.startswith("tensor") else "fp32"])


@pytest.mark.slow
@pytest.mark.parametrize("case", MIXTURES)
def test_the_load_of_experts_is_counted_over_all_shares(case, asked):
    found = asked("equal", *MIXTURES)[case]
    agrees(found, TOLERANCE["tensor" if case.startswith("tensor") else "fp32"])
    for key in ("expert_load_max_over_mean", "dead_experts"):
        assert [row[key] for row in found["two"]] == [row[key] for row in found["one"]]
    assert furthest(found["one"], found["two"], "aux_loss") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_processes_with_parts_give_the_losses_of_one_under(case, asked):
    agrees(asked("equal", *SLOW)[case], TOLERANCE["fp32"])


@pytest.mark.slow
@pytest.mark.parametrize("case", TENSOR)
def test_processes_that_share_layers_give_the_losses_of_one_under(case, asked):
    agrees(asked("equal", *TENSOR)[case], TOLERANCE["tensor"])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["bf16", "tensor-bf16"])
def test_in_bf16_losses_differ_by_its_rounding(case, asked):
    found = asked("equal", "bf16", "tensor-bf16")[case]
    agrees(found, TOLERANCE["bf16"])
    assert found["one"] != found["two"], "then the tolerance says too little"


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_the_twin_of_a_preset_trains_in_parts_as_in_one(name, asked):
    found = asked("equal", *(f"twin-{each}" for each in TWINS))
    agrees(found[f"twin-{name}"], TOLERANCE["fp32"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSOR_TWINS)
def test_the_twin_of_a_preset_trains_with_shared_layers_as_in_one(name, asked):
    found = asked("equal", *(f"tensor-twin-{each}" for each in TENSOR_TWINS))
    agrees(found[f"tensor-twin-{name}"], TOLERANCE["tensor"])


class TestCheckpoints:
    """fsdp2 -> ddp -> local -> two that share layers -> one -> fsdp2, each stopped by SIGTERM to one process."""

    @pytest.mark.slow
    def test_every_process_loads_the_bits_of_the_files_whatever_wrote_them(self, asked):
        first, *others = asked("reshard")["ways"]
        assert [end["value"] for end in first] == [{"status": "stopped", "step": 3, "exit_code": 75}] * 2
        for number, ends in enumerate(others, 2):
            last = number == len(others) + 1
            status = {"status": "finished" if last else "stopped", "exit_code": 0 if last else 75}
            for end in ends:
                assert end["value"] is not None, end
                assert end["value"].pop("looked") > 20
                assert end["value"] == {"same": True, "step": 12 if last else 2 * number + 1, **status}

    @pytest.mark.slow
    def test_the_run_is_that_of_one_process(self, asked):
        found = asked("reshard")["rows"]
        assert [row["samples"] for row in found["run"]] == [row["samples"] for row in found["straight"]]
        assert furthest(found["run"], found["straight"]) < TOLERANCE["tensor"]

    @pytest.mark.slow
    def test_resuming_with_as_many_processes_keeps_every_bit(self, asked):
        found = asked("reshard")
        assert {end["value"]["exit_code"] for end in found["stopped"]} == {75}
        assert {end["value"]["status"] for end in found["resumed"]} == {"finished"}
        assert found["bits"][0] == found["bits"][1]
        assert found["rows"]["again"] == found["rows"]["twice"]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_an_error_and_the_run_goes_on_to_the_same_bits(asked):
    found = asked("killed")
    survivor, victim = found["first"]
    assert victim["signal"] == signal.SIGKILL
    assert "another process is gone or does not answer" in survivor["error"]
    assert found["status"] == "failed"
    assert [end["value"]["status"] for end in found["again"]] == ["finished", "finished"]
    assert found["bits"][0] == found["bits"][1]


@pytest.mark.slow
class TestFailing:
    """What one process finds is known to all, and none is left waiting."""

    @pytest.mark.parametrize(("policy", "applied"), [("skip", [1, 1, 0, 1, 1, 1]), ("rewind", [1] * 6)])
    def test_a_gradient_that_is_no_number_in_one_process_is_judged_alike_by_all(self, policy, applied, asked):
        found = asked("guarded")[policy]
        assert [end["value"]["status"] for end in found["ends"]] == ["finished", "finished"]
        assert found["applied"] == applied

    def test_a_disk_that_is_full_while_parts_are_gathered_ends_all_and_leaves_older_checkpoints(self, asked):
        found = asked("guarded")
        assert all("no room for a checkpoint" in end["error"] for end in found["full"])
        assert found["kept"] == [2]


@pytest.mark.slow
def test_each_process_keeps_its_part_of_weights_gradients_masters_and_moments(asked):
    found = asked("part_sizes")
    (whole,) = found["1"]
    # ZeRO-3: 16 bytes a parameter (2 + 2 + 4 + 8), over the processes.
    assert whole % 16 == 0
    assert found["2"] == [whole // 2] * 2
    # Norms are cut among those with other samples alone.
    norms = 5 * 16 * 16
    assert found["2x2"] == [(whole - norms) // 4 + norms // 2] * 4


SPLITS = st.lists(
    st.builds(Split, axis=st.sampled_from(["data", "tensor"]), dim=st.integers(0, 1)),
    max_size=2,
    unique_by=lambda split: split.axis,
)


class TestShards:
    @given(st.integers(1, 4), st.integers(1, 4), st.tuples(st.integers(1, 9), st.integers(1, 9)), SPLITS)
    def test_the_parts_of_owners_make_up_the_whole_once(self, data, tensor, shape, splits):
        grid, shard = Grid(data=data, tensor=tensor), Shard(shape=shape, splits=tuple(splits))
        counts = torch.zeros(shape)
        for rank in shard.owners(grid):
            counts[shard.box(grid, rank)] += 1
        assert bool((counts == 1).all())
        for rank in range(data * tensor):
            assert shard.local_shape(grid, rank) == tuple(counts[shard.box(grid, rank)].shape)

    @given(st.integers(1, 4), st.integers(1, 4), SPLITS)
    def test_each_part_of_a_parameter_is_counted_by_one_process(self, data, tensor, splits):
        grid = Grid(data=data, tensor=tensor)
        shard = Shard(shape=(8, 8), splits=tuple(splits))
        counts = torch.zeros(8, 8)
        for rank in range(data * tensor):
            if Shards(grid=grid, rank=rank, by_name={"weight": shard}).counted("weight"):
                counts[shard.box(grid, rank)] += 1
        assert bool((counts == 1).all())

    def test_what_an_optimizer_keeps_is_cut_as_its_parameter_is(self):
        shard = Shard(shape=(4, 2), splits=(Split(axis="data", dim=0),))
        shards = Shards(grid=Grid(data=2, tensor=1), rank=1, by_name={"layers.0.q.weight": shard})
        part = shards.part("exp_avg.layers.0.q.weight", torch.zeros(2, 2))
        assert (tuple(part.shape), part.numel(), part.element_size()) == ((4, 2), 8, 4)
        assert shards.find("step") is None


class TestSettings:
    def refused(self, architecture=None, **settings):
        architecture = architecture or preset("tiny-llama")
        with pytest.raises(SpecError) as error:
            ensure(TrainConfig(steps=2, **settings), architecture)
        return str(error.value)

    def test_heads_and_channels_that_the_degree_does_not_divide_are_findings(self):
        engine = EngineSettings(kind="fsdp2", tensor_parallel=3)
        text = self.refused(preset("tiny-llama-moe"), engine=engine)
        for place in ("mixer.heads", "mixer.kv_heads", "ffn.hidden", "ffn.expert.hidden"):
            assert f".{place})" in text
        assert "3 does not divide 4 (dense.mixer.heads)" in text
        assert "fix: use one of 1, 2, 4, or change the architecture" in text

    @pytest.mark.parametrize(
        ("settings", "path"),
        [
            ({"optimizer": "adamw-8bit"}, "train.optimizer"),
            ({"compile": "default"}, "train.compile"),
            ({"samples": Samples(every=1, prompts=("a",))}, "train.samples.every"),
        ],
    )
    def test_what_needs_whole_tensors_is_refused(self, settings, path):
        assert path in self.refused(engine=EngineSettings(kind="fsdp2"), **settings)

    @pytest.mark.parametrize("kind", ["local", "ddp"])
    def test_layers_are_shared_under_fsdp2_alone(self, kind):
        assert "shares none" in self.refused(engine=EngineSettings(kind=kind, tensor_parallel=2))

    def test_processes_that_cannot_stand_in_groups_are_refused(self):
        with pytest.raises(UsageError, match="3 processes cannot stand in groups of 2"):
            ShardedEngine(Launch(ranks=3, local_ranks=3), EngineSettings(kind="fsdp2", tensor_parallel=2))

    def test_a_resumed_run_keeps_its_kind_where_several_processes_are_launched(self, monkeypatch):
        for name in VARIABLES:
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        shared = EngineSettings(kind="fsdp2", tensor_parallel=2)
        assert as_launched(shared) == shared
        assert as_launched(EngineSettings()).kind == "ddp"
        monkeypatch.delenv("RANK")
        assert as_launched(shared) == EngineSettings()

    def test_kinds_without_a_plan_are_named(self):
        assert whole_kinds(preset("mamba2")) == ["mamba2"]
        assert whole_kinds(preset("tiny-llama")) == []
        assert list(undivided(preset("mamba2"), 7)) == []
