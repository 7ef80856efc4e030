"""What makes two runs on one machine agree bit for bit: seeds, threads, algorithms, and random state as plain data."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable that torch wants to see before it calls sums of cuBLAS deterministic."""


@contextlib.contextmanager
def deterministic(*, seed: int, threads: int | None) -> Generator[None]:
    """Seed torch, fix its threads and ask for algorithms that repeat; everything is put back when the block ends.

    cuBLAS repeats its sums only in a workspace of fixed size, which it reads from the environment when it starts: a
    process that has multiplied on a GPU before keeps what it had then.
    """
    threads_before = torch.get_num_threads()
    algorithms_before = torch.are_deterministic_algorithms_enabled()
    warn_before = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill_before = memory.fill_uninitialized_memory
    torch.set_num_threads(threads or threads_before)
    has_cuda = torch.cuda.is_available()
    sets_workspace = has_cuda and WORKSPACE not in os.environ
    if sets_workspace:
        os.environ[WORKSPACE] = ":4096:8"
    # On CUDA some kernels have no such form; there torch warns, and the docs promise nothing.
    torch.use_deterministic_algorithms(True, warn_only=has_cuda)
    # It would fill every fresh buffer with NaN, to no end: we write before we read.
    memory.fill_uninitialized_memory = False
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(algorithms_before, warn_only=warn_before)
        memory.fill_uninitialized_memory = fill_before
        if sets_workspace:
            os.environ.pop(WORKSPACE, None)


def random_state() -> dict[str, Any]:
    """The state of torch's generators as JSON data: base64 of their bytes, one per CUDA device."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": _text(torch.get_rng_state()), "cuda": [_text(state) for state in devices]}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(_tensor(state["cpu"]))
    if state["cuda"] and torch.cuda.is_available():
        # A machine with fewer devices goes on with those it has.
        here = state["cuda"][: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all([_tensor(text) for text in here])


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
