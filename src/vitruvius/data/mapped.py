"""Files as arrays, of which only what is looked at is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def mapped(path: Path, dtype: Any) -> np.ndarray:
    """The records of a file, memory-mapped for reading."""
    import numpy as np

    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
