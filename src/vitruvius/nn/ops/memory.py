"""How the process returns memory to the operating system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's `mallopt` parameters (malloc.h)."""

_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to reuse freed memory instead of giving it back to the system; say whether it agreed.

    A training step frees and allocates the same few hundred megabytes each time. glibc returns blocks above 32 MiB at
    once and trims the heap below that, so every step pays page faults for memory it had a moment ago (a tenth of a step
    on a small model). The price is that the process keeps its peak. Linux with glibc only; elsewhere nothing happens.
    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return (
        all(mallopt(name, _KEPT) == 1 for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
        and mallopt(_TOP_PAD, 64 << 20) == 1
    )
