"""What the process keeps of freed memory, and what it sets aside for when there is none."""

import subprocess
import sys

import pytest

from vitruvius.nn.ops import hold_reserve, memory

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


linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of address spaces are Linux's here")

LIMITED = """
import mmap, resource
from vitruvius.nn.ops import give_freed_memory_back, hold_reserve

def taken():
    status = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))

def fits(size):
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True

limit = taken() + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
held = [hold_reserve(), hold_reserve()]
before = fits(60 << 20)
give_freed_memory_back()
limit = taken() + (1 << 20)
after = fits(60 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(held, before, after, hold_reserve())
"""


@linux
def test_addresses_are_set_aside_once_and_let_go_of_when_memory_is_short():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == f"[{64 << 20}, {64 << 20}] False True 0"


KEPT = """
import ctypes
import torch
from vitruvius.nn.ops import give_freed_memory_back, keep_freed_memory

def resident():
    status = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

def used():
    block = torch.ones(200 << 20, dtype=torch.uint8)
    return block[0].item()

print(keep_freed_memory())
base = resident()
used()
kept = resident() - base
print(give_freed_memory_back())
given = resident() - base
used()
print(kept >> 20, given >> 20, (resident() - base) >> 20)
"""


@linux
def test_what_is_freed_is_kept_and_goes_back_when_memory_is_short():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    agreed, gave, sizes = done.stdout.split("\n")[:3]
    if agreed == "False":
        pytest.skip("the C library is not glibc")
    kept, given, after = map(int, sizes.split())
    assert gave == "True"
    assert kept >= 190
    assert given < 50
    assert after < 50


@linux
def test_without_a_limit_nothing_is_set_aside():
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("this process has a limit")
    assert hold_reserve() == 0
