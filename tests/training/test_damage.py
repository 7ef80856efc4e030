"""Damage: a flipped bit anywhere, a disk that fills at any moment, a folder that was moved, edited or taken."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
from pathlib import Path

import pytest

from vitruvius.errors import RunError, RunLockedError
from vitruvius.runs import RunFolder, RunReader, lines
from vitruvius.runs import files as run_files
from vitruvius.runs.lock import FolderLock
from vitruvius.training import TrainConfig, parts, resume, train
from vitruvius.training.progress import Silent
from vitruvius.training.settings import Recovery

KILLING = runpy.run_path(str(Path(__file__).with_name("killing.py")))
FILES, Memory = KILLING["FILES"], KILLING["Memory"]
PLACES = (0.0, 0.3, 0.6, 0.9999)


class Notes(Silent):  # pyright: ignore[reportGeneralTypeIssues]
    """A listener that keeps what it is told in words."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def train_into(folder, architecture, data, **settings):
    defaults = {"steps": 6, "batch": 4, "checkpoint_every": 2, "eval_every": 2, "eval_batches": 1}
    config = TrainConfig(threads=1, final_eval_batches=1, **{**defaults, **settings})
    return train(architecture, data=data, out=folder, config=config).run


def final(run):
    """The hashes of the last checkpoint, and all rows but their speed."""
    rows = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in RunReader(run).metrics()]
    return (RunReader(run).checkpoints()[-1].path / "manifest.json").read_text(), rows


@pytest.fixture(scope="module")
def with_memory():
    """A companion with a file of its own in every checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "companions_of", lambda *_arguments, **_named: (Memory(),))
        yield


@pytest.fixture(scope="module")
def straight(with_memory, tmp_path_factory, data, dense):
    return train_into(tmp_path_factory.mktemp("straight") / "run", dense, data)


@pytest.fixture
def copy(with_memory, straight, tmp_path):
    """The run after its last step, to be damaged."""
    return shutil.copytree(straight, tmp_path / "run")


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1 << int(place * 7)
    file.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_named_and_the_run_goes_on_to_the_same_bits(name, straight, copy, tmp_path):
    for number, place in enumerate(PLACES):
        run = shutil.copytree(straight, tmp_path / str(number))
        file = run / "checkpoints" / "step-6" / name
        flip(file, place)
        listener = Notes()
        resume(run, listener=listener)
        (warning,) = [note for note in listener.notes if note.startswith("warning")]
        assert f"checkpoint step-6 is damaged ({file}" in warning, place
        assert "going on from step 4" in warning
        assert final(run) == final(straight), place


@pytest.mark.parametrize("name", FILES)
def test_a_missing_an_empty_and_a_cut_file_are_damage_too(name, straight, tmp_path):
    ways = {
        "missing": lambda file: file.unlink(),
        "empty": lambda file: file.write_bytes(b""),
        "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
        "a folder": lambda file: (file.unlink(), file.mkdir()),
    }
    for way, damage in ways.items():
        run = shutil.copytree(straight, tmp_path / way)
        damage(run / "checkpoints" / "step-6" / name)
        checkpoint = RunReader(run).checkpoints()[-1]
        with pytest.raises(RunError) as caught:
            checkpoint.verify()
        assert name in caught.value.where


def test_a_stranger_in_a_checkpoint_is_damage(copy):
    (copy / "checkpoints" / "step-6" / "extra.bin").write_bytes(b"x")
    listener = Notes()
    resume(copy, listener=listener)
    assert any("the manifest does not list this file" in note for note in listener.notes)


# ----------------------------------------------------------------------------------------------------------------------
# A disk that fills


class Full:
    """Fails the `number`-th write to the run's logs and records with ENOSPC, after half of it was written."""

    def __init__(self, patch, number):
        self.number, self.seen, self.failed = number, 0, False
        write, atomically = os.write, run_files.replacing

        def half(descriptor, data):
            if not self.due():
                return write(descriptor, data)
            write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        def none(path):
            if not self.due():
                return atomically(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        patch.setattr(lines.os, "write", half)
        patch.setattr(run_files, "replacing", none)
        patch.setattr(lines, "replacing", none)

    def due(self):
        self.seen += 1
        self.failed = self.failed or self.seen > self.number
        return self.failed  # and it stays full


# Slow, and shared out: every second write each.
@pytest.mark.slow
@pytest.mark.parametrize(("save", "first"), [("wait", 0), ("behind", 1)])
def test_a_disk_that_fills_at_any_write_of_a_log_or_record_loses_nothing(
    save, first, with_memory, straight, dense, data, tmp_path
):
    number, ended = first, False
    while not ended:
        run = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            full = Full(patch, number)
            try:
                train_into(run, dense, data, recovery=Recovery(save=save))
            except (RunError, OSError) as error:
                assert full.failed, error
                assert "No space left" in str(error) or "no room" in str(error)
            else:
                ended = not full.failed
        if not ended:
            if (run / "run.json").exists():
                resume(run)
            else:
                shutil.rmtree(run, ignore_errors=True)
                train_into(run, dense, data)
            assert final(run) == final(straight), number
            for log in ("metrics.jsonl", "events.jsonl"):
                assert all(json.loads(line) for line in (run / log).read_text().splitlines())
        number += 2
    assert number >= 10


def test_a_row_that_does_not_fit_leaves_no_part_of_it_and_names_the_file(tmp_path, monkeypatch):
    log = lines.LineLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    with monkeypatch.context() as patch:
        Full(patch, 0)
        with pytest.raises(RunError, match=r"cannot be written: No space left.*intact") as caught:
            log.append({"step": 2})
    assert caught.value.where == str(tmp_path / "metrics.jsonl")
    assert "free some space" in caught.value.fix
    log.append({"step": 3})
    assert list(lines.read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1}, {"step": 3}]


