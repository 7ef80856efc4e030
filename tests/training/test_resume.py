from __future__ import annotations

import json

import pytest
import torch
from halves import StopAfter, final_manifest, rows  # pyright: ignore[reportMissingImports]

from vitruvius.data import PrepareOptions, prepare
from vitruvius.errors import CorruptCheckpointError, RunError, RunLockedError
from vitruvius.runs import RunFolder, RunReader
from vitruvius.training import resume, session
from vitruvius.training.evaluate import Validation
from vitruvius.training.objectives import CausalLM
from vitruvius.training.stopping import StopRequest


def stopped_and_resumed(run_of, architecture, *, after, name="halves", **settings):
    listener = StopAfter(after, 15)
    first = run_of(architecture, name, listener=listener, stop=listener.stop, **settings)
    assert (first.status, first.step, first.exit_code) == ("stopped", after, 75)
    second = resume(first.run)
    assert second.status == "finished"
    return second


@pytest.mark.parametrize("kind", ["dense", "mixture", "learned"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_stopped_and_resumed_run_equals_the_straight_one_bit_for_bit(kind, dtype, request, run_of):
    architecture = request.getfixturevalue(kind)
    straight = run_of(architecture, "straight", dtype=dtype, steps=6)
    resumed = stopped_and_resumed(run_of, architecture, after=3, dtype=dtype, steps=6)
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert rows(resumed.run) == rows(straight.run)
    assert (resumed.val_loss, resumed.val_bits_per_byte) == (straight.val_loss, straight.val_bits_per_byte)


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_resuming_with_checkpointing_is_exact_and_equals_the_run_without(kind, request, run_of):
    architecture = request.getfixturevalue(kind)
    straight = run_of(architecture, "straight", accumulate=2, steps=6)
    resumed = stopped_and_resumed(run_of, architecture, after=3, accumulate=2, checkpointing="layers", steps=6)
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert rows(resumed.run) == rows(straight.run)


def test_rows_that_somebody_took_away_are_missed(dense, run_of):
    listener = StopAfter(4)
    half = run_of(dense, "half", listener=listener, stop=listener.stop)
    path = half.run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[3:]))
    told = StopAfter(-1)
    resume(half.run, listener=told)
    assert [note for note in told.notes if "2 rows of 4 are missing in metrics.jsonl" in note]
    assert [row["step"] for row in rows(half.run)] == [1, 4, 5, 6]


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_resuming_is_exact_with_accumulation_and_joined_documents(kind, request, run_of):
    architecture = request.getfixturevalue(kind)
    settings = {"accumulate": 2, "documents": "joined", "steps": 4}
    straight = run_of(architecture, "straight", **settings)
    resumed = stopped_and_resumed(run_of, architecture, after=1, **settings)
    assert final_manifest(resumed.run) == final_manifest(straight.run)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_resuming_is_exact_with_muon(dtype, mixture, run_of):
    settings = {"optimizer": "muon", "dtype": dtype, "steps": 4}
    straight = run_of(mixture, "straight", **settings)
    resumed = stopped_and_resumed(run_of, mixture, after=2, **settings)
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert rows(resumed.run) == rows(straight.run)


def test_resuming_is_exact_on_two_threads(mixture, run_of):
    straight = run_of(mixture, "straight", threads=2)
    resumed = stopped_and_resumed(run_of, mixture, after=3, threads=2)
    assert final_manifest(resumed.run) == final_manifest(straight.run)


def test_resuming_is_exact_across_the_end_of_an_epoch_and_stopped_twice(dense, run_of):
    settings = {"steps": 30, "batch": 16, "context": 32, "checkpoint_every": 10}
    straight = run_of(dense, "straight", **settings)
    listener = StopAfter(7, 2)
    first = run_of(dense, "thirds", listener=listener, stop=listener.stop, **settings)
    assert first.exit_code == 130
    again = StopAfter(23, 15)
    assert resume(first.run, listener=again, stop=again.stop).step == 23
    resumed = resume(first.run)
    windows = 30 * 16
    assert RunReader(straight.run).record()["data"]["tokens"] // 32 < windows, "the run must see the data twice"
    assert final_manifest(resumed.run) == final_manifest(straight.run)


