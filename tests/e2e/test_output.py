"""What the command line prints arrives whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SIGNALLED = """
import signal
from vitruvius.cli.output import emit

signal.signal(signal.SIGALRM, lambda number, frame: None)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
emit("x" * 1_000_000 + "\\u20ac")
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_data_arrives_whole_though_signals_break_writes_off_and_the_reader_is_slow(unbuffered):
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONUTF8": "1"},
    )
    found = b""
    while part := os.read(process.stdout.fileno(), 20_000):
        found += part
        time.sleep(0.001)
    assert process.wait() == 0
    assert found == b"x" * 1_000_000 + "\u20ac\n".encode()


SIGNALLED_IN_A_LINE = """
import io, os, signal, sys
from vitruvius.cli.data_prepare import _stopped_by_sigterm
from vitruvius.cli.output import say

class Slow(io.RawIOBase):
    asked = False

    def writable(self):
        return True

    def write(self, data):
        if not self.asked:
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        return os.write(2, data)

sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()))
with _stopped_by_sigterm():
    say("splitting ...")
"""


def test_sigterm_in_the_middle_of_a_line_still_leaves_with_75_and_the_way_on():
    done = subprocess.run([sys.executable, "-c", SIGNALLED_IN_A_LINE], capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == "stopped by SIGTERM; the same command goes on from here"
