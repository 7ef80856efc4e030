"""The machine and the software a run saw, found without importing any of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "tokenizers",
    "safetensors",
    "transformers",
    "pydantic",
    "PyYAML",
    "click",
    "rich",
    "jaxtyping",
)
"""Distributions whose version can change a result; only those that are installed are recorded."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
    "PYTHONHASHSEED",
)
"""Environment variables that change how many threads or which devices compute; null when not set."""


def environment() -> dict[str, Any]:
    """Versions, hardware, threads and the time (UTC), as plain JSON data.

    Sizes are in bytes. What cannot be found out is null. Nothing is imported to ask for its version, so
    this costs the same with and without torch.
    """
    return {
        "vitruvius": package_version("vitruvius"),
        "python": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_usable": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name)) is not None},
        "variables": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "time_utc": now_utc(),
    }


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def now_utc() -> str:
    """The time in UTC as ISO 8601 with seconds, ending in Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cpu_model() -> str | None:
    info = _text(Path("/proc/cpuinfo"))
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else (platform.processor() or None)


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs, as the driver lists them."""
    texts = (_text(path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")))
    return [found[1].strip() for text in texts if (found := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