def test_two_runs_with_the_same_seed_agree_and_another_seed_does_not(dense, run_of):
    first, second, other = run_of(dense, "a"), run_of(dense, "b"), run_of(dense, "c", seed=1)
    assert final_manifest(first.run) == final_manifest(second.run)
    assert final_manifest(first.run) != final_manifest(other.run)


def test_rows_past_the_checkpoint_are_written_again_and_not_twice(dense, run_of):
    result = run_of(dense, steps=6, checkpoint_every=4, keep=2)
    before = rows(result.run)
    last = RunReader(result.run).checkpoints()[-1].path
    last.rename(last.with_name("elsewhere"))
    resume(result.run)
    assert rows(result.run) == before


def test_a_run_without_a_checkpoint_starts_from_the_beginning(dense, run_of):
    straight = run_of(dense, "straight")
    killed = run_of(dense, "killed")
    for checkpoint in RunReader(killed.run).checkpoints():
        checkpoint.path.rename(checkpoint.path.with_name(f"gone-{checkpoint.step}"))
    listener = StopAfter(0, 15)
    resumed = resume(killed.run, listener=listener)
    assert any("starting from the beginning" in note for note in listener.notes)
    assert final_manifest(resumed.run) == final_manifest(straight.run)


def test_resuming_a_finished_run_changes_nothing(dense, run_of):
    result = run_of(dense)
    before = final_manifest(result.run)
    again = resume(result.run)
    assert (again.status, again.step) == ("finished", result.step)
    assert final_manifest(result.run) == before
    assert (again.val_loss, again.val_bits_per_byte) == (result.val_loss, result.val_bits_per_byte)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_one_flipped_bit_is_named_and_the_checkpoint_before_is_taken(name, dense, run_of):
    straight = run_of(dense, "straight")
    damaged = run_of(dense, "damaged")
    newest, older = reversed(RunReader(damaged.run).checkpoints())
    file = newest.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    listener = StopAfter(0, 15)
    resumed = resume(damaged.run, listener=listener)
    (warning,) = [note for note in listener.notes if "warning" in note]
    assert warning.startswith(f"warning: checkpoint step-{newest.step} is damaged ({file}")
    assert f"going on from step {older.step}" in warning
    assert final_manifest(resumed.run) == final_manifest(straight.run)
    assert (newest.path.parent / f"damaged-step-{newest.step}").is_dir(), "the evidence is kept"
    assert [e["file"] for e in RunReader(damaged.run).events() if e["kind"] == "damaged-checkpoint"] == [str(file)]


def test_a_run_whose_every_checkpoint_is_damaged_is_refused_and_left_alone(dense, run_of):
    result = run_of(dense)
    for checkpoint in RunReader(result.run).checkpoints():
        with (checkpoint.path / "model.safetensors").open("ab") as file:
            file.write(b"\0")
    with pytest.raises(CorruptCheckpointError, match="none of the 2 checkpoints is whole"):
        resume(result.run)
    assert len(RunReader(result.run).checkpoints()) == 2


def test_leftovers_of_a_killed_save_are_cleared_away(dense, run_of):
    result = run_of(dense)
    for leftover in (".step-9.partial", ".step-4.pruned", ".step-2.replaced"):
        (result.run / "checkpoints" / leftover).mkdir()
    resume(result.run)
    assert sorted(p.name for p in (result.run / "checkpoints").iterdir()) == ["step-4", "step-6"]


def test_another_data_folder_is_refused_and_a_moved_one_is_taken(dense, run_of, data, other_data, tmp_path):
    listener = StopAfter(3, 15)
    result = run_of(dense, listener=listener, stop=listener.stop)
    with pytest.raises(RunError, match=r"not the data that this run was trained on"):
        resume(result.run, data=other_data)
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    assert resume(result.run, data=moved).status == "finished"


