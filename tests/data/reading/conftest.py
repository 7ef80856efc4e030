"""What tests of reading share."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_PEAK = """
def peak():
    # Linux hands getrusage's maximum on from the process that starts another, whatever that one weighs.
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""


@pytest.fixture(scope="session")
def measured() -> Callable[..., list[str]]:
    """Run code in a process of its own, with `peak()`, its most bytes of memory so far; returns the lines it prints."""

    def run(code: str, *arguments: object) -> list[str]:
        command = [sys.executable, "-c", _PEAK + code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run
