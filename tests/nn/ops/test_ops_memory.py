"""The allocator setting."""

import subprocess
import sys

import pytest

from vitruvius.nn.ops import memory

PROBE = """
import resource, torch
from vitruvius.nn.ops import keep_freed_memory
agreed = keep_freed_memory() if {keep} else True
def touch():
    torch.ones(24 << 20)
touch()
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(agreed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(keep=keep)], check=True, capture_output=True, text=True, timeout=120
    )
    agreed, count = done.stdout.split()
    assert agreed == "True"
    return int(count)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is found on Linux only")
def test_a_block_freed_and_allocated_again_costs_few_page_faults():
    assert faults(keep=True) < faults(keep=False) / 2


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
