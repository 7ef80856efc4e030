"""Watching: what is measured is right, and nothing that is computed changes."""

from __future__ import annotations

import hashlib
import math
import signal

import pytest
import torch
from torch import nn

from vitruvius.data import Batch
from vitruvius.errors import RunError, SpecError
from vitruvius.nn import build
from vitruvius.runs import RunReader
from vitruvius.spec import preset, preset_names, resolve, shrink
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import config_hash, ensure, from_plain
from vitruvius.training.objectives import make_objective
from vitruvius.training.optim import make_optimizer
from vitruvius.training.settings import Watch
from vitruvius.training.settings.watch import MEASURES
from vitruvius.training.stopping import StopRequest
from vitruvius.training.watching import watcher as watching
from vitruvius.training.watching.blocks import MOST_WEIGHTS, Masters, block_of, gradient_norms
from vitruvius.training.watching.components import Components
from vitruvius.training.watching.reading import attention_of, read

WATCHED = Watch(every=2, rows=2, tokens=16)
UNWATCHED = Watch(every=None)
FAMILIES = {"attention_entropy", "attention_distance", "sink_mass", "stream_rms", "output_lse", "grad_norm"}
FAMILIES |= {"update_ratio", "forward_seconds", "kept_bytes", "watch_seconds", "watch_share"}