def test_a_changed_record_is_refused(dense, run_of):
    listener = StopAfter(3, 15)
    result = run_of(dense, listener=listener, stop=listener.stop)
    file = result.run / "run.json"
    record = json.loads(file.read_text())
    record["config"]["train"]["lr"] = 1e-5
    file.write_text(json.dumps(record))
    with pytest.raises(RunError, match="another config, spec or data"):
        resume(result.run)


def test_another_torch_or_machine_is_mentioned(dense, run_of):
    result = run_of(dense)
    with RunFolder.open(result.run) as folder:
        environment = folder.reader.record()["environment"]
        folder.update(environment=environment | {"packages": {"torch": "1.0"}})
    listener = StopAfter(0, 15)
    resume(result.run, listener=listener)
    assert any("torch 1.0 -> " in note for note in listener.notes)


def test_a_second_run_in_the_same_folder_is_refused_by_the_lock(dense, run_of):
    result = run_of(dense)
    with RunFolder.open(result.run), pytest.raises(RunLockedError, match="another run is writing"):
        resume(result.run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        resume(tmp_path)


# ----------------------------------------------------------------------------------------------------------------------
# Stopped in the middle of something


def test_a_stop_between_two_pieces_of_a_batch_takes_the_step_back_whole(mixture, run_of, monkeypatch):
    settings = {"accumulate": 4, "steps": 3, "checkpoint_every": 100}
    stop, pieces, original = StopRequest(), [], CausalLM.train

    def drawing(self, model, piece):
        pieces.append(None)
        if len(pieces) == 12 + 4 + 2:
            stop.ask(15)
        torch.rand(1)  # as dropout would, so that there is random state to put back
        return original(self, model, piece)

    monkeypatch.setattr(CausalLM, "train", drawing)
    straight = run_of(mixture, "straight", **settings)
    stopped = run_of(mixture, "stopped", stop=stop, **settings)
    assert (stopped.step, stopped.exit_code) == (1, 75)
    resumed = resume(stopped.run)
    assert len(pieces) == 12 + 4 + 2 + 8, "the second step was done again from its first piece"
    assert final_manifest(resumed.run) == final_manifest(straight.run)


def test_a_stop_during_the_last_validation_is_made_up_for_by_resuming(dense, run_of, monkeypatch):
    straight = run_of(dense, "straight")
    stop = StopRequest()
    original = Validation.score

    def asked(self, model, batches, request):
        stop.ask(15)
        return original(self, model, batches, request)

    monkeypatch.setattr(Validation, "score", asked)
    stopped = run_of(dense, "stopped", stop=stop)
    assert (stopped.status, stopped.step, stopped.val_loss) == ("stopped", 6, None)
    monkeypatch.undo()
    resumed = resume(stopped.run)
    assert (resumed.status, resumed.val_loss) == ("finished", straight.val_loss)
    assert final_manifest(resumed.run) == final_manifest(straight.run)


def test_data_with_more_words_is_called_other_data(dense, run_of, data, tmp_path):
    listener = StopAfter(2)
    half = run_of(dense, "half", listener=listener, stop=listener.stop)
    texts = data.parent / "texts"
    prepare([texts], tmp_path / "larger", PrepareOptions(vocab=330, held_out=0.2))
    with pytest.raises(RunError, match="not the data that this run was trained on"):
        resume(half.run, data=tmp_path / "larger")


@pytest.mark.parametrize("left", [None, b'{"version": "1.0", "trunc'], ids=["none of it", "a part of it"])
def test_a_run_killed_before_its_tokenizer_was_copied_gets_it_when_it_goes_on(left, dense, run_of, data, monkeypatch):
    straight = run_of(dense, "straight")

    def killed(copied, parts, run):
        if left is not None:
            (run / "tokenizer.json").write_bytes(left)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "_keep_sources", killed)
        with pytest.raises(KeyboardInterrupt):
            run_of(dense, "killed")
    run = straight.run.with_name("killed")
    resume(run)
    assert final_manifest(run) == final_manifest(straight.run)
    assert (run / "tokenizer.json").read_bytes() == (straight.run / "tokenizer.json").read_bytes()
