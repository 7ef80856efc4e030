"""`vitruvius runs watch` and `runs report`: a run that another process writes, seen as it goes and afterwards."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from vitruvius.runs import RunFolder

WATCH = [sys.executable, "-m", "vitruvius", "runs", "watch"]


def writing(path, *, steps=40, upto=40, finish="finished"):
    """A run folder as training writes it, row by row; a generator that goes on at each `next`."""
    config = {"train": {"steps": steps, "lr": 0.5}}
    with RunFolder.create(path, config=config, spec={"name": "small"}) as run:
        for step in range(1, upto + 1):
            extra = {"val_loss": 4.0, "val_bits_per_byte": 2.0} if step % 20 == 0 else {}
            extra |= {"sink_mass/layers.0.mixer": 0.1, "watch_seconds": 0.1, "watch_share": 0.01} if step == 10 else {}
            run.metric(
                step=step, loss=5.0 / step, grad_norm=1.0, lr=0.1, tokens=64 * step, tokens_per_second=640.0, **extra
            )
            if step == 12:
                run.event("spike", step=12, verdict="note", sample_ids=[1, 2, 3])
            yield step
        if finish == "resumed":
            run.truncate_metrics(after_step=5)
            yield "resumed"
            finish = "stopped"
        if finish:
            run.finish(finish, step=upto)


def written(path, **settings):
    list(writing(path, **settings))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_once_shows_how_it_is(here, said):
    written(here / "r", upto=30, finish="stopped")
    code, out, _ = said("runs", "watch", "r", "--once")
    assert code == 0
    for text in ("r  stopped  small", "step 30 of 40", "75%", "640 tokens/s", "held-out text 4 nats", "spike"):
        assert text in out
    assert "sample_ids" not in out


def test_json_says_the_same(here, said):
    written(here / "r", upto=30, finish="stopped")
    code, out, _ = said("runs", "watch", "r", "--json")
    told = json.loads(out)
    assert (code, told["schema"]) == (0, "vitruvius.runs-watch/1")
    assert (told["status"], told["step"], told["steps"], told["val_loss"]) == ("stopped", 30, 40, 4.0)
    assert told["loss"] == pytest.approx(5.0 / 30)
    assert (told["bad_events"], told["seconds_left"], told["checkpoint_step"]) == (1, None, None)


@pytest.mark.parametrize(("finish", "status"), [("failed", "failed"), (None, "died")])
def test_a_run_that_failed_or_died_is_an_exit_code(here, said, finish, status):
    written(here / "r", upto=3, finish=finish)
    code, out, _ = said("runs", "watch", "r")
    assert (code, status in out) == (1, True)


def test_a_run_without_a_row_yet_can_be_watched(here, said):
    written(here / "r", upto=0, finish="stopped")
    code, out, _ = said("runs", "watch", "r", "--once")
    assert (code, "step 0 of 40" in out, "no points yet" in out) == (0, True, True)


def test_without_a_terminal_there_is_a_line_now_and_then_until_the_run_ends(here, said):
    stages = writing(here / "r")
    next(stages)

    def train():
        for _ in stages:
            time.sleep(0.02)

    thread = threading.Thread(target=train)
    thread.start()
    code, out, err = said("runs", "watch", "r", "--every", "10", "--interval", "0.05")
    thread.join()
    lines = out.splitlines()
    assert code == 0 and "the run has finished" in err
    assert 4 <= len(lines) <= 12
    assert "left" in lines[0] and "finished" in lines[-1] and "step 40/40" in lines[-1]
    assert any("bad events: 1" in line for line in lines)
    assert sum("held out" in line for line in lines) >= 1


def test_rows_that_a_rewound_run_writes_again_are_not_counted_twice(here, said):
    stages = writing(here / "r", finish="resumed")
    for stage in stages:
        if stage == 40:
            thread = threading.Thread(target=lambda: (time.sleep(0.3), next(stages), time.sleep(0.3), list(stages)))
            thread.start()
            break
    code, out, _ = said("runs", "watch", "r", "--every", "1", "--interval", "0.05")
    thread.join()
    assert code == 0
    assert out.splitlines()[-1].startswith("step 5/40")


def test_ctrl_c_is_quiet(here):
    stages = writing(here / "r")
    next(stages)
    process = subprocess.Popen(
        [*WATCH, "r", "--interval", "0.05"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("step 1/40")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    list(stages)


def test_on_a_terminal_it_is_drawn_in_place_and_the_last_state_stays(here):
    stages = writing(here / "r")
    next(stages)
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [*WATCH, "r", "--interval", "0.05"], cwd=here, stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    shown = b""

    def read_until(text):
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown and time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:
                    return
        assert text in shown

    read_until(b"step 1 of 40")
    for _ in range(19):
        next(stages)
    read_until(b"step 20 of 40")
    list(stages)
    read_until(b"finished")
    assert process.wait(timeout=60) == 0
    os.close(ours)
    assert b"\x1b[" in shown and b"held-out text 4 nats" in shown


@pytest.mark.parametrize("verb", ["watch", "report"])
def test_what_is_no_run_or_damaged_is_named(here, said, verb):
    (here / "none").mkdir()
    code, _, err = said("runs", verb, "none")
    assert (code, "not a run folder" in err) == (2, True)
    written(here / "r", upto=3)
    for damage in (b"nonsense\n", b"[" * 100_000 + b"\n", b"\xff\n"):
        (here / "r" / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + damage)
        code, _, err = said("runs", verb, "r")
        assert (code, "metrics.jsonl:2" in err) == (2, True)


def test_a_name_cannot_move_the_cursor(here, said):
    name = "r\x1b[2J"
    written(here / name, upto=3)
    for verb in ("watch", "report"):
        code, out, err = said("runs", verb, name)
        assert code == 0 and "\x1b" not in out + err


def test_a_report_of_two_runs_is_a_page_with_both(here, said):
    written(here / "a")
    written(here / "b", upto=20, finish="stopped")
    code, out, err = said("runs", "report", "a", "b", "a", "--html", "both.html")
    assert (code, out) == (0, "")
    assert "wrote both.html" in err
    page = (here / "both.html").read_text()
    assert page.count("<polyline") >= 8
    for text in ("2 training runs", "Sink mass", "spike", "prefers-color-scheme: dark", "<code>lr</code>"):
        assert text in page
    assert "http://" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_report_as_text_and_as_json(here, said):
    written(here / "a")
    code, out, err = said("runs", "report", "a")
    assert code == 0 and "a: loss" in out and "went wrong: 1" in out
    assert "next: vitruvius runs report a --html report.html" in err
    told = json.loads(said("runs", "report", "a", "--json")[1])
    assert told["schema"] == "vitruvius.runs-report/1"
    (run,) = told["runs"]
    assert run["settings_changed"]["lr"] == 0.5
    assert run["curves"]["loss"][0] == [1, 5.0, 5.0, 5.0]
    assert [event["kind"] for event in run["events_list"]] == ["spike"]
