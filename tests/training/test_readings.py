"""Processes that share the weights watch and guard a run as one process does: numbers, places, decisions."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from vitruvius.training.engines.shards import Grid, Shard, Split
from vitruvius.training.guarding.detectors import Taking
from vitruvius.training.settings import EngineSettings, Guard, Watch
from vitruvius.training.watching.components import Components

SCRIPT = Path(__file__).with_name("readings_ranks.py")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
with_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed: pip install '.[deepspeed]'")
FSDP = ("dense", "grid", "experts")
ZERO = ("zero-2", "zero-3")
CLOCK = ("forward_seconds/", "kept_bytes/", "watch_s", "guard_seconds", "val_", "samples")


def ended(found):
    """All processes finished; the events' places and the rows of one and of many."""
    assert {end["value"] and end["value"]["status"] for ends in found["ends"] for end in ends} == {"finished"}, found[
        "ends"
    ]
    return [
        (found[which]["rows"], [event for event in found[which]["events"] if event["kind"] == "alarm"])
        for which in ("one", "many")
    ]


def agrees(found, tolerance, *, without=("none",)):
    (one, told), (many, heard) = ended(found)
    for a, b in zip(one, many, strict=True):
        missing = (
            {key for key in a.keys() ^ b.keys() if not key.startswith(without)} if without else a.keys() ^ b.keys()
        )
        assert missing == set()
        for key in a.keys() & b.keys():
            if key.startswith(CLOCK):
                continue
            assert b[key] == pytest.approx(a[key], rel=tolerance, abs=1e-12), key
    keys = {key.partition("/")[0] for key in many[-1]}
    assert keys >= {"update_ratio", "embedding_norm_max", "embedding_norm_mean", "grad_norm", "stream_rms", "sink_mass"}
    assert [[sight["place"] for sight in event["seen"]] for event in told] == [
        [sight["place"] for sight in event["seen"]] for event in heard
    ]
    places = [sight["place"] for event in heard for sight in event["seen"]]
    assert any("head" in place for place in places) and any("token" in place for place in places)


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP)
def test_what_is_read_in_parts_is_what_one_process_reads(case, asked):
    found = asked("readings", *FSDP)[case]
    agrees(found, 2e-5)
    if case == "dense":
        # The main process's share of the batch, and no weights: half of what grows with the tokens.
        for part in ("embedding", "mixer", "ffn", "rest"):
            key = f"kept_bytes/{part}"
            assert [row[key] * 2 for row in found["many"]["rows"]] == [row[key] for row in found["one"]["rows"]]


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("case", ZERO)
def test_what_is_read_in_runs_is_what_one_process_reads(case, asked):
    components = ("forward_seconds/", "kept_bytes/")
    agrees(asked("readings", *ZERO)[case], 2e-5, without=components if case == "zero-3" else ("none",))


def traced(found):
    """Where the first number that is none came from, in one process and in many; all else went on."""
    ended(found)
    told = []
    for which in ("one", "many"):
        assert [row.get("applied", 1) for row in found[which]["rows"]] == [1, 1, 0]
        (event,) = [event for event in found[which]["events"] if event["kind"] == "not-finite"]
        told.append(event["first_bad"])
    return told


