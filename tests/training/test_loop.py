from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from dataclasses import replace

import pytest
import torch

from vitruvius.data import PackedBatches, PrepareOptions, TokenShards, prepare
from vitruvius.errors import DataError, PositionOverflowError, RunError, SpecError
from vitruvius.nn import Model, build
from vitruvius.nn.weights import load_model
from vitruvius.runs import RunReader
from vitruvius.runs.checkpoints import tokenizer_path
from vitruvius.spec import from_plain, preset
from vitruvius.training import TrainConfig, resume, train
from vitruvius.training import checkpoint as checkpoints
from vitruvius.training.checking import ensure
from vitruvius.training.evaluate import Validation
from vitruvius.training.loop import chained
from vitruvius.training.objectives import CausalLM, make_objective
from vitruvius.training.stopping import StopRequest

ROW = {"step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second"}


def test_a_run_writes_a_row_per_step_as_the_contract_says(mixture, run_of):
    result = run_of(mixture, steps=4, eval_every=2)
    rows = RunReader(result.run).metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["tokens"] for row in rows] == [128, 256, 384, 512]
    assert all(row.keys() >= ROW for row in rows)
    assert ["val_loss" in row for row in rows] == [False, True, False, True]
    assert all(
        {"router_entropy", "expert_load_max_over_mean", "dead_experts", "aux_loss"} <= row.keys() for row in rows
    )
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)


def test_a_model_learns_what_the_text_repeats(dense, run_of):
    result = run_of(dense, steps=120, batch=8, lr=1e-2, checkpoint_every=120)
    first = RunReader(result.run).metrics()[0]["loss"]
    assert first == pytest.approx(math.log(320), abs=0.3)
    assert result.val_loss < 2.5 < first
    assert result.val_bits_per_byte < 2


def test_the_record_says_what_was_run(dense, run_of, data):
    result = run_of(dense, seed=3)
    record = RunReader(result.run).record()
    assert from_plain(record["spec"]["data"]) == dense
    assert record["config"]["train"]["seed"] == 3
    assert record["config"]["train"]["context"] == 32
    assert record["config"]["train"]["threads"] == 1
    assert record["data"]["fingerprint"] == TokenShards.open(data).fingerprint
    assert record["status"] == "finished"
    assert record["result"]["val_whole_split"] is True
    assert record["result"]["val_bits_per_byte"] == result.val_bits_per_byte


def test_the_run_folder_carries_the_datas_tokenizer(dense, run_of, data):
    assert tokenizer_path(run_of(dense).run).read_bytes() == (data / "tokenizer.json").read_bytes()


def test_the_last_checkpoint_is_the_runs_model(mixture, run_of, data):
    result = run_of(mixture, dtype="fp32")
    model = load_model(result.run)
    assert not model.training
    objective = CausalLM(TrainConfig())
    shards = TokenShards.open(data, "validation")
    config = ensure(TrainConfig(batch=4), mixture)
    score = Validation(shards, config, objective, torch.device("cpu")).score(model, None, StopRequest())
    assert score.loss == pytest.approx(result.val_loss, rel=1e-6)


def test_old_checkpoints_go_and_the_newest_stay(dense, run_of):
    result = run_of(dense, steps=9, checkpoint_every=2, keep=3)
    assert [c.step for c in RunReader(result.run).checkpoints()] == [6, 8, 9]


def test_a_batch_in_pieces_gives_the_loss_and_gradient_of_the_whole(mixture, run_of):
    whole = run_of(mixture, "whole", steps=3, batch=4, dtype="fp32")
    pieces = run_of(mixture, "pieces", steps=3, batch=4, accumulate=4, dtype="fp32")
    for one, other in zip(RunReader(whole.run).metrics(), RunReader(pieces.run).metrics(), strict=True):
        assert one["samples"] == other["samples"]
        # The balance loss is a product of means, so pieces shift the gradient a little; the loss itself agrees.
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=5e-2)


