"""Runs over several sources, packed documents and growing samples: what they read, and the same bits on resume."""

from __future__ import annotations

import json
import re

import pytest
import torch
from halves import final_manifest, rows  # pyright: ignore[reportMissingImports]

from vitruvius.data import PackedBatches, TokenShards
from vitruvius.data.packing.index import fingerprint_of, read_index
from vitruvius.data.packing.writing import SplitWriter
from vitruvius.errors import DataError, SpecError, UsageError
from vitruvius.nn import build
from vitruvius.runs import RunReader
from vitruvius.spec import preset
from vitruvius.spec.shrink import shrink
from vitruvius.training import TrainConfig, resume
from vitruvius.training.checking import ensure
from vitruvius.training.config import CurriculumStage
from vitruvius.training.objectives import make_objective
from vitruvius.training.stopping import StopRequest

np = pytest.importorskip("numpy")

MIX = {"code": 0.3, "web": 0.7}
CURRICULUM = (CurriculumStage(until=0.34, context=8), CurriculumStage(until=4, context=16))


class Listening:
    """A listener that keeps notes, and asks the run to stop after a step."""

    def __init__(self, stop_after=None):
        self.stop_after, self.stop, self.notes = stop_after, StopRequest(), []

    def started(self, *, step, steps):
        pass

    def row(self, row):
        if row["step"] == self.stop_after:
            self.stop.ask(15)

    def saved(self, checkpoint):
        pass

    def note(self, text):
        self.notes.append(text)

    def ended(self):
        pass


