"""Memory that a run and its workers share: what the run asks, how far each worker is, and room for batches.

It has no name, so nothing is left of it however the processes end. Linux gives it as a memory file; elsewhere it is a
temporary file that is unlinked at once.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import RunError
from vitruvius.runs.available import available_memory
from vitruvius.units import format_bytes

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.batches import Batch

_LINE = 64
"""Bytes of a cache line: two workers never write into the same one."""
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the memory is divided."""

    workers: int
    slots: int
    samples: int
    """Samples that fit into a slot."""
    context: int
    """Tokens that each of them has at most."""

    @property
    def slot_bytes(self) -> int:
        """Room for a batch: three int64 and one bool for each token, two int64 for each sample."""
        return _whole(self.samples * self.context * 25 + self.samples * 16, _LINE)

    @property
    def head_bytes(self) -> int:
        """A line for the run, one for each worker."""
        return _whole(_LINE * (1 + self.workers), _PAGE)

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return self.head_bytes + self.slots * self.slot_bytes


@final
class SharedMemory:
    """The memory as one process sees it."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        """Map it; the descriptor stays the caller's."""
        import numpy as np

        self.layout = layout
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, layout.size)
        head = np.frombuffer(self._map, dtype=np.int64, count=layout.head_bytes // 8)
        self._head = head.reshape(-1, _LINE // 8)

    @classmethod
    def made(cls, layout: Layout) -> SharedMemory:
        """Fresh memory, all zero.

        Raises:
            RunError: the system does not have so much.
        """
        room = available_memory()
        # Looked at first: a system that is asked for more than it has ends processes, and not just the one that asked.
        if room is not None and layout.size > room.size:
            raise _no_room(layout, f"there are {format_bytes(room.size)} ({room.limit})")
        descriptor = _without_name()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, layout.size)
            else:
                os.ftruncate(descriptor, layout.size)
            return cls(layout, descriptor)
        except (OSError, ValueError, OverflowError) as error:
            os.close(descriptor)
            raise _no_room(layout, str(error)) from None

    def close(self) -> None:
        """Let go of it."""
        del self._head
        self._map.close()
        os.close(self.descriptor)

    @property
    def generation(self) -> int:
        """Goes up when the run no longer wants what it has asked for."""
        return int(self._head[0, 0])

    @generation.setter
    def generation(self, value: int) -> None:
        self._head[0, 0] = value

    def mark(self, worker: int, number: int, place: int) -> None:
        """Say that a worker is about to read sample `place` of batch `number`."""
        line = self._head[1 + worker]
        line[1], line[2] = number, place
        line[0] += 1

    def marked(self, worker: int) -> tuple[int, int, int]:
        """How often a worker has said something, and the last it has said."""
        signs, number, place = self._head[1 + worker, :3].tolist()
        return signs, number, place

    def put(self, slot: int, batch: Batch) -> dict[str, int]:
        """Write a batch into a slot; what `get` needs to find it."""
        rows, context = batch.inputs.shape
        shape = {"rows": rows, "context": context, "samples": len(batch.sample_ids)}
        for name, array in self._arrays(slot, shape).items():
            array[...] = getattr(batch, name)
        return shape

    def get(self, slot: int, shape: dict[str, int]) -> Batch:
        """A copy of the batch in a slot."""
        from vitruvius.data.packing.batches import Batch as Whole

        return Whole(**{name: array.copy() for name, array in self._arrays(slot, shape).items()})

    def _arrays(self, slot: int, shape: dict[str, int]) -> dict[str, np.ndarray]:
        import numpy as np

        begin = self.layout.head_bytes + slot * self.layout.slot_bytes
        place, found = begin, dict[str, Any]()
        rows, samples = (shape["rows"], shape["context"]), (shape["samples"],)
        wanted = {"inputs": rows, "targets": rows, "documents": rows, "sample_ids": samples, "epochs": samples}
        for name, size in (*wanted.items(), ("crosses", rows)):
            dtype = np.dtype(bool if name == "crosses" else np.int64)
            count = int(np.prod(size))
            found[name] = np.frombuffer(self._map, dtype=dtype, count=count, offset=place).reshape(size)
            place += count * dtype.itemsize
        assert place <= begin + self.layout.slot_bytes
        return found


def _no_room(layout: Layout, why: str) -> RunError:
    what = f"there is no room for {layout.slots:,} batches read ahead, {format_bytes(layout.size)}: {why}"
    return RunError(what, where="train.loader.ahead", fix="read fewer ahead, or make room")


def _without_name() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vitruvius-batches", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="vitruvius-batches-") as file:
        return os.dup(file.fileno())


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit
