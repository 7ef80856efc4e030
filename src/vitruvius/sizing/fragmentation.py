"""What an allocator and a process may take beyond the tensors that are alive: a margin, never part of a peak.

Measured on a CPU by `bench/memory.py --process` (a step in fresh processes with `keep_freed_memory`, 0.1 to 1 GB of
tensors): resident memory grows by the allocator's peak, 64 MiB that glibc keeps at the top of the heap (M_TOP_PAD),
and 15 to 30 % of what comes and goes, in bf16 more than in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AllocatorName = Literal["cuda", "glibc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """How much an allocator may waste."""

    share: float
    """Of what comes and goes: activations and gradients."""
    least: int
    """Bytes, however little that is."""
    source: str


ALLOCATORS: dict[AllocatorName, Allocator] = {
    "cuda": Allocator(
        share=0.05,
        least=20 << 20,
        source="PyTorch's caching allocator takes segments of 20 MiB for blocks of 1 to 10 MiB and rounds larger ones "
        "up to 2 MiB (kLargeBuffer and kRoundLarge in c10/core/CachingDeviceAllocator.h); the share is an estimate",
    ),
    "glibc": Allocator(
        share=0.30,
        least=64 << 20,
        source="measured: growth of fresh processes less the allocator's peak, bench/memory.py --process",
    ),
}
"""By name; `glibc` is what a process on Linux takes beside the tensors, libraries not counted."""


def margin_of(passing: int, *, allocator: AllocatorName = "cuda") -> int:
    """Bytes to leave free beside a peak of which `passing` bytes come and go."""
    chosen = ALLOCATORS[allocator]
    return max(chosen.least, int(chosen.share * passing))
