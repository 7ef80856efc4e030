"""Sequence to sequence: targets counted rightly, nothing reads padding or other rows, runs resume to the same bits."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from vitruvius.data import PackedBatches, TokenShards
from vitruvius.data.packing.pairs import PairLimits
from vitruvius.data.pairs.options import PairOptions
from vitruvius.data.pairs.preparing import prepare_pairs
from vitruvius.errors import DataError, SpecError
from vitruvius.inference import answer
from vitruvius.nn import build
from vitruvius.runs import RunReader
from vitruvius.spec import read_text
from vitruvius.training import TrainConfig, resume, train
from vitruvius.training.checking import ensure
from vitruvius.training.objectives import make_objective
from vitruvius.training.settings import Pairs
from vitruvius.training.stopping import StopRequest

CPU = torch.device("cpu")
SPEC = """
name: small
vocab_size: 320
width: 32
context: 48
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: everything, position: POSITION}, ffn: {kind: swiglu, hidden: 48}}
  d:
    mixer: {kind: attention, heads: 2, position: POSITION}
    cross: {kind: attention, heads: 2}
    ffn: {kind: swiglu, hidden: 48}
layers: d*2
encoder: {layers: a*2}
"""
SMALL = SPEC.replace("POSITION", "rope")
VERBS = ["open", "close", "read", "write"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """`please VERB the NOUN` -> `VERB_NOUN`: what a small model can learn in a hundred updates."""
    folder, draw = tmp_path_factory.mktemp("pairs"), random.Random(1)
    nouns = [f"{a}{b}" for a in "bdfg" for b in ("ox", "um", "ane", "ilt")]
    with (folder / "in.jsonl").open("w") as file:
        for verb in VERBS:
            for noun in nouns:
                for number in range(draw.randrange(2, 5)):
                    source = f"{'now ' * number}please {verb} the {noun}{' again' * draw.randrange(3)}"
                    row = {"source": source, "target": f"{verb}_{noun}"}
                    file.write(json.dumps(row) + "\n")
    prepare_pairs([folder / "in.jsonl"], folder / "data", PairOptions(vocab=300, held_out=0.15))
    return folder / "data"


@pytest.fixture
def learn(pairs, tmp_path, one_thread):
    def start(name="run", spec=SMALL, **settings):
        known = {key: settings.pop(key) for key in ("stop", "listener") if key in settings}
        settings["pairs"] = Pairs(**{"source": 32, "target": 12, "score": 8, **settings.get("pairs", {})})
        defaults = {"steps": 6, "batch": 8, "threads": 1, "checkpoint_every": 2, "eval_every": 3, "eval_batches": 1}
        config = TrainConfig(objective="seq2seq", **{**defaults, **settings})
        return train(read_text(spec).architecture, data=pairs, out=tmp_path / name, config=config, **known)

    return start


def first_piece(pairs, *, batch=6, step=0):
    batches = PackedBatches(TokenShards.open(pairs), batch=batch, context=1, pairs=PairLimits(source=32, target=12))
    config = ensure(TrainConfig(objective="seq2seq"), read_text(SMALL).architecture)
    drawn = batches.at(step)
    return make_objective(config), drawn, make_objective(config).pieces(drawn, 1, CPU)[0]


def test_targets_are_the_target_and_its_end_and_nothing_else(pairs):
    _, batch, piece = first_piece(pairs)
    shards = TokenShards.open(pairs)
    assert piece.scored == int((piece.targets != -100).sum()) == int((batch.targets != -100).sum())
    for row, sample in enumerate(batch.sample_ids.tolist()):
        source, target = shards.document(2 * sample), shards.document(2 * sample + 1)
        assert piece.source_lengths[row] == len(source)
        assert piece.source[row, : len(source)].tolist() == source.tolist()
        assert piece.targets[row, : len(target)].tolist() == target.tolist()
        assert (piece.targets[row, len(target) :] == -100).all()
        assert piece.tokens[row, : len(target)].tolist() == [shards.eos_id, *target[:-1].tolist()]
    # No column is padding in every row.
    assert max(piece.source_lengths) == piece.source.shape[1]
    assert (piece.targets[:, -1] != -100).any()


@pytest.mark.parametrize("position", ["rope", "alibi", "t5", "none"])
def test_padding_and_other_rows_never_change_a_rows_loss(pairs, position):
    spec = (
        SPEC.replace("position: POSITION", "position: null")
        if position == "none"
        else SPEC.replace("POSITION", position)
    )
    model = build(read_text(spec).architecture, dtype="fp64")
    objective, batch, piece = first_piece(pairs)
    assert len(set(piece.source_lengths)) > 1
    with torch.no_grad():
        together = objective.score(model, piece).double()
        for row in range(len(piece.tokens)):
            (alone,) = objective.pieces(batch.take(np.array([row])), 1, CPU)
            by_itself = objective.score(model, alone).double()[0]
            width = by_itself.shape[0]
            # Scores are rounded to fp32 on the way out.
            assert torch.allclose(together[row, :width], by_itself, atol=1e-6, rtol=0)
            assert (together[row, width:] == 0).all()
        loss = model.loss(
            piece.tokens, piece.targets, source=piece.source, source_lengths=piece.source_lengths, per_token=True
        )
        spoiled, read = piece.source.clone(), piece.tokens.clone()
        spoiled[torch.arange(spoiled.shape[1]) >= torch.tensor(piece.source_lengths).unsqueeze(1)] = 99
        read[(piece.targets == -100)] = 98
        other = model.loss(read, piece.targets, source=spoiled, source_lengths=piece.source_lengths, per_token=True)
        assert (loss - other).abs().max() < 1e-9
        for row in range(len(piece.tokens)):
            (alone,) = objective.pieces(batch.take(np.array([row])), 1, CPU)
            one = model.loss(alone.tokens, alone.targets, source=alone.source, per_token=True)[0]
            assert (loss[row, : len(one)] - one).abs().max() < 1e-9


def test_pieces_and_the_whole_batch_have_the_same_loss_and_gradient(learn):
    whole, halves = learn("whole", dtype="fp32"), learn("halves", dtype="fp32", accumulate=2)
    rows = [list(RunReader(one.run).metrics()) for one in (whole, halves)]
    for one, other in zip(*rows, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["samples"] == other["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("lengths", ["mixed", "grouped"])
def test_a_stopped_and_resumed_run_ends_in_the_same_bits(learn, lengths):
    class StopAtThree:
        def __init__(self):
            self.stop = StopRequest()

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

        def row(self, row):
            if row["step"] == 3:
                self.stop.ask(15)

    straight = learn("straight", pairs={"lengths": lengths})
    listener = StopAtThree()
    stopped = learn("stopped", pairs={"lengths": lengths}, listener=listener, stop=listener.stop)
    assert stopped.status == "stopped"
    resumed = resume(stopped.run)
    clock = {"tokens_per_second"}
    first, second = (
        [{key: value for key, value in row.items() if key not in clock} for row in RunReader(one.run).metrics()]
        for one in (straight, resumed)
    )
    assert first == second
    manifests = [
        RunReader(one.run).checkpoints()[-1].path.joinpath("manifest.json").read_text() for one in (straight, resumed)
    ]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_small_model_learns_pairs_it_has_not_seen_and_is_scored_while_it_does(learn):
    result = learn(
        steps=250, lr=5e-3, batch=16, eval_every=125, dtype="fp32", pairs={"score": 24}, checkpoint_every=250
    )
    rows = [row for row in RunReader(result.run).metrics() if "val_loss" in row]
    assert [row["step"] for row in rows] == [125, 250]
    assert rows[-1]["val_written_pairs"] == 24
    assert rows[-1]["val_f1"] >= rows[-1]["val_exact_match"] > 0.8
    record = RunReader(result.run).record()
    assert record["result"]["val_exact_match"] == rows[-1]["val_exact_match"]
    assert record["data"]["use"]["pairs"]["sources_cut"] == 0


def test_scoring_changes_no_bit_of_what_is_learned(learn):
    scored, not_scored = learn("scored"), learn("not", pairs={"score": 0})
    losses = [[row["loss"] for row in RunReader(one.run).metrics()] for one in (scored, not_scored)]
    assert losses[0] == losses[1]
    rows = list(RunReader(not_scored.run).metrics())
    assert "val_loss" in rows[-1] and "val_f1" not in rows[-1]


def test_data_and_objective_that_do_not_fit_are_refused(pairs, data, tmp_path):
    spec = read_text(SMALL).architecture
    with pytest.raises(DataError, match="running text"):
        train(spec, data=data, out=tmp_path / "a", config=TrainConfig(objective="seq2seq"))
    with pytest.raises(DataError, match="consists of pairs"):
        train(spec, data=pairs, out=tmp_path / "b", config=TrainConfig())
    for settings, what in (
        ({"objective": "seq2seq", "packing": "best-fit"}, "reads pairs"),
        ({"objective": "seq2seq", "pairs": Pairs(source=99)}, "more than the context of 48"),
        ({"pairs": Pairs(source=9)}, "read by objective: seq2seq alone"),
        ({"objective": "seq2seq", "pairs": Pairs(longer="shrink")}, "longer"),
    ):
        with pytest.raises(SpecError, match=what):
            ensure(TrainConfig(**settings), spec)
    assert not (tmp_path / "a").exists()


def test_many_targets_at_once_are_those_of_each_by_itself():
    model = build(read_text(SMALL).architecture, dtype="fp64", seed=4)
    draw = random.Random(2)
    sources = [[draw.randrange(1, 300) for _ in range(draw.randrange(1, 20))] + [0] for _ in range(7)]
    together = answer(model, sources, start=0, stop=0, max_tokens=10)
    assert together == [answer(model, [one], start=0, stop=0, max_tokens=10)[0] for one in sources]
    for source, made in zip(sources, together, strict=True):
        read = [0]
        with torch.no_grad():
            for token in made:
                logits = model(torch.tensor([read]), source=torch.tensor([source]))
                assert int(logits[0, -1].argmax()) == token
                read.append(token)
