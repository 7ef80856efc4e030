"""How the process returns memory to the operating system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's `mallopt` parameters (malloc.h)."""

_KEPT = 2**31 - 1
_MAPPED_FROM = 1 << 20
_RESERVE = 64 << 20
_reserve: list[mmap.mmap] = []


def keep_freed_memory() -> bool:
    """Ask the C library to reuse freed memory instead of giving it back to the system; say whether it agreed.

    A training step frees and allocates the same few hundred megabytes each time. glibc returns blocks above 32 MiB at
    once and trims the heap below that, so every step pays page faults for memory it had a moment ago (a tenth of a step
    on a small model). The price is that the process keeps its peak. Linux with glibc only; elsewhere nothing happens.
    Source: mallopt(3).
    """
    return _told((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, 64 << 20))


def give_freed_memory_back() -> bool:
    """Ask the C library for the opposite, where memory is short, and give back what it keeps; say whether it agreed.

    Blocks from 1 MiB on are mapped each by itself from here on, so that none is kept because of a small one behind it.
    Where the process's address space is limited, what `hold_reserve` holds is let go of as well: code that libraries
    generate is mapped, and where the heap fills the limit not even a kilobyte of it is to be had.
    """
    while _reserve:
        _reserve.pop().close()
    agreed = _told((_MMAP_THRESHOLD, _MAPPED_FROM), (_TRIM_THRESHOLD, _MAPPED_FROM), (_TOP_PAD, 0))
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)
    return agreed


def hold_reserve() -> int:
    """Set aside 64 MiB for when memory has run out, where the process's address space is limited (`ulimit -v`).

    Returns the bytes set aside: 0 where there is no such limit, or no room. They are addresses alone, and no memory.
    """
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return 0
    if not _reserve:
        try:
            _reserve.append(mmap.mmap(-1, _RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError:
            return 0
    return _RESERVE


def _told(*settings: tuple[int, int]) -> bool:
    """Whether glibc took all of these settings of `mallopt`."""
    mallopt = _of_the_c_library("mallopt")
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)


def _of_the_c_library(name: str) -> Any:
    """A function of Linux's C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
