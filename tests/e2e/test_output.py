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
