"""Whether an error says that memory ran out, and how much was asked for. Standard library only."""

from __future__ import annotations

import re

_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # oneDNN says no more than this when it finds no memory; whoever tells the user shows the message.
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
    # Threads and libraries that are loaded late need addresses too.
    "can't start new thread",
    "failed to map segment from shared object",
)
"""What the messages of torch's allocators and of the libraries under it say; on a CPU they are bare RuntimeErrors."""

_UNITS = {"": 1, "bytes": 1, "byte": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ASKED = re.compile(
    r"(?:tried to allocate|unable to allocate)\s+(\d{1,18}(?:\.\d{1,6})?)\s*(bytes?|[kmgt])?", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a host or a device. torch is not imported: its error is known by name and text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in _SIGNS)


def bytes_asked(error: BaseException) -> int | None:
    """How many bytes could not be had, as the message says (CUDA's is rounded); None where it does not."""
    found = _ASKED.search(str(error)[:10_000])
    if found is None:
        return None
    number, unit = found[1], (found[2] or "").lower()
    # Not float alone: a CPU's message has every digit of a number that may be beyond 2^53.
    whole = int(number) if number.isdigit() else float(number)
    return round(whole * _UNITS[unit])
