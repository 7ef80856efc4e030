"""Experts divided among processes: rows travel to them and back, and the run is that of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from halves import furthest  # pyright: ignore[reportMissingImports]
from hypothesis import given
from hypothesis import strategies as st

from vitruvius.errors import SpecError, UsageError
from vitruvius.sizing.hardware import device_named
from vitruvius.spec import preset, preset_names
from vitruvius.training import TrainConfig
from vitruvius.training.checking import ensure
from vitruvius.training.engines.sharded import ShardedEngine
from vitruvius.training.engines.shards import Grid, Shard, Shards, Split
from vitruvius.training.launch import VARIABLES, Launch, as_launched
from vitruvius.training.placing import place
from vitruvius.training.settings import EngineSettings, Samples
from vitruvius.training.splitting import experts_of

SCRIPT = Path(__file__).with_name("expert_ranks.py")
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-3}
"""Relative, of the losses of the first updates; docs/distributed.md promises it."""
MIXTURES = ("biased", "ddp-biased", "many-experts", "shared-gated", "hash", "noisy", "with-biases", "repeated", "odd")
PLACES = ("ahead", "parallel", "expert-choice", "encoder-decoder")
SETTINGS = ("ddp", "muon", "ddp-muon", "average", "curriculum")
GRIDS = ("copies", "ddp-copies", "tensor", "four")
TWINS = ("deepseek-v3", "jamba-like", "llama-moe", "tiny-mixtral", "tiny-qwen3-moe")
LOADS = ("expert_load_max_over_mean", "expert_load_cv", "dead_experts", "router_bias_max")


def finished(ends):
    return {end["value"] and end["value"]["status"] for end in ends} == {"finished"}


def agrees(found, tolerance=TOLERANCE["fp32"]):
    """All processes finished; rows and files are those of the single one: same samples, nearly the same numbers."""
    assert finished(found["ends"]), found["ends"]
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
    assert found["shapes"][0] == found["shapes"][1], "checkpoints hold whole tensors"


def same_loads(found):
    """What is said of the experts' load is said of the whole batch."""
    keys = [key for key in LOADS if key in found["one"][0]]
    assert "dead_experts" in keys
    for key in keys:
        assert [row[key] for row in found["two"]] == pytest.approx([row[key] for row in found["one"]], rel=1e-6)


@pytest.mark.slow
def test_rows_come_back_with_their_results_and_gradients_whatever_the_loads(asked):
    """Uneven loads, experts without rows, processes without rows, and no row at all."""
    ends = asked("quick")["journey"]
    assert len(ends) == 3
    assert all(end["value"] is not None and end["value"]["furthest"] < 1e-12 for end in ends), ends


@pytest.mark.slow
def test_processes_that_compute_the_same_rows_without_gradients_get_the_same_bits(asked):
    """Those that write the same targets must end them at the same token."""
    assert [end["value"]["same"] for end in asked("quick")["journey"]] == [True] * 3


@pytest.mark.slow
def test_processes_with_parts_of_the_experts_give_the_losses_of_one(asked):
    found = asked("quick")["mixture"]
    agrees(found)
    same_loads(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", MIXTURES)
def test_every_kind_of_mixture_trains_as_in_one_process(case, asked):
    found = asked("equal", *MIXTURES)[case]
    agrees(found)
    same_loads(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLACES)
def test_a_mixture_may_stand_anywhere(case, asked):
    agrees(asked("equal", *PLACES)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS)
def test_the_settings_of_a_run_mean_what_they_mean_in_one_process(case, asked):
    agrees(asked("equal", *SETTINGS)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", GRIDS)
def test_copies_of_experts_and_shared_layers_go_together_with_it(case, asked):
    agrees(asked("equal", *GRIDS)[case])


@pytest.mark.slow
def test_in_bf16_losses_differ_by_its_rounding(asked):
    found = asked("equal", "bf16")["bf16"]
    agrees(found, TOLERANCE["bf16"])
    assert found["one"] != found["two"], "then the tolerance says too little"


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_the_twin_of_a_preset_trains_with_divided_experts_as_in_one(name, asked):
    found = asked("equal", *(f"twin-{each}" for each in TWINS))
    agrees(found[f"twin-{name}"])


@pytest.mark.slow
class TestUneven:
    """None is left waiting, and numbers are those of processes that have all experts."""

    @pytest.mark.parametrize("case", ["one-expert", "capacity", "none-kept", "nothing-ahead"])
    def test_losses_are_those_without_it(self, case, asked):
        found = asked("uneven")[case]
        reference = found["local" if case == "one-expert" else "ddp"]
        for way in ("two", "parts"):
            assert finished(found[way]["ends"]), found[way]["ends"]
            assert furthest(found[way]["rows"], reference["rows"]) < TOLERANCE["fp32"]
            assert furthest(found[way]["rows"], reference["rows"], "grad_norm") < 30 * TOLERANCE["fp32"]
        if case == "one-expert":
            assert found["two"]["rows"][0]["dead_experts"] == 63
        if case == "capacity":
            dropped = [row["dropped_fraction"] for row in reference["rows"]]
            assert [row["dropped_fraction"] for row in found["two"]["rows"]] == dropped
            assert min(dropped) > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two", "parts"])
def test_targets_are_written_by_all_processes_together(way, asked):
    found = asked("written")
    one, many = found["ddp"]["rows"], found[way]["rows"]
    assert finished(found["ddp"]["ends"]) and finished(found[way]["ends"])
    assert furthest(many, one) < TOLERANCE["fp32"]
    scored = [row for row in one if "val_f1" in row]
    assert len(scored) == 3 and {row["val_written_pairs"] for row in scored} == {8}
    assert [row["val_f1"] for row in many if "val_f1" in row] == [row["val_f1"] for row in scored]


@pytest.mark.slow
class TestCheckpoints:
    """Two with parts of the experts -> one -> fsdp2 -> ddp -> ddp and fsdp2 with parts, each stopped by SIGTERM."""

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

    def test_the_run_is_that_of_one_process(self, asked):
        found = asked("reshard")["rows"]
        assert [row["samples"] for row in found["run"]] == [row["samples"] for row in found["straight"]]
        assert furthest(found["run"], found["straight"]) < TOLERANCE["fp32"]

    @pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
    def test_stopped_or_killed_and_resumed_it_ends_in_the_same_bits(self, kind, asked):
        found = asked("again", kind)
        assert {end["value"]["exit_code"] for end in found["stopped-first"]} == {75}
        assert "another process is gone or does not answer" in found["killed-first"][0]["error"]
        for way in ("stopped", "killed"):
            assert finished(found[f"{way}-second"])
            assert found[way] == found["straight"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
def test_a_gradient_that_is_no_number_in_one_expert_is_judged_alike_by_all(kind, asked):
    found = asked("guarded")[kind]
    assert finished(found["ends"])
    assert found["applied"] == [1, 1, 0, 1, 1, 1]


@pytest.mark.slow
def test_copies_of_an_expert_that_differ_are_found_before_a_checkpoint_is_written(asked):
    ends = asked("drifted")
    assert all("the weights differ from those of process 0" in (end["error"] or "") for end in ends), ends


@pytest.mark.slow
def test_each_process_keeps_its_experts_alone_with_their_masters_and_moments(asked):
    found = asked("part_sizes")
    (whole,) = found["1"]
    experts, others = whole["experts"], whole["others"]
    # bf16 weights, fp32 masters and two moments.
    assert experts % 14 == others % 14 == 0
    assert found["ddp 2, experts 2"] == [{"experts": experts // 2, "others": others}] * 2
    assert found["ddp 4, experts 2"] == [{"experts": experts // 2, "others": others}] * 4
    assert found["fsdp2 2, experts 2"] == [{"experts": experts // 2, "others": others // 2}] * 2
    assert found["fsdp2 4, experts 2"] == [{"experts": experts // 4, "others": others // 4}] * 4
    assert [each["experts"] for each in found["fsdp2 2x2, experts 2"]] == [experts // 4] * 4


GRIDS_OF = st.builds(
    lambda copies, expert, tensor: Grid(data=copies * expert, tensor=tensor, expert=expert),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
)
CUTS = st.permutations(["tensor", "expert", "copies"]).flatmap(
    lambda axes: st.tuples(st.integers(0, 3), st.tuples(*[st.integers(0, 2)] * 3)).map(
        lambda drawn: tuple(Split(axis=a, dim=d) for a, d in zip(axes[: drawn[0]], drawn[1], strict=False))
    )
)


class TestShards:
    @given(GRIDS_OF, CUTS)
    def test_every_element_of_a_stack_is_counted_by_one_process_and_owned_once(self, grid, splits):
        shard = Shard(shape=(6, 5, 4), splits=splits)
        owned, counted = torch.zeros(6, 5, 4), torch.zeros(6, 5, 4)
        for rank in shard.owners(grid):
            owned[shard.box(grid, rank)] += 1
        for rank in range(grid.data * grid.tensor):
            if Shards(grid=grid, rank=rank, by_name={"weight": shard}).counted("weight"):
                counted[shard.box(grid, rank)] += 1
        assert bool((owned == 1).all()) and bool((counted == 1).all())

    @given(GRIDS_OF)
    def test_groups_of_an_axis_are_in_the_order_of_its_parts_and_hold_everyone_once(self, grid):
        for axis in ("data", "tensor", "expert", "copies"):
            groups = grid.members(axis)
            assert sorted(rank for group in groups for rank in group) == list(range(grid.data * grid.tensor))
            for group in groups:
                assert [grid.at(rank)[axis] for rank in group] == list(range(grid.size(axis)))

    def test_experts_are_divided_among_neighbours(self):
        assert Grid(data=4, tensor=1, expert=2).members("expert") == [[0, 1], [2, 3]]
        assert Grid(data=4, tensor=1, expert=2).members("copies") == [[0, 2], [1, 3]]
        assert Grid(data=2, tensor=2, expert=2).members("expert") == [[0, 2], [1, 3]]

    def test_a_cut_through_a_stack_leaves_its_matrices_whole(self):
        grid = Grid(data=2, tensor=2, expert=2)
        stack = Shard(shape=(4, 6, 8), splits=(Split(axis="tensor", dim=1), Split(axis="expert", dim=0)))
        assert stack.of_matrices(grid, 0) == Shard(shape=(2, 6, 8), splits=(Split(axis="tensor", dim=1),))
        matrix = Shard(shape=(6, 8), splits=(Split(axis="data", dim=0),))
        assert matrix.of_matrices(grid, 0) == matrix
        vector = Shard(shape=(6,), splits=(Split(axis="data", dim=0),))
        assert vector.of_matrices(grid, 0) == vector


class TestSettings:
    def refused(self, architecture=None, **settings):
        with pytest.raises(SpecError) as error:
            ensure(TrainConfig(steps=2, **settings), architecture or preset("tiny-llama-moe"))
        return str(error.value)

    def of(self, degree, kind="fsdp2"):
        return EngineSettings(kind=kind, expert_parallel=degree)

    @pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
    def test_experts_that_the_degree_does_not_divide_are_findings(self, kind):
        text = self.refused(engine=self.of(3, kind))
        assert "train.engine.expert_parallel" in text
        assert "3 does not divide 8 (moe.ffn.experts)" in text
        assert "use one of 1, 2, 4, 8, or change the architecture" in text

    def test_a_spec_without_experts_is_refused(self):
        text = self.refused(preset("tiny-llama"), engine=self.of(2))
        assert "2 processes are to divide the experts, and tiny-llama has none" in text
        assert "kind: fsdp2 alone divides every weight" in text

    @pytest.mark.parametrize("kind", ["local", "deepspeed"])
    def test_experts_are_divided_under_ddp_and_fsdp2_alone(self, kind):
        text = self.refused(engine=self.of(2, kind))
        assert f"kind: {kind} divides none" in text
        assert "add kind: fsdp2 or kind: ddp, or leave it out" in text

    @pytest.mark.parametrize(
        ("settings", "path"),
        [
            ({"optimizer": "adamw-8bit"}, "train.optimizer"),
            ({"compile": "default"}, "train.compile"),
            ({"samples": Samples(every=1, prompts=("a",))}, "train.samples.every"),
        ],
    )
    def test_what_needs_whole_tensors_is_refused_under_ddp_too(self, settings, path):
        text = self.refused(engine=self.of(2, "ddp"), **settings)
        assert path in text and "kind: ddp without expert_parallel" in text

    @pytest.mark.parametrize("degree", [0, -1, 65_537])
    def test_a_degree_that_nobody_has_is_refused(self, degree):
        assert "expert_parallel" in self.refused(engine=self.of(degree))

    @pytest.mark.parametrize(
        ("ranks", "tensor", "what", "fix"),
        [
            (3, 1, "3 processes cannot stand in groups of 2", "a multiple of 2 processes"),
            (2, 2, r"1 processes \(2 in rows of 2\) cannot stand in groups of 2", "a multiple of 4 processes"),
        ],
    )
    def test_processes_that_cannot_stand_in_groups_are_refused(self, ranks, tensor, what, fix):
        settings = EngineSettings(kind="fsdp2", tensor_parallel=tensor, expert_parallel=2)
        with pytest.raises(UsageError, match=what) as error:
            ShardedEngine(Launch(ranks=ranks, local_ranks=ranks), settings)
        assert error.value.where == "train.engine.expert_parallel"
        assert fix in error.value.fix

    @pytest.mark.parametrize(("ranks", "degree"), [(1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (8, 4)])
    def test_a_run_that_goes_on_with_other_processes_divides_experts_as_far_as_they_can(
        self, ranks, degree, monkeypatch
    ):
        for name in VARIABLES:
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        for kind in ("ddp", "fsdp2"):
            assert as_launched(self.of(4, kind)) == self.of(degree, kind)
        monkeypatch.delenv("RANK")
        assert as_launched(self.of(4)) == EngineSettings()

    def test_the_run_says_who_has_how_many_experts(self):
        architecture = preset("jamba-like")
        engine = ShardedEngine(Launch(ranks=4, local_ranks=4), self.of(4, "ddp"))
        config = TrainConfig(steps=2, watch=replace(TrainConfig(steps=2).watch, every=None))
        assert list(engine.notes(config, architecture)) == [
            "expert_parallel: each process has 4 of 16 (mamba/moe.ffn.experts)"
        ]
        assert (engine.shares, engine.sharing) == (4, 4)

    def test_every_preset_with_a_mixture_is_known(self):
        found = {name for name in preset_names() if experts_of(preset(name))}
        assert {"deepseek-v3", "jamba-like", "mixtral-8x7b", "tiny-llama-moe"} <= found
        assert "llama-3-8b" not in found


class TestPlan:
    def test_the_fastest_arrangement_that_divides_experts_is_written_as_settings(self):
        architecture = preset("mixtral-8x7b")
        config = ensure(TrainConfig(batch=128, context=4096), architecture)
        found = place(architecture, config, device_named("h100-80gb"), 64)
        assert found.chosen.name == "FSDP 64 x experts 8"
        assert found.settings()["engine"] == {"kind": "fsdp2", "expert_parallel": 8}
        assert "engine: {kind: fsdp2, expert_parallel: 8}" in found.yaml()

    def test_whole_dense_weights_beside_divided_experts_are_ddp(self):
        architecture = preset("tiny-qwen3-moe")
        config = ensure(TrainConfig(batch=8, context=256), architecture)
        found = place(architecture, config, device_named("rtx-4090"), 2)
        ddp = next(option for option in (found.chosen, *found.others) if option.name == "DDP 2 x experts 2")
        assert ddp.config.engine == EngineSettings(kind="ddp", expert_parallel=2)

    def test_arrangements_that_there_is_no_engine_for_say_so(self):
        architecture = preset("mixtral-8x7b")
        config = ensure(TrainConfig(batch=128, context=4096), architecture)
        found = place(architecture, config, device_named("h100-80gb"), 64)
        why = {option.name: option.why_not for option in found.others}
        assert "does not divide sequences" in why["FSDP 32 x tensor 2 x experts 2"]
