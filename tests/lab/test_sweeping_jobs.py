"""Several runs at a time, each in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from vitruvius.lab import sweeping_jobs
from vitruvius.lab.sweeping_jobs import Jobs, Task
from vitruvius.training.stopping import StopRequest

WORKER = """
import json, os, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def say(**message):
    sys.stdout.write(json.dumps(message) + "\\n"); sys.stdout.flush()
say(kind="ready")
for line in sys.stdin:
    how = json.loads(line)["how"]
    say(kind="step", step=1, steps=2, loss="nan" if how == "nan" else "0.5")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "leave":
        sys.stderr.write("what a pity\\n"); sys.exit(7)
    if how == "fail":
        say(kind="failed", error="it cannot be")
        continue
    while how == "long" and not asked:
        time.sleep(0.01)
    say(kind="note", text="warning: mind the step")
    say(kind="done", status="stopped" if asked else "finished")
"""


class Log:
    def __init__(self, stop=None, at=None):
        self.said, self.stop, self.at = [], stop, at

    def began(self, task):
        self.said.append(("began", task.name))

    def stepped(self, task, step, loss):
        self.said.append(("step", task.name))
        if task.name == self.at:
            self.stop.ask(signal.SIGTERM)

    def noted(self, task, text):
        self.said.append(("note", task.name))

    def ended(self, task, status, error):
        self.said.append((status, task.name, error))

    def ends(self):
        return {entry[1]: (entry[0], entry[2]) for entry in self.said if len(entry) == 3}


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(sweeping_jobs, "WORKER", (str(script),))

    def run(hows, *, count=1, stop=None, at=None):
        stop = stop or StopRequest()
        log = Log(stop, at)
        tasks = [Task(name=f"{number}-{how}", order={"how": how}) for number, how in enumerate(hows)]
        Jobs(jobs=count, threads=None, logs=tmp_path / "logs", listener=log).run(tasks, stop)
        return log

    return run


def test_every_run_is_trained_once_whatever_the_number_of_jobs(jobs):
    for count in (1, 3, 9):
        log = jobs(["good", "nan", "good", "good"], count=count)
        assert {end[0] for end in log.ends().values()} == {"finished"} and len(log.ends()) == 4
        assert sum(entry[0] == "began" for entry in log.said) == 4


def test_one_process_takes_several_runs(jobs, tmp_path):
    jobs(["good", "fail", "good"])
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["job-0.txt"]


def test_a_run_that_fails_and_a_process_that_dies_leave_the_others_alone(jobs):
    log = jobs(["good", "die", "fail", "leave", "good"], count=2)
    ends = log.ends()
    assert ends["0-good"][0] == ends["4-good"][0] == "finished"
    assert ends["1-die"] == ("failed", "the process was ended by SIGKILL; out of memory?")
    assert ends["2-fail"] == ("failed", "it cannot be")
    assert ends["3-leave"] == ("failed", "the process ended with code 7: what a pity")


def test_a_stop_reaches_the_runs_and_begins_no_more(jobs):
    stop = StopRequest()
    log = jobs(["long", "long", "good", "good"], count=2, stop=stop, at="1-long")
    assert log.ends() == {"0-long": ("stopped", None), "1-long": ("stopped", None)}


def test_a_second_interrupt_leaves_no_process_behind(jobs, monkeypatch):
    seen = []

    def stepped(self, task, step, loss):
        seen.extend(children())
        raise KeyboardInterrupt

    monkeypatch.setattr(Log, "stepped", stepped)
    with pytest.raises(KeyboardInterrupt):
        jobs(["long"])
    assert seen and not any(alive(pid) for pid in seen)


def children():
    """Processes whose parent is this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def alive(pid):
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    return True
