"""`vitruvius runs samples`: what an update has read, computed again and proved."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from vitruvius.cli.main import run as vitruvius
from vitruvius.data import TokenShards
from vitruvius.errors import DataError, RunError, UsageError
from vitruvius.runs import RunReader
from vitruvius.training.checking import from_plain
from vitruvius.training.config import CurriculumStage, batches_of
from vitruvius.training.loading.recalling import samples_of_step
from vitruvius.training.settings import Guard
from vitruvius.training.settings.preprocess import HookUse


@pytest.fixture(scope="module")
def made(data, dense, tmp_path_factory):
    """A run of 6 steps."""
    from vitruvius.training import TrainConfig, train

    config = TrainConfig(steps=6, batch=4, threads=1, checkpoint_every=2, eval_every=0, eval_batches=1)
    return train(dense, data=data, out=tmp_path_factory.mktemp("samples") / "run", config=config).run


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def read(run):
    """The batches of a run by number, read as training does."""
    record = RunReader(run).record()
    return batches_of(TokenShards.open(record["data"]["path"]), from_plain(record["config"]["train"]))


def test_the_samples_are_those_that_training_read_with_their_documents_and_text(made, data):
    shards, tokenizer = TokenShards.open(data), TokenShards.open(data).tokenizer()
    origins = [row["id"] for row in shards.origins(0)]
    for step in (1, 4, 6):
        found = samples_of_step(made, step, characters=10_000)
        batch = read(made).at(step - 1)
        assert (found["step"], found["batch"], found["applied"]) == (step, step - 1, True)
        assert [each["sample_id"] for each in found["samples"]] == batch.sample_ids.tolist()
        assert [each["epoch"] for each in found["samples"]] == batch.epochs.tolist()
        for sample, inputs, documents in zip(found["samples"], batch.inputs, batch.documents, strict=True):
            numbers, counts = zip(
                *((n, int((documents == n).sum())) for n in sorted(set(documents.tolist()))), strict=True
            )
            assert [each["document"] for each in sample["documents"]] == list(numbers)
            assert [each["tokens"] for each in sample["documents"]] == list(counts)
            assert [each["id"] for each in sample["documents"]] == [origins[number] for number in numbers]
            assert sample["text"] == tokenizer.decode(inputs.tolist())
            assert sample["text_is_whole"]
            raw = (data / "train" / sample["file"]).read_bytes()[sample["byte"] : sample["byte"] + 64]
            assert raw == inputs.astype("<u2").tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"packing": "best-fit", "curriculum": (CurriculumStage(until=2, context=8),)},
        {"packing": "by-length", "preprocess": (HookUse(hook="token-drop"),)},
    ],
    ids=["best-fit", "by-length"],
)
def test_every_packing_is_recalled(settings, dense, run_of):
    result = run_of(dense, steps=3, **settings)
    for step in (1, 3):
        found = samples_of_step(result.run, step, characters=5)
        batch = read(result.run).at(step - 1)
        assert found["context"] == batch.inputs.shape[1]
        assert sum(each["tokens"] for each in found["samples"]) == batch.tokens
        assert [use.hook for use in settings.get("preprocess", ())] == found["hooks"]


def test_updates_around_a_rewind_are_recalled_with_the_batches_that_they_read(dense, run_of, monkeypatch):
    from vitruvius.training.guarding.judge import Judge
    from vitruvius.training.loading import BatchLoader

    judge, at, seen, calls = Judge.judge, BatchLoader.at, [], []

    def spiking(self, gathered, *rest, **more):
        calls.append(None)
        bad = len(calls) in {5, 9, 12}
        return judge(self, replace(gathered, loss=math.nan, objective=math.nan) if bad else gathered, *rest, **more)

    def noted(self, number):
        seen.append(number)
        return at(self, number)

    monkeypatch.setattr(Judge, "judge", spiking)
    monkeypatch.setattr(BatchLoader, "at", noted)
    result = run_of(dense, steps=8, guard=Guard(not_finite="rewind"))
    recalled = [samples_of_step(result.run, step) for step in range(1, 9)]
    assert [each["batch"] for each in recalled][-1] == seen[-1] > 7
    assert [each["batch"] for each in recalled] == sorted({each["batch"] for each in recalled})
    assert {each["batch"] for each in recalled} <= set(seen)


def test_an_update_that_was_skipped_is_said_to_be(dense, run_of, monkeypatch):
    from vitruvius.training.guarding.judge import Judge

    judge, calls = Judge.judge, []

    def spiking(self, gathered, *rest, **more):
        calls.append(None)
        bad = len(calls) == 3
        return judge(self, replace(gathered, loss=math.nan, objective=math.nan) if bad else gathered, *rest, **more)

    monkeypatch.setattr(Judge, "judge", spiking)
    result = run_of(dense, steps=4, guard=Guard(not_finite="skip"))
    assert [samples_of_step(result.run, step)["applied"] for step in (2, 3, 4)] == [True, False, True]


def test_a_record_that_was_changed_proves_nothing(copy):
    record = json.loads((copy / "run.json").read_text())
    record["config"]["train"]["seed"] = 1
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="no batch goes with the digest of step 4"):
        samples_of_step(copy, 4)


def test_metrics_that_were_changed_are_found_out_and_the_update_before_is_not_touched(copy):
    path = copy / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["samples"] = "f" * 16
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match="digest of step 4"):
        samples_of_step(copy, 4)
    assert samples_of_step(copy, 3)["batch"] == 2


@pytest.mark.parametrize("value", [None, 3, [], {}])
def test_rows_without_a_digest_are_named(value, copy):
    path = copy / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["samples"] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match="digest"):
        samples_of_step(copy, 3)


def test_data_that_is_gone_or_another_is_refused_and_moved_data_is_welcome(copy, data, other_data, tmp_path):
    record = json.loads((copy / "run.json").read_text())
    record["data"]["path"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError) as caught:
        samples_of_step(copy, 1)
    assert "--data" in caught.value.fix
    with pytest.raises(RunError, match="fingerprint"):
        samples_of_step(copy, 1, data=other_data)
    assert samples_of_step(copy, 1, data=data)["batch"] == 0


@pytest.mark.parametrize("step", [7, 10**6])
def test_a_step_that_was_never_done_is_refused(step, made):
    with pytest.raises(UsageError, match=rf"no row of step {step:,}; the run has those of 1 to 6"):
        samples_of_step(made, step)


def test_a_run_without_an_update_is_refused_in_words(copy):
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="no update yet"):
        samples_of_step(copy, 1)


def test_the_command_prints_ids_and_clean_text(copy, data, tmp_path, capsys):
    assert vitruvius(["runs", "samples", str(copy), "--step", "2"]) == 0
    told = capsys.readouterr()
    batch = read(copy).at(1)
    assert told.out.startswith(f"step 2 read batch 1: 4 samples, digest {batch.sample_digest} (proved)\n")
    assert told.out.count("  sample ") == 4
    assert "documents: " in told.out
    assert f"next: vitruvius runs samples {copy} --step 2 --text" in told.err
    assert vitruvius(["runs", "samples", str(copy), "--step", "2", "--text", "--characters", "10"]) == 0
    assert "    | ..." in capsys.readouterr().out


def test_text_that_would_move_the_cursor_is_made_visible(dense, run_of, tmp_path, capsys):
    from vitruvius.data import PrepareOptions, prepare

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("red \x1b[31m and \u202e back\n" * 400, encoding="utf-8")
    prepare([tmp_path / "texts"], tmp_path / "data", PrepareOptions(vocab=300, held_out=0.0))
    result = run_of(dense, data=tmp_path / "data", steps=1)
    capsys.readouterr()
    assert vitruvius(["runs", "samples", str(result.run), "--step", "1", "--text"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31m" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_json_has_every_key_and_its_schema(made, capsys):
    assert vitruvius(["runs", "samples", str(made), "--step", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "vitruvius.runs-samples/1"
    assert set(found["samples"][0]) == {
        *("place", "sample_id", "epoch", "source", "tokens", "file", "byte", "documents", "text", "text_is_whole")
    }
    assert found["samples"][0]["text"] is None


@pytest.mark.parametrize("arguments", [["--step", "0"], ["--step", "x"], [], ["--step", "9"]])
def test_wrong_use_ends_with_2_and_no_trace(arguments, made, capsys):
    assert vitruvius(["runs", "samples", str(made), *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_recalling_loads_no_torch(made, python):
    code = (
        "import sys; from vitruvius.training.loading.recalling import samples_of_step;"
        f"samples_of_step({str(made)!r}, 2, characters=5); sys.exit('torch' in sys.modules)"
    )
    assert python(code).returncode == 0