@pytest.fixture(scope="session")
def two_sources(data, tmp_path_factory):
    """The documents of `data` again, every third of them from `code` and the others from `web`."""
    folder, index = tmp_path_factory.mktemp("two") / "data", read_index(data)
    folder.mkdir()
    for split in ("train", "validation"):
        shards = TokenShards.open(data, split)
        writer = SplitWriter(folder, split, vocab_size=shards.vocab_size, shard_tokens=2000)
        for number in range(shards.documents):
            ids = shards.document(number)
            writer.add(ids, text_bytes=len(ids), source="web" if number % 3 else "code")
        index["splits"][split] = writer.close()
    (folder / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    index["fingerprint"] = fingerprint_of(index)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", ["dense", "mixture"])
@pytest.mark.parametrize(
    "settings",
    [
        {"mix": MIX},
        {"curriculum": CURRICULUM},
        {"packing": "best-fit", "mix": MIX, "curriculum": CURRICULUM, "accumulate": 2},
        {"packing": "one-document"},
    ],
    ids=["mix", "curriculum", "all", "one-document"],
)
def test_three_steps_and_three_more_equal_six_bit_for_bit(kind, settings, request, run_of, two_sources):
    architecture = request.getfixturevalue(kind)
    straight = run_of(architecture, "straight", data=two_sources, steps=6, **settings)
    listener = Listening(stop_after=3)
    halves = run_of(
        architecture, "halves", data=two_sources, steps=6, listener=listener, stop=listener.stop, **settings
    )
    assert (halves.status, halves.step) == ("stopped", 3)
    again = Listening()
    resumed = resume(halves.run, listener=again)
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert rows(resumed.run) == rows(straight.run)
    assert resumed.val_loss == straight.val_loss
    assert listener.notes == again.notes


def test_a_curriculum_reads_the_same_samples_and_tokens_as_a_run_without(dense, run_of, two_sources):
    plain = run_of(dense, "plain", data=two_sources, steps=6)
    staged = run_of(dense, "staged", data=two_sources, steps=6, curriculum=CURRICULUM)
    for name in ("samples", "tokens"):
        assert [row[name] for row in rows(plain.run)] == [row[name] for row in rows(staged.run)]
    assert [row["context"] for row in rows(staged.run)] == [8, 8, 16, 16, 32, 32]
    assert rows(plain.run)[0]["loss"] != rows(staged.run)[0]["loss"]


def test_padding_is_counted_and_is_no_token_of_the_run(dense, run_of, two_sources):
    result = run_of(dense, data=two_sources, steps=3, packing="one-document")
    batches = PackedBatches(TokenShards.open(two_sources), batch=4, context=32, packing="one-document")
    found = [batches.at(step) for step in range(3)]
    assert [row["padding"] for row in rows(result.run)] == [batch.padding for batch in found]
    assert result.tokens == sum(batch.tokens for batch in found) < 3 * 4 * 32


def test_the_run_folder_and_the_notes_say_what_was_read_how_often(dense, run_of, two_sources):
    listener = Listening()
    result = run_of(dense, data=two_sources, steps=6, mix=MIX, packing="best-fit", listener=listener)
    record = RunReader(result.run).record()
    use = record["data"]["use"]
    assert record["config"]["train"]["mix"] == MIX
    assert [(source["source"], source["share"]) for source in use["sources"]] == [("code", 0.3), ("web", 0.7)]
    drawn = [source["epochs"] * source["samples"] for source in use["sources"]]
    assert sum(drawn) == pytest.approx(24)
    assert drawn[0] == pytest.approx(7.2, abs=0.5)
    sources, packing = (note for note in listener.notes if note.startswith(("sources:", "packing")))
    assert sources.startswith("sources: code 30.0% of the samples, read ")
    assert re.match(r"packing best-fit: \d+\.\d\d% padding, \d+ of \d+ documents cut", packing)


def test_one_source_in_a_plain_stream_reads_as_it_always_did(dense, run_of, data):
    listener = Listening()
    result = run_of(dense, steps=2, listener=listener)
    assert not any("sources:" in note or "packing" in note for note in listener.notes)
    assert "padding" not in rows(result.run)[0]


def test_validation_scores_the_same_windows_however_training_packs(dense, run_of, two_sources):
    scores = [
        RunReader(run_of(dense, name, data=two_sources, steps=1, packing=name).run).record()["result"]
        for name in ("stream", "best-fit")
    ]
    assert scores[0]["val_tokens"] == scores[1]["val_tokens"]
    assert scores[0]["val_whole_split"] is scores[1]["val_whole_split"] is True


def test_a_mix_that_the_data_does_not_have_is_refused_and_nothing_is_written(dense, run_of, two_sources, tmp_path):
    with pytest.raises(UsageError, match="no source 'docs'"):
        run_of(dense, data=two_sources, mix={"web": 1, "code": 1, "docs": 1})
    shards = TokenShards.open(two_sources)
    with pytest.raises(DataError, match="no source of train has more than"):
        PackedBatches(shards, batch=1, context=10**6)
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Documents keep to themselves


KINDS = ("tiny-llama", "tiny-llama-moe", "longcontext", "mamba2", "gated-deltanet-hybrid", "jamba-like", "deepseek-v3")


@pytest.mark.parametrize("name", KINDS)
def test_a_documents_logits_do_not_depend_on_its_neighbours_in_the_pack(name, tmp_path):
    architecture = shrink(preset(name))
    draw = np.random.default_rng(5)
    lengths = [5, 9, 12, 3, 17, 8, 26, 4, 11, 6, 20, 7]
    texts = [[*draw.integers(1, 60, length - 1).tolist(), 0] for length in lengths]
    writer = SplitWriter(tmp_path, "train", vocab_size=60, shard_tokens=10**9)
    for ids in texts:
        writer.add(ids, text_bytes=len(ids))
    entry = {"vocab_size": 60, "dtype": "<u2", "eos_id": 0, "fingerprint": "0", "splits": {"train": writer.close()}}
    shards = TokenShards(tmp_path, "train", entry)
    model = build(architecture, seed=3).double().eval()
    objective = make_objective(ensure(TrainConfig(), architecture))
    seen = set()
    for packing in ("best-fit", "one-document", "by-length", "stream"):
        for batch in PackedBatches(shards, batch=3, context=32, packing=packing).once():
            (piece,) = objective.pieces(batch, 1, torch.device("cpu"))
            with torch.no_grad():
                logits = model(piece.tokens, documents=piece.documents)
            for row, documents in enumerate(batch.documents):
                for document in set(documents.tolist()) - {-1}:
                    places = np.flatnonzero(documents == document)
                    ids = torch.from_numpy(batch.inputs[row, places])[None]
                    with torch.no_grad():
                        alone = model(ids)[0]
                    torch.testing.assert_close(logits[row, places], alone, rtol=0, atol=1e-9)
                    seen.add((packing, document))
    assert {document for packing, document in seen if packing == "best-fit"} == set(range(len(lengths)))


def test_hidden_tokens_are_never_padding(two_sources, run_of):
    from vitruvius.spec import read_text

    text = """
name: masked
vocab_size: 320
width: 16
context: 256
blocks:
  a: {mixer: {kind: attention, heads: 2, sees: everything, position: rope}, ffn: {kind: swiglu, hidden: 16}}
layers: a
head: mlm
"""
    architecture = read_text(text).architecture
    config = ensure(TrainConfig(packing="one-document", mask_rate=0.5), architecture)
    batches = PackedBatches(TokenShards.open(two_sources), batch=8, context=256, packing="one-document")
    for step in range(3):
        batch = batches.at(step)
        (piece,) = make_objective(config).pieces(batch, 1, torch.device("cpu"))
        padding = torch.from_numpy(batch.documents) < 0
        assert padding.any()
        assert (piece.targets[padding] == -100).all()
        assert (piece.tokens[padding] == 0).all()
        assert ((piece.targets >= 0).sum(dim=1) > 0).all()
    result = run_of(architecture, data=two_sources, steps=2, packing="one-document", curriculum=CURRICULUM[:1])
    assert result.loss > 0


@pytest.mark.parametrize(
    ("settings", "path", "what"),
    [
        ({"curriculum": (CurriculumStage(until=0.5, context=7),)}, "train.curriculum.0.context", "equal pieces of 7"),
        ({"mix": {}}, "train.mix", "no source is named"),
        ({"mix": {"a": 0.0}}, "train.mix", "no source has a weight above 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_the_data_is_read(dense, settings, path, what):
    with pytest.raises(SpecError, match=what) as caught:
        ensure(TrainConfig(**settings), dense)
    assert [finding.path for finding in caught.value.findings] == [path]