# ----------------------------------------------------------------------------------------------------------------------
# A folder that is another one now


def test_a_run_goes_on_after_its_folder_was_moved(straight, copy, tmp_path):
    shutil.rmtree(copy / "checkpoints" / "step-6")
    moved = copy.rename(tmp_path / "a new\nname \x1b[31m")
    resume(moved)
    assert final(moved) == final(straight)


def test_a_lock_file_that_a_dead_process_left_is_never_in_the_way(straight, copy):
    (copy / ".lock").write_text('{"pid": 1, "host": "elsewhere", "since": "long ago"}')
    assert resume(copy).status == "finished"
    (copy / ".lock").write_bytes(b"\xff" * 4096)
    assert resume(copy).status == "finished"


def test_a_second_process_is_refused_with_the_first_ones_name_and_harms_nothing(copy):
    before = sorted(path.name for path in copy.rglob("*"))
    lock = FolderLock(copy)
    with pytest.raises(RunLockedError, match=rf"process {os.getpid()} on "):
        resume(copy)
    lock.release()
    assert sorted(path.name for path in copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record["config"]["train"].update(lr=1.0), "another config, spec or data"),
        (lambda record: record["config"]["train"].update(steps=7), "another config, spec or data"),
        (lambda record: record["spec"]["data"].update(name="other"), "another config, spec or data"),
        (lambda record: record["config"]["train"].pop("context"), "lacks its context"),
        (lambda record: record.pop("config"), "config is missing"),
        (lambda record: record.update(schema="vitruvius.run/9"), "this version reads"),
    ],
)
def test_an_edited_record_is_refused_and_the_checkpoints_stay(edit, message, copy):
    record = json.loads((copy / "run.json").read_text())
    edit(record)
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=message):
        resume(copy)
    assert [each.step for each in RunReader(copy).checkpoints()] == [4, 6]


def test_settings_that_change_no_bits_may_be_edited(straight, copy):
    shutil.rmtree(copy / "checkpoints" / "step-6")
    record = json.loads((copy / "run.json").read_text())
    record["config"]["train"] |= {"keep": 5, "recovery": {"save": "behind", "keep_best": 1, "keep_every": 2}}
    (copy / "run.json").write_text(json.dumps(record))
    resume(copy)
    assert final(copy) == final(straight)
    assert [each.step for each in RunReader(copy).checkpoints()] == [4, 6]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named(number, copy, monkeypatch):
    original = os.open

    def refusing(path, flags, *rest, **named):
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(RunError, match="cannot be written to") as caught:
        RunFolder.open(copy)
    assert caught.value.where == str(copy)