def test_pieces_of_a_dense_model_agree_to_rounding(dense, run_of):
    whole = run_of(dense, "whole", steps=3, batch=4, dtype="fp32")
    pieces = run_of(dense, "pieces", steps=3, batch=4, accumulate=2, dtype="fp32")
    for one, other in zip(RunReader(whole.run).metrics(), RunReader(pieces.run).metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_the_samples_of_a_row_are_a_chain_over_every_batch_so_far(dense, run_of, data):
    result = run_of(dense, steps=3, batch=4, seed=5)
    batches = PackedBatches(TokenShards.open(data), batch=4, context=32, seed=5)
    digest = "0" * 16
    for step, row in enumerate(RunReader(result.run).metrics()):
        digest = chained(digest, batches.at(step).sample_digest)
        assert row["samples"] == digest
    assert json.loads((result.checkpoint / "state.json").read_text())["sample_digest"] == digest


def test_documents_matter_only_when_they_are_kept_apart(dense, run_of):
    apart = run_of(dense, "apart", steps=1, batch=200, dtype="fp32")
    joined = run_of(dense, "joined", steps=1, batch=200, dtype="fp32", documents="joined")
    (one,), (other,) = RunReader(apart.run).metrics(), RunReader(joined.run).metrics()
    assert one["samples"] == other["samples"]
    assert one["loss"] != other["loss"]


# ----------------------------------------------------------------------------------------------------------------------
# Validation


def test_bits_per_byte_is_nats_over_the_bytes_of_the_scored_text(dense, data):
    config = ensure(TrainConfig(batch=4), dense)
    shards = TokenShards.open(data, "validation")
    validation = Validation(shards, config, make_objective(config), torch.device("cpu"))
    model = build(dense, seed=1)
    score = validation.score(model, None, StopRequest())
    nats, scored = 0.0, []
    tokens = shards.read(0, shards.tokens)
    starts = shards.document_starts
    for window in range((shards.tokens - 1) // 32):
        place = slice(window * 32, (window + 1) * 32)
        documents = [int((starts <= i).sum()) for i in range(place.start, place.stop)]
        inputs, targets = tokens[place], tokens[place.start + 1 : place.stop + 1]
        with torch.no_grad():
            logits = model(torch.tensor(inputs)[None], documents=torch.tensor(documents)[None])[0].log_softmax(-1)
        nats -= float(logits[torch.arange(32), torch.tensor(targets)].double().sum())
        scored.extend(targets.tolist())
    text = shards.tokenizer().decode_bytes(scored)
    assert score.tokens == len(scored)
    assert score.text_bytes == len(text)
    assert score.loss == pytest.approx(nats / len(scored), rel=1e-6)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(text), rel=1e-6)
    assert score.whole


def test_a_limited_validation_scores_the_same_windows_every_time(dense, data):
    config = ensure(TrainConfig(batch=4, accumulate=2), dense)
    validation = Validation(TokenShards.open(data, "validation"), config, make_objective(config), torch.device("cpu"))
    model = build(dense)
    first, again = (validation.score(model, 3, StopRequest()) for _ in range(2))
    assert first == again
    assert first.tokens == 3 * 4 * 32
    assert not first.whole


def test_a_held_out_split_shorter_than_the_context_is_still_scored(run_of, data):
    long = preset("tiny-llama", overrides=["width=32", "vocab_size=320", "context=4096", "layers=layer"])
    short = TokenShards.open(data, "validation").tokens
    assert short < 4096
    result = run_of(long, steps=1, batch=1)
    assert result.val_loss > 0


# ----------------------------------------------------------------------------------------------------------------------
# What is refused, and what is left behind


def test_a_vocabulary_larger_than_the_architectures_is_refused_and_nothing_is_written(run_of, tmp_path):
    with pytest.raises(DataError, match=r"300 tokens, the architecture's vocab_size is 256"):
        run_of(preset("tiny-llama", overrides=["vocab_size=256"]))
    assert not (tmp_path / "run").exists()


def test_data_shorter_than_one_sample_is_refused_and_nothing_is_written(run_of, tmp_path):
    long = preset("tiny-llama", overrides=["vocab_size=320", "width=32", "context=100000", "layers=layer"])
    with pytest.raises(DataError, match=r"one window of context 100,000 needs 100,001"):
        run_of(long, steps=1)
    assert not (tmp_path / "run").exists()


def test_a_corpus_with_nothing_held_out_trains_without_a_validation_loss(dense, run_of, tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{n} stones in the arch.\n" for n in range(500)), encoding="utf-8")
    prepare([tmp_path / "text.txt"], tmp_path / "data", PrepareOptions(vocab=300, held_out=0.0))
    result = run_of(dense, data=tmp_path / "data")
    assert (result.status, result.val_loss) == ("finished", None)
    assert "val_loss" not in RunReader(result.run).metrics()[-1]


def test_a_folder_that_holds_a_run_is_refused_with_the_way_on(dense, run_of):
    result = run_of(dense)
    before = (result.run / "run.json").read_bytes()
    with pytest.raises(RunError, match=r"vitruvius train --resume"):
        run_of(dense)
    assert (result.run / "run.json").read_bytes() == before


def test_a_context_past_the_learned_positions_is_refused_before_anything_is_made(run_of, tmp_path):
    with pytest.raises((PositionOverflowError, SpecError), match="position"):
        run_of(preset("tiny-gpt2", overrides=["context=512", "vocab_size=320"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_update(poison, dense, run_of, monkeypatch):
    healthy = run_of(dense, "healthy", steps=2, checkpoint_every=2)
    calls = []
    original = Model.loss

    def sick(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        calls.append(None)
        if len(calls) <= 2 or kwargs.get("per_token"):
            return loss
        if poison == "loss":
            return loss * math.inf
        if loss.requires_grad:
            loss.register_hook(lambda grad: grad * math.nan)
        return loss

    monkeypatch.setattr(Model, "loss", sick)
    with pytest.raises(RunError, match=r"of step 3 is (nan|inf); the update was not applied") as caught:
        run_of(dense, "sick", steps=2 + 4, checkpoint_every=2, warmup=1, schedule="constant")
    run = healthy.run.with_name("sick")
    (event,) = [event for event in RunReader(run).events() if event["kind"] == "not-finite"]
    assert event["step"] == 3
    assert len(event["sample_ids"]) == 4
    assert str(event["sample_ids"][0]) in str(caught.value)
    assert RunReader(run).record()["status"] == "failed"
    assert [row["step"] for row in RunReader(run).metrics()] == [1, 2]
    assert [c.step for c in RunReader(run).checkpoints()] == [2]
    monkeypatch.setattr(Model, "loss", original)
    assert resume(run).status == "finished", "what was there before the fault is intact"


def test_a_full_disk_stops_the_run_and_names_what_is_needed_and_free(dense, run_of, monkeypatch):
    write = checkpoints.write_tensors
    saves = []

    def failing(path, tensors):
        saves.append(path)
        if len(saves) > 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_tensors", failing)
    with pytest.raises(RunError, match=r"needs [\d,]+ bytes, [\d,]+ are free; earlier checkpoints are intact"):
        run_of(dense, "full", steps=6, checkpoint_every=2)
    run = saves[0].parents[2]
    (survivor,) = RunReader(run).checkpoints()
    survivor.verify()
    assert survivor.step == 2
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.setattr(checkpoints, "write_tensors", write)
    assert resume(run).status == "finished"


def test_a_disk_without_room_is_noticed_before_a_byte_is_written(dense, run_of, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("vitruvius.runs.checkpoints.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(checkpoints, "write_tensors", lambda *_: pytest.fail("it was written"))
    with pytest.raises(RunError, match=r"1,000 are free"):
        run_of(dense)


def _lying_about(name):
    """SHA-256, wrong for what is read back from one checkpoint."""

    def digest(path):
        content = path.read_bytes() + (b"!" if path.parent.name == name else b"")
        return hashlib.sha256(content).hexdigest()

    return digest


def test_a_checkpoint_that_reads_back_wrong_leaves_the_one_before(dense, run_of, monkeypatch, tmp_path):
    monkeypatch.setattr("vitruvius.runs.manifest.sha256_of", _lying_about("step-4"))
    with pytest.raises(RunError, match="SHA-256"):
        run_of(dense, "lies", steps=6, checkpoint_every=2, keep=1)
    monkeypatch.undo()
    survivors = RunReader(tmp_path / "lies").checkpoints()
    assert [c.step for c in survivors] == [2, 4]
    survivors[0].verify()


def test_equal_states_give_equal_files(dense, run_of):
    one, other = run_of(dense, "one"), run_of(dense, "other")
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert (one.checkpoint / file).read_bytes() == (other.checkpoint / file).read_bytes()


def test_training_leaves_torch_as_it_found_it(dense, data, tmp_path):
    threads, enabled = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train(dense, data=data, out=tmp_path / "run", config=TrainConfig(steps=1, threads=1, batch=1))
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() is enabled


def test_there_is_no_pickle_in_the_package():
    root = next(p for p in __import__("pathlib").Path(train.__code__.co_filename).parents if p.name == "vitruvius")
    banned = ("import pickle", "torch.load(", "torch.save(", "joblib")
    guilty = [(path.name, word) for path in root.rglob("*.py") for word in banned if word in path.read_text()]
    assert guilty == []


def test_a_run_whose_last_validation_is_no_number_ends_with_a_record_and_a_summary(dense, run_of, monkeypatch):
    """Weights that the last update has thrown too far: it is for the user to see, and no reason to lose the run."""
    real = Validation.score
    monkeypatch.setattr(Validation, "score", lambda *args: replace(real(*args), loss=math.nan, bits_per_byte=math.nan))
    result = run_of(dense, steps=2)
    record = RunReader(result.run).record()
    assert (record["status"], record["result"]["val_loss"]) == ("finished", None)
    assert record["result"]["non_finite"] == {"val_loss": "nan", "val_bits_per_byte": "nan"}
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["val_loss"] is None