def bits(result):
    """Digests of what a checkpoint holds."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in result.checkpoint.iterdir()
        if path.name in {"model.safetensors", "optimizer.safetensors", "state.json"}
    }


def rows_of(result):
    return RunReader(result.run).metrics()


def families(row):
    return {key.split("/")[0] for key in row}


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("dense", {}),
        ("dense", {"accumulate": 2, "dtype": "fp32"}),
        ("dense", {"checkpointing": "layers"}),
        ("dense", {"optimizer": "muon"}),
        ("mixture", {"accumulate": 2}),
        ("mixture", {"checkpointing": "layers"}),
        ("learned", {"documents": "joined"}),
        ("learned", {"packing": "best-fit"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "plain",
)
def test_weights_are_the_same_to_the_bit_with_and_without_watching(architecture, settings, request, run_of):
    spec = request.getfixturevalue(architecture)
    plain = run_of(spec, "plain", watch=UNWATCHED, **settings)
    watched = run_of(spec, "watched", watch=Watch(every=1, rows=2, tokens=16), **settings)
    assert bits(plain) == bits(watched)
    assert [row["loss"] for row in rows_of(plain)] == [row["loss"] for row in rows_of(watched)]
    assert families(rows_of(watched)[0]) >= FAMILIES


class Dropping(nn.Module):
    """A feed-forward network whose output is dropped here and there while training."""

    def __init__(self, inner, random_too):
        super().__init__()
        self.inner, self.random_too = inner, random_too

    def forward(self, x_BTD, place):
        if self.random_too:
            torch.rand(3)  # as a component that draws in evaluation too
        return nn.functional.dropout(self.inner(x_BTD, place), 0.2, self.training)


def batch_of(rows=4, length=32, *, padding=0):
    from numpy import arange, int64, zeros

    inputs = (arange(rows * length, dtype=int64).reshape(rows, length) * 7) % 300
    documents = zeros((rows, length), dtype=int64)
    documents[:, length // 2 :] = 1
    targets = inputs.copy()
    if padding:
        documents[:, -padding:], targets[:, -padding:] = -1, -100
    known = dict.fromkeys(Batch.__dataclass_fields__)
    made = {"inputs": inputs, "targets": targets, "documents": documents}
    return Batch(**{**known, **made, "sample_ids": arange(rows), "epochs": zeros(rows, dtype=int64)})


@pytest.mark.parametrize("random_too", [False, True], ids=["dropout", "random-in-evaluation"])
def test_a_model_that_draws_random_numbers_draws_the_same_ones(dense, random_too):
    model = build(dense, dtype="fp32", seed=0).train()
    model.layers[0].ffn = Dropping(model.layers[0].ffn, random_too)
    objective = make_objective(from_plain({"objective": "causal-lm", "context": 32}))
    state = torch.get_rng_state()
    model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    found = read(model, objective, batch_of(), rows=2, tokens=32, measures=set(MEASURES))
    assert found
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_every_nth_update_is_measured(dense, run_of):
    rows = rows_of(run_of(dense, watch=WATCHED))
    assert [row["step"] for row in rows if "watch_seconds" in row] == [2, 4, 6]
    assert families(rows[1]) >= FAMILIES
    assert not families(rows[0]) & (FAMILIES - {"grad_norm"})


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_can_be_left_out(dense, run_of, name):
    only = families(rows_of(run_of(dense, steps=1, watch=Watch(every=1, measures=(name,))))[0])
    rest = tuple(other for other in MEASURES if other != name)
    without = families(rows_of(run_of(dense, "rest", steps=1, watch=Watch(every=1, measures=rest)))[0])
    assert not (only & without & FAMILIES) - {"watch_seconds", "watch_share", "grad_norm"}


def test_a_resumed_run_measures_in_the_same_updates_and_finds_the_same(dense, run_of):
    straight = run_of(dense, "straight", watch=WATCHED)

    class AfterThree:
        def __init__(self, stop):
            self.stop = stop

        def __getattr__(self, name):
            return lambda *_, **__: None

        def row(self, row):
            if row["step"] == 3:
                self.stop.ask(signal.SIGTERM)

    stop = StopRequest()
    first = run_of(dense, "resumed", watch=WATCHED, stop=stop, listener=AfterThree(stop))
    assert first.step == 3
    second = resume(first.run)
    assert bits(second) == bits(straight)
    timed = {"forward_seconds", "watch_seconds", "watch_share", "tokens_per_second"}
    found = [
        [{key: value for key, value in row.items() if key.split("/")[0] not in timed} for row in rows_of(run)]
        for run in (straight, second)
    ]
    assert found[0] == found[1]


def test_uniform_weights_have_the_entropy_and_distance_of_uniform_weights():
    length = 8
    weights = torch.ones(1, 2, length, length).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    found = attention_of(weights, None, crossing=False)
    assert found["attention_entropy"] == pytest.approx(sum(math.log(n) for n in range(1, 9)) / 8)
    assert found["attention_distance"] == pytest.approx(sum((n - 1) / 2 for n in range(1, 9)) / 8)
    assert found["sink_mass"] == pytest.approx(sum(1 / n for n in range(2, 9)) / 7)


def test_the_sink_of_a_document_is_its_own_first_token():
    documents = torch.tensor([[0, 0, 0, 1, 1, -1]])
    weights = torch.zeros(1, 1, 6, 6)
    weights[..., range(6), [0, 0, 0, 3, 3, 5]] = 1.0
    found = attention_of(weights, documents, crossing=False)
    assert found["sink_mass"] == 1.0
    assert found["attention_distance"] == pytest.approx((0 + 1 + 2 + 0 + 1) / 5)
    moved = weights.roll(1, dims=-1)
    assert attention_of(moved, documents, crossing=False)["sink_mass"] == 0.0


def test_what_a_learned_sink_takes_is_sink_mass_and_no_distance():
    weights = torch.full((1, 1, 4, 4), 0.125)
    found = attention_of(weights, None, crossing=False)
    assert found["sink_mass"] == pytest.approx(0.5 + 0.125)
    assert found["attention_distance"] == pytest.approx((1.5 + 1 + 1 + 1.5) / 4)


def test_across_two_texts_there_is_no_distance():
    assert attention_of(torch.full((1, 1, 2, 4), 0.25), None, crossing=True).keys() == {
        "attention_entropy",
        "sink_mass",
    }


def test_norms_of_the_blocks_make_up_the_norm_of_all(dense, run_of):
    (row,) = rows_of(run_of(dense, steps=1, dtype="fp32", watch=Watch(every=1)))
    blocks = [value for key, value in row.items() if key.startswith("grad_norm/")]
    assert math.hypot(*blocks) == pytest.approx(row["grad_norm"], rel=1e-5)
    assert {"grad_norm/layers.0", "grad_norm/layers.1", "grad_norm/embedding", "grad_norm/final_norm"} <= row.keys()


def test_update_ratios_are_those_of_the_masters(dense):
    config = from_plain({"context": 32})
    model = build(dense, dtype="bf16", seed=0)
    optimizer = make_optimizer(model, config)
    names = {name for name, _ in model.named_parameters()}
    before = {name: optimizer.tensors()[f"master.{name}"].clone() for name in names}
    masters = Masters(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(lr=1e-3)
    ratios = masters.ratios()
    mine = [name for name in names if block_of(name) == "layers.1"]
    assert all(before[name].numel() <= MOST_WEIGHTS for name in mine)
    moved = math.sqrt(sum(float((optimizer.tensors()[f"master.{n}"] - before[n]).square().sum()) for n in mine))
    size = math.sqrt(sum(float(before[n].square().sum()) for n in mine))
    assert ratios["update_ratio/layers.1"] == pytest.approx(moved / size, rel=1e-5)


def test_gradients_that_are_no_numbers_are_left_out():
    found = gradient_norms({"layers.0.a": torch.tensor([math.nan]), "head.b": torch.tensor([3.0, 4.0])})
    assert found == {"grad_norm/head": 5.0}


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layers.12.mixer.q.weight", "layers.12"),
        ("encoder.layers.0.ffn.up.weight", "encoder.layers.0"),
        ("mtp.1.layer.mixer.q.weight", "mtp.1"),
        ("embedding.tokens.weight", "embedding"),
        ("final_norm.weight", "final_norm"),
    ],
)
def test_blocks_are_layers_and_what_stands_around_them(name, block):
    assert block_of(name) == block


def test_every_kind_of_component_is_timed_and_nothing_is_left_on_the_model(mixture):
    model = build(mixture, dtype="fp32", seed=0).train()
    tokens = torch.arange(32).unsqueeze(0)
    components = Components(model)
    components.attach()
    model.loss(tokens, tokens).backward()
    components.detach()
    found = components.numbers()
    assert {f"forward_seconds/{kind}" for kind in ("embedding", "mixer", "ffn", "head")} <= found.keys()
    assert found["kept_bytes/ffn"] > 0 and found["kept_bytes/mixer"] > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "loss" not in vars(model.head)
    again = Components(model)
    model.loss(tokens, tokens).backward()
    assert again.numbers() == {}


def test_what_a_component_keeps_is_counted_once_and_to_the_byte():
    linear = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Sigmoid())
    model = nn.Module()
    model.embedding, model.head, model.device = linear, nn.Module(), torch.device("cpu")
    model.head.loss = None
    components = Components(model)
    components._watch("embedding", linear)
    x = torch.ones(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(components._pack, components._unpack):
        y = linear(x)
        y.sum().backward()
    components.detach()
    assert components.kept == {"embedding": 2 * 4 * 8 * 4}  # the input of the map, the output of the sigmoid


def test_an_update_that_dies_leaves_no_hooks(dense, run_of, monkeypatch):
    seen = []
    trainer_of = watching.Watcher.started

    def started(self, trainer):
        seen.append(trainer)
        trainer_of(self, trainer)

        def dying(batch, stop):
            raise RunError("power went out", where="here", fix="wait")

        trainer.updater.gradients = dying

    monkeypatch.setattr(watching.Watcher, "started", started)
    with pytest.raises(RunError, match="power went out"):
        run_of(dense, watch=Watch(every=1))
    (trainer,) = seen
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert "loss" not in vars(trainer.model.head)
    x = torch.ones(2, requires_grad=True)
    (x * x).sum().backward()  # no hook on what is kept, either


def test_watching_that_costs_too_much_says_so_once_and_names_what_would_not(dense, run_of):
    notes = []

    class Noting:
        def __getattr__(self, name):
            return lambda *_, **__: None

        def note(self, text):
            notes.append(text)

    result = run_of(dense, watch=Watch(every=1), listener=Noting())
    said = [text for text in notes if text.startswith("watching takes")]
    (event,) = [event for event in RunReader(result.run).events() if event["kind"] == "watch-cost"]
    assert len(said) == 1
    assert f"train.watch.every={event['every_within_limit']}" in said[0]
    assert event["every_within_limit"] / event["every"] == pytest.approx(event["share"] / 0.02, abs=1)


def test_a_run_does_not_end_because_it_cannot_be_read(dense, run_of, monkeypatch):
    plain = run_of(dense, "plain", watch=UNWATCHED)

    def out_of_memory(look, *_, **__):
        torch.rand(2)
        raise torch.OutOfMemoryError("no memory for a map")

    monkeypatch.setattr("vitruvius.training.watching.reading.attention_of", out_of_memory)
    result = run_of(dense, watch=Watch(every=2))
    assert bits(result) == bits(plain)
    (event,) = [event for event in RunReader(result.run).events() if event["kind"] == "watch-failed"]
    assert (event["step"], "no memory for a map" in event["error"]) == (2, True)
    found = families(rows_of(result)[3])
    assert "stream_rms" not in found and {"update_ratio", "watch_seconds"} <= found


def test_rows_that_are_all_padding_are_passed_over(dense):
    model = build(dense, dtype="fp32", seed=0)
    objective = make_objective(from_plain({"objective": "causal-lm", "context": 32}))
    padded = batch_of(padding=32)
    assert read(model, objective, padded, rows=2, tokens=32, measures=set(MEASURES)) == {}
    half = read(model, objective, batch_of(padding=8), rows=2, tokens=32, measures=set(MEASURES))
    assert all(math.isfinite(value) for value in half.values())


FAST = ("tiny-llama-moe", "seq2seq-small", "context-aware-bert", "context-aware-decoder", "deepseek-v3", "mamba2")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in preset_names()]


def gradients_of(architecture, config, batch, *, watched):
    model = build(architecture, dtype="fp32", seed=0).train()
    objective, found = make_objective(config), {}
    if watched:
        found |= read(model, objective, batch, rows=1, tokens=16, measures=set(MEASURES))
        components = Components(model)
        components.attach()
    (piece,) = objective.pieces(batch, 1, model.device)
    objective.train(model, piece).objective.backward()
    if watched:
        components.detach()
        found |= components.numbers()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, found


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_watched_and_has_the_same_gradients(name, one_thread):
    architecture = shrink(preset(name))
    config = ensure(TrainConfig(context=24, batch=2), architecture)
    batch = batch_of(rows=2, length=24)
    batch.inputs[:] %= architecture.vocab_size - 1
    batch.targets[:] = batch.inputs
    plain, _ = gradients_of(architecture, config, batch, watched=False)
    watched, found = gradients_of(architecture, config, batch, watched=True)
    assert [
        n for n, g in plain.items() if not (g is None and watched[n] is None) and not torch.equal(g, watched[n])
    ] == []
    paths = [layer.path for layer in (*resolve(architecture).encoder, *resolve(architecture).layers)]
    assert [path for path in paths if f"stream_rms/{path}" not in found] == []
    assert {"output_lse", "forward_seconds/head", "kept_bytes/head"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values())
    entropies = [value for key, value in found.items() if key.startswith("attention_entropy/")]
    assert all(0 <= value <= math.log(24) for value in entropies)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"every": 0}, "train.watch.every"),
        ({"rows": 0}, "train.watch.rows"),
        ({"measures": ["colour"]}, "train.watch.measures"),
        ({"sinks": ["tensorboard", "tensorboard"]}, "train.watch.sinks"),
        ({"evry": 3}, "train.watch.evry"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_at_their_place(settings, path):
    with pytest.raises(SpecError) as caught:
        from_plain({"watch": settings})
    assert path in str(caught.value)


def test_a_checkpoint_does_not_belong_to_how_it_was_watched():
    plain, watched = TrainConfig(), TrainConfig(watch=WATCHED)
    assert config_hash(plain, {}, "data") == config_hash(watched, {}, "data")
