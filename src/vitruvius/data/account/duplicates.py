"""Clusters of duplicates and how alike near duplicates were, from the quarantine; sorted on disk, not in memory."""

from __future__ import annotations

import hashlib
import tempfile
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.account.folder import number_of, text_of

if TYPE_CHECKING:
    import numpy as np

EXACT, NEAR = "exact_duplicate", "near_duplicate"
JACCARD_BINS = 50
_BUFFERED = 1 << 16
_SLICE = 1 << 20


@final
class Duplicates:
    """Gathers the rows of the quarantine that are duplicates."""

    def __init__(self) -> None:
        self._keepers = {EXACT: _Keepers(), NEAR: _Keepers()}
        self._jaccard = [0] * JACCARD_BINS
        self._known = 0
        self._lowest: float | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Look at a row."""
        keepers = self._keepers.get(text_of(row, "reason") or "")
        if keepers is None:
            return
        keepers.add(keeper_of(row))
        jaccard = jaccard_of(row)
        if row["reason"] == NEAR and jaccard is not None:
            self._jaccard[min(JACCARD_BINS - 1, int(jaccard * JACCARD_BINS + 1e-9))] += 1
            self._known += 1
            self._lowest = jaccard if self._lowest is None else min(jaccard, self._lowest)

    def close(self) -> None:
        """Give back the disk."""
        for keepers in self._keepers.values():
            keepers.close()

    def summary(self) -> dict[str, Any]:
        """Clusters of both sorts, and the histogram of Jaccard similarities."""
        return {
            "exact": self._keepers[EXACT].summary(),
            "near": self._keepers[NEAR].summary(),
            "jaccard": {
                "documents": self._known,
                "lowest": self._lowest,
                "histogram": [
                    {"from": place / JACCARD_BINS, "to": (place + 1) / JACCARD_BINS, "documents": count}
                    for place, count in enumerate(self._jaccard)
                ],
            },
        }


def keeper_of(row: dict[str, Any]) -> str | None:
    """The id of the document that was kept in the place of a duplicate."""
    return text_of(row, "keeper")


def jaccard_of(row: dict[str, Any]) -> float | None:
    """How alike a near duplicate and its keeper are, from 0 to 1."""
    found = number_of(row, "jaccard")
    return found if found is not None and 0 <= found <= 1 else None


@final
class _Keepers:
    """The hashes of keepers, eight bytes each, in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._held = bytearray()
        self._unknown = 0
        self._documents = 0

    def add(self, keeper: str | None) -> None:
        self._documents += 1
        if keeper is None:
            self._unknown += 1
            return
        self._held += hashlib.blake2b(keeper.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if len(self._held) >= 8 * _BUFFERED:
            self._file.write(self._held)
            self._held.clear()

    def close(self) -> None:
        self._file.close()

    def summary(self) -> dict[str, Any]:
        """Sizes are of whole clusters, the keeper included."""
        sizes = self._sizes()
        return {
            "dropped": self._documents,
            "without_keeper": self._unknown,
            "clusters": sum(sizes.values()),
            "largest": max(sizes, default=0),
            "sizes": _by_doubling(sizes),
        }

    def _sizes(self) -> dict[int, int]:
        """Size of a cluster -> clusters of that size."""
        import numpy as np

        self._file.write(self._held)
        self._held.clear()
        self._file.flush()
        if self._documents == self._unknown:
            return {}
        hashes = np.memmap(self._file, dtype="<u8", mode="r+")
        hashes.sort()
        sizes: dict[int, int] = {}
        running = 0
        for first in range(0, len(hashes), _SLICE):
            part = np.asarray(hashes[first : first + _SLICE + 1])
            last = first + _SLICE >= len(hashes)
            whole = part if last else part[:-1]
            ends = np.flatnonzero(part[1:] != part[:-1]) + 1
            ends = np.append(ends, len(whole)) if last else ends
            running = _count_runs(ends, running, len(whole), sizes)
        return sizes


def _count_runs(ends: np.ndarray, running: int, length: int, sizes: dict[int, int]) -> int:
    """Count the runs that end at `ends` in a slice; returns how long the run is that goes on after it."""
    import numpy as np

    if len(ends) == 0:
        return running + length
    runs = np.diff(ends, prepend=0)
    runs[0] += running
    for size, count in zip(*np.unique(runs + 1, return_counts=True), strict=True):
        sizes[int(size)] = sizes.get(int(size), 0) + int(count)
    return length - int(ends[-1])


def _by_doubling(sizes: dict[int, int]) -> list[dict[str, int]]:
    """Clusters by size: 2, 3-4, 5-8, 9-16 ...; `documents` are all of theirs, the keepers included."""
    rows: dict[int, dict[str, int]] = {}
    for size, count in sizes.items():
        top = 1 << (size - 1).bit_length()
        row = rows.setdefault(top, {"from": top // 2 + 1, "to": top, "clusters": 0, "documents": 0})
        row["clusters"] += count
        row["documents"] += size * count
    return [rows[top] for top in sorted(rows)]
