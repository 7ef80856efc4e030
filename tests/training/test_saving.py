"""Checkpoints behind the run: the same bytes, while updates go on; and what happens when they cannot be written."""

from __future__ import annotations

import errno
import signal
import threading
from dataclasses import replace

import pytest
from halves import rows  # pyright: ignore[reportMissingImports]

from vitruvius.errors import RunError
from vitruvius.runs import RunReader
from vitruvius.runs.available import Available
from vitruvius.training import checkpoint, resume, saving
from vitruvius.training.settings import Guard, Recovery
from vitruvius.training.stopping import StopRequest

BEHIND = Recovery(save="behind")


class Heard:
    """A listener that keeps what it is told, and calls `at` after each row."""

    def __init__(self, at=lambda row: None):
        self.at, self.notes, self.told = at, [], []
        self.rows = 0

    def started(self, *, step, steps):
        pass

    def row(self, row):
        self.rows = row["step"]
        self.told.append(("row", row["step"]))
        self.at(row)

    def saved(self, checkpoint):
        self.told.append(("saved", checkpoint.step))

    def note(self, text):
        self.notes.append(text)

    def ended(self):
        pass


def files_of(run):
    """Every file of every checkpoint, byte for byte."""
    folder = run / "checkpoints"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def held(monkeypatch):
    """Hold the thread that writes until `go` is set; `waiting` is set when it has come."""

    class Held:
        go, waiting = threading.Event(), threading.Event()

    original = checkpoint.write_tensors

    def later(path, tensors):
        if threading.current_thread() is not threading.main_thread():
            Held.waiting.set()
            assert Held.go.wait(30)
        original(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", later)
    return Held


@pytest.mark.parametrize("kind", ["dense", "mixture"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_checkpoints_that_are_written_behind_the_run_have_the_same_bytes(kind, dtype, request, run_of):
    architecture = request.getfixturevalue(kind)
    waited = run_of(architecture, "waited", keep=9, dtype=dtype)
    behind = run_of(architecture, "behind", keep=9, dtype=dtype, recovery=BEHIND)
    assert len(files_of(waited.run)) == 3 * 4
    assert files_of(behind.run) == files_of(waited.run)
    assert rows(behind.run) == rows(waited.run)


def test_updates_go_on_while_a_checkpoint_is_written_and_do_not_change_it(dense, run_of, held):
    waited = run_of(dense, "waited", keep=9)
    heard = Heard(at=lambda row: held.go.set() if row["step"] == 4 else None)
    behind = run_of(dense, "behind", keep=9, recovery=BEHIND, listener=heard)
    assert held.waiting.is_set()
    before_first = heard.told[: heard.told.index(("saved", 2))]
    assert ("row", 4) in before_first, "two more updates were done before the checkpoint was"
    assert [step for what, step in heard.told if what == "saved"] == [2, 4, 6]
    assert files_of(behind.run) == files_of(waited.run)


def test_a_run_waits_for_one_checkpoint_before_it_begins_the_next(dense, run_of, held):
    steps = []
    heard = Heard(at=lambda row: steps.append((row["step"], len(list_of(heard.run)))))
    threading.Timer(0.3, held.go.set).start()
    heard.run = None
    result = run_of(dense, recovery=BEHIND, keep=9, listener=heard)
    assert [checkpoint.step for checkpoint in RunReader(result.run).checkpoints()] == [2, 4, 6]
    order = [each for each in heard.told if each[0] == "saved" or each[1] > 4]
    assert order.index(("saved", 2)) < order.index(("row", 5)), "step 4 could be saved only when step 2 was"


def list_of(run):
    return [] if run is None else RunReader(run).checkpoints()


def fails_on(monkeypatch, step, number):
    original = checkpoint.write_tensors

    def failing(path, tensors):
        if f"step-{step}." in str(path) and path.name == "optimizer.safetensors":
            raise OSError(number, "it fails", str(path))
        original(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_behind_the_run_ends_it_within_a_step_as_the_same_error(number, dense, run_of, monkeypatch, tmp_path):
    straight = run_of(dense, "straight", steps=12, checkpoint_every=4)
    fails_on(monkeypatch, 8, number)
    found = {}
    for how in ("wait", "behind"):
        heard = Heard(at=lambda row: [t.join() for t in threading.enumerate() if t.name == "checkpoint"])
        with pytest.raises(RunError) as caught:
            run_of(dense, how, steps=12, checkpoint_every=4, recovery=Recovery(save=how), listener=heard)
        found[how] = (str(caught.value.what).split(" bytes")[0], caught.value.fix)
        assert heard.rows <= 8 + (how == "behind")
        reader = RunReader(tmp_path / how)
        assert [each.step for each in reader.checkpoints()] == [4]
        reader.checkpoints()[0].verify()
        assert not list((tmp_path / how / "checkpoints").glob(".*"))
        assert reader.record()["status"] == "failed"
    assert found["wait"] == found["behind"]
    monkeypatch.undo()
    for how in ("wait", "behind"):
        resumed = resume(tmp_path / how)
        assert files_of(resumed.run)["step-12/manifest.json"] == files_of(straight.run)["step-12/manifest.json"]


def test_a_disk_that_is_too_full_is_found_before_a_byte_is_copied(dense, run_of, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("vitruvius.runs.checkpoints.shutil.disk_usage", lambda folder: full)
    monkeypatch.setattr(saving, "copied", lambda *_: pytest.fail("it was copied"))
    heard = Heard()
    with pytest.raises(RunError, match=r"it needs [\d,]+ bytes, 1,000 are free"):
        run_of(dense, recovery=BEHIND, listener=heard)
    assert heard.rows == 2


def test_where_memory_does_not_hold_a_copy_the_run_waits_and_says_so_once(dense, run_of, monkeypatch):
    waited = run_of(dense, "waited", keep=9)
    monkeypatch.setattr(saving, "available_memory", lambda: Available(size=5000, limit="a limit"))
    monkeypatch.setattr(saving, "copied", lambda *_: pytest.fail("it was copied"))
    heard = Heard()
    behind = run_of(dense, "behind", keep=9, recovery=BEHIND, listener=heard)
    assert files_of(behind.run) == files_of(waited.run)
    assert [note for note in heard.notes if "5,000 are left (a limit)" in note] == [
        note for note in heard.notes if "copy of the state" in note
    ]
    assert sum("copy of the state" in note for note in heard.notes) == 1


def test_sigterm_waits_for_the_checkpoint_and_saves_the_newest_state(dense, run_of, held):
    straight = run_of(dense, "straight")
    stop = StopRequest()

    def at(row):
        if row["step"] == 3:
            stop.ask(signal.SIGTERM)
            held.go.set()

    stopped = run_of(dense, "stopped", recovery=BEHIND, keep=9, listener=Heard(at=at), stop=stop)
    assert (stopped.status, stopped.exit_code, stopped.step) == ("stopped", 75, 3)
    assert [each.step for each in RunReader(stopped.run).checkpoints()] == [2, 3]
    resumed = resume(stopped.run)
    name = "step-6/manifest.json"
    assert files_of(resumed.run)[name] == files_of(straight.run)[name]


def test_an_error_of_the_run_itself_waits_for_the_checkpoint_before_the_folder_is_let_go(dense, run_of, held, tmp_path):
    def at(row):
        if row["step"] == 3:
            threading.Timer(0.2, held.go.set).start()
            raise RuntimeError("an observer's own mistake")

    with pytest.raises(RuntimeError, match="own mistake"):
        run_of(dense, "run", recovery=BEHIND, listener=Heard(at=at))
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    (saved,) = RunReader(tmp_path / "run").checkpoints()
    saved.verify()


def test_a_rewind_goes_back_to_the_checkpoint_that_was_being_written(dense, run_of, monkeypatch):
    from vitruvius.training.updating import Updater

    original = Updater.gradients
    batches = []

    def spiked(self, batch, stop):
        gathered = original(self, batch, stop)
        batches.append(batch)
        return replace(gathered, loss=float("nan"), objective=float("nan")) if len(batches) == 7 else gathered

    monkeypatch.setattr(Updater, "gradients", spiked)
    found = {}
    for how in ("wait", "behind"):
        batches.clear()
        found[how] = run_of(
            dense,
            how,
            steps=10,
            checkpoint_every=3,
            guard=Guard(not_finite="rewind"),
            recovery=Recovery(save=how, keep_best=0),
        ).run
    (event,) = [each for each in RunReader(found["behind"]).events() if each["kind"] == "rewound"]
    assert event["to_step"] == 6
    assert files_of(found["behind"]) == files_of(found["wait"])


def test_a_run_that_goes_back_past_a_stop_leaves_no_checkpoint_of_the_way_it_leaves(dense, run_of, monkeypatch):
    from vitruvius.training.updating import Updater

    original = Updater.gradients
    poisoned, kill_at = 7, []

    def spiked(self, batch, stop):
        gathered = original(self, batch, stop)
        if int(batch.sample_ids[0]) == bad[0]:
            return replace(gathered, loss=float("nan"), objective=float("nan"))
        return gathered

    settings = {"steps": 10, "checkpoint_every": 4, "keep": 1, "guard": Guard(not_finite="rewind")}
    seen, bad = [], [-1]
    monkeypatch.setattr(
        Updater, "gradients", lambda self, batch, stop: (seen.append(batch), original(self, batch, stop))[1]
    )
    run_of(dense, "look", **settings)
    bad[0] = int(seen[poisoned - 1].sample_ids[0])
    monkeypatch.setattr(Updater, "gradients", spiked)
    straight = run_of(dense, "straight", **settings)

    stop = StopRequest()
    at_6 = Heard(at=lambda row: stop.ask(signal.SIGTERM) if row["step"] == 6 else None)
    halted = run_of(dense, "halted", listener=at_6, stop=stop, **settings)
    assert [each.step for each in RunReader(halted.run).checkpoints()] == [4, 6], "4 is where the guard goes back to"

    def die_once_the_run_has_gone_back(row):
        kill_at.append(row["step"])
        if kill_at == [5, 6]:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        resume(halted.run, listener=Heard(at=die_once_the_run_has_gone_back))
    assert [each.step for each in RunReader(halted.run).checkpoints()] == [4]
    resumed = resume(halted.run)
    assert files_of(resumed.run) == files_of(straight.run)
    assert rows(resumed.run) == rows(straight.run)
