"""What a run says while it runs, and how it hears that it should stop."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from vitruvius.errors import UsageError
from vitruvius.runs import Checkpoint
from vitruvius.training import progress
from vitruvius.training.progress import LiveProgress, Pace, PlainProgress, clock
from vitruvius.training.stopping import stop_on_signals


class Clock:
    """A clock that a test winds."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def wound(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def row(step, **extra):
    return {"step": step, "loss": 3.0, "lr": 1e-3, "tokens_per_second": 1000.0, **extra}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (130, "2:10"), (3723, "1:02:03")])
def test_a_time_reads_as_a_clock(seconds, text):
    assert clock(seconds) == text


def test_the_time_left_follows_the_last_steps_and_is_unknown_at_first(wound):
    pace = Pace()
    pace.add(row(1))
    assert pace.seconds_left(10) is None
    for step in range(2, 6):
        wound.now += 2.0
        pace.add(row(step))
    assert pace.seconds_left(10) == pytest.approx(20.0)


def test_one_slow_step_does_not_move_the_speed():
    pace = Pace()
    for speed in (1000.0, 1010.0, 3.0, 990.0, 1005.0):
        pace.add(row(1, tokens_per_second=speed))
    assert pace.tokens_per_second == 1000.0


def test_plain_lines_come_every_few_seconds_and_for_what_matters(wound):
    stream = io.StringIO()
    plain = PlainProgress(stream)
    plain.started(step=0, steps=100)
    for step in range(1, 101):
        wound.now += 1.0
        plain.row(row(step, **({"val_loss": 2.5, "val_bits_per_byte": 1.25} if step == 42 else {})))
    plain.saved(Checkpoint(step=100, path=Path("checkpoints/step-100")))
    plain.note("mind the step")
    plain.note("warning: mind it well")
    plain.ended()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training: step 0 of 100"
    assert lines[-3:] == ["saved step-100", "note: mind the step", "warning: mind it well"]
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in lines[1:-3]]
    assert steps[0] == 1
    assert 42 in steps
    assert steps[-1] == 100
    assert 20 <= len(steps) <= 24, "about every fifth of a hundred seconds"
    (scored,) = [line for line in lines if "held out" in line]
    assert "held out 2.500  1.250 bits/byte" in scored
    assert "0:58 left" in scored


def test_a_reader_that_goes_away_does_not_end_the_run(dense, run_of):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        assert run_of(dense, steps=2, listener=PlainProgress(pipe)).status == "finished"
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is still buffered must go somewhere


def test_a_live_bar_writes_its_notes_and_goes_away(capsys):
    live = LiveProgress()
    live.started(step=0, steps=2)
    live.row(row(1))
    live.note("[not markup] of ours")
    live.row(row(2, val_loss=2.5, val_bits_per_byte=None))
    live.saved(Checkpoint(step=2, path=Path("step-2")))
    live.ended()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "note: [not markup] of ours" in captured.err
    assert "step 2/2  loss 3.000  held out 2.500" in captured.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_first_signal_asks_and_the_former_handler_comes_back(number, code, capfd):
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert not request.asked
        os.kill(os.getpid(), number)
        assert request.asked
        assert request.exit_code == code
    assert signal.getsignal(number) is before
    assert "saving a checkpoint, then leaving" in capfd.readouterr().err


def test_a_second_interrupt_does_not_wait():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_changes_nothing():
    with stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.exit_code == 75


def test_another_thread_may_train_without_signals():
    exits = []

    def work():
        with stop_on_signals() as request:
            exits.append(request.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert exits == [0]


def test_a_device_that_is_not_there_is_refused(dense, run_of, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="sees no CUDA device"):
        run_of(dense, device="cuda")


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 120, 200])
def test_a_live_line_says_step_and_loss_whole_however_narrow_the_terminal_is(columns):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=columns, highlight=False, color_system=None)
    live = LiveProgress(console)
    live.started(step=0, steps=50_000)
    for step in range(12_345, 12_350):
        live.row(row(step, lr=1e-3))
    live.ended()
    drawn = [line.rstrip() for line in re.split(r"[\r\n]|\x1b\[[0-9?]*[A-Za-z]", stream.getvalue()) if "12,34" in line]
    assert drawn
    for line in drawn:
        assert line.startswith("step 12,34")
        assert "/50,000 " in line
        assert "loss 3.000" in line
        assert "…" not in line
        assert len(line) <= columns
    assert ("tokens/s" in drawn[-1]) is (columns >= 60)
    assert ("━" in drawn[-1]) is (columns >= 80)