BAD = {
    "weights": ("weights", "layers.1.mixer.out.weight"),
    "output": ("output", "layers.1.ffn"),
    "gradient": ("gradient", "layers.1.ffn.down.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", BAD)
def test_where_a_number_that_is_none_came_from_is_found_together(place, asked):
    one, many = traced(asked("bad", "dense", *BAD)[place])
    assert (many["where"], many["name"]) == BAD[place] and many == one
    assert bool(many["samples"]) == (place == "output")


@with_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("place", ["output", "gradient"])
def test_deepspeeds_processes_find_it_too(place, asked):
    one, many = traced(asked("bad", "zero-3", "output", "gradient")[place])
    assert (many["where"], many["name"]) == BAD[place] and many == one


WAYS = ("embedding-norm:rewind", "update-ratio:lower-lr", "embedding-norm:stop")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_all_processes_decide_the_same_at_the_same_update(way, asked):
    found = asked("decisions", "dense", *WAYS)[way]
    one, *many = (
        found["verdicts"][f"dense-{name}"] for name in ("one-verdicts-0", "many-verdicts-0", "many-verdicts-1")
    )
    assert many == [one, one]
    verdict = way.partition(":")[2]
    # Updates go over the ratio after the table has grown, which is judged with the update after that.
    assert [step for step, _, each in one if each != "apply"] == [5 if way.startswith("update") else 4]
    assert [each for _, _, each in one if each != "apply"] == [verdict]
    errors = [end["error"] for ends in found["ends"] for end in ends]
    assert all(error is not None and "embedding-norm of step 4" in error for error in errors) == (verdict == "stop")


def test_of_a_routers_entropies_the_least_is_read():
    taking = Taking()
    for value in (0.7, 0.2, 0.5):
        taking.single("router-entropy", "router_entropy", "layers.0.ffn.router", torch.tensor(value))
        taking.single("router-logit", "router_logit_norm", "layers.0.ffn.router", torch.tensor(value))
    found = {reading.detector: reading.value for reading in taking.readings()}
    assert found == pytest.approx({"router-entropy": 0.2, "router-logit": 0.7})
    taking.single("router-entropy", "router_entropy", "layers.0.ffn.router", torch.tensor(math.nan))
    assert math.isnan({each.detector: each.value for each in taking.readings()}["router-entropy"])


def test_places_of_a_whole_are_found_once_among_all_parts():
    grid = Grid(data=3, tensor=2)
    shard = Shard(shape=(7, 5, 4), splits=(Split(axis="tensor", dim=1), Split(axis="data", dim=0)))
    whole = torch.arange(7 * 5 * 4).view(7, 5, 4)
    wanted = torch.arange(0, whole.numel(), 3)
    found = [
        whole[shard.box(grid, rank)].reshape(-1)[shard.within(grid, rank, wanted)] for rank in range(grid.data * 2)
    ]
    assert sorted(torch.cat(found).tolist()) == wanted.tolist()
    scalar = Shard(shape=(), splits=())
    assert scalar.within(grid, 0, torch.tensor([0])).tolist() == [0]


def test_a_head_that_an_engine_has_changed_stays_changed(dense):
    from vitruvius.nn import build

    model = build(dense)
    other = lambda *_, **__: None  # noqa: E731
    model.head.loss = other
    components = Components(model)
    components.attach()
    assert model.head.loss is not other
    components.detach()
    assert model.head.loss is other


def test_nothing_that_is_looked_at_is_left_out_under_fsdp2():
    """What a run says about its engine."""
    from vitruvius.spec import preset
    from vitruvius.training import TrainConfig
    from vitruvius.training.engines.sharded import ShardedEngine
    from vitruvius.training.launch import Launch

    engine = ShardedEngine(Launch(ranks=2, local_ranks=2), EngineSettings(kind="fsdp2"))
    config = TrainConfig(steps=9, watch=Watch(every=1), guard=Guard(every=1))
    assert list(engine.notes(config, preset("tiny-llama"))) == []


def test_the_time_of_components_is_that_of_the_update_and_not_of_the_guards_pass(dense, run_of, monkeypatch):
    heard: list[list[str]] = []
    numbers = Components.numbers

    def counted(components: Components):
        heard.append([kind for kind, *_ in components.spans])
        return numbers(components)

    monkeypatch.setattr(Components, "numbers", counted)
    run_of(dense, steps=2, accumulate=2, watch=Watch(every=1), guard=Guard(every=1))
    assert [kinds.count("embedding") for kinds in heard] == [2, 2]
    assert [kinds.count("mixer") for kinds in heard] == [4, 4]
