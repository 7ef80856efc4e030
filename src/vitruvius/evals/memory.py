"""How much memory a run takes: what the allocator handed out at most, and what the process held at most.

Both are of the whole run. The allocator's number counts tensors alone, to the byte; the process holds the interpreter,
libraries and freed memory that was not given back besides, and is what the system looks at when it kills.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitruvius.runs.available import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.profiler import profile

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"
"""What makes Linux forget the high-water mark of a process (proc(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Most memory during one run, in bytes."""

    held: int
    """Of tensors that exist before it and during it: weights, decode state, optimizer state."""
    extra: int
    """Of what was allocated besides, at the worst moment."""
    process: int | None
    """Resident memory of the whole process at its worst moment; None where the system does not tell."""

    @property
    def total(self) -> int:
        """All tensors at the worst moment."""
        return self.held + self.extra


def raw_events(recorded: profile) -> list[Any]:
    """What the profiler recorded, unparsed: `events()` takes fifty times as long to make the same list."""
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    return list(results.events())


def peak_of(changes: Iterable[tuple[int, int]]) -> int:
    """The highest sum of (time, bytes) changes up to any moment, at least 0.

    Memory that was there before is freed without a number, so such an end lowers nothing.
    """
    total = highest = 0
    for _, change in sorted(changes):
        total += change
        highest = max(highest, total)
    return highest


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes behind tensors, each storage once however many tensors look at it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def high_water() -> int | None:
    """The most memory the process has been resident with since the mark was forgotten; None off Linux."""
    return _status("VmHWM")


def resident() -> int | None:
    """The memory the process is resident with; None off Linux."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def forget_high_water() -> bool:
    """Start the mark anew from what is resident now; say whether the system did."""
    try:
        _CLEAR.write_text(_RESET_HIGH_WATER, encoding="ascii")
    except OSError:
        return False
    return True


def available_bytes(device: torch.device) -> int | None:
    """What new tensors may take on a device without pushing anything out; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = available_memory()
    return None if found is None else found.size
