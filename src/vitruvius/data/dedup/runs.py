"""Sorting more than fits in memory: sorted files, and from all of them what lies in one range of keys.

A run is a file of records with a field `key` that is spread evenly over the 64-bit numbers. It consists of segments of
`SEGMENT` records, each sorted by key. A task that wants all records with keys in a range reads just those, by binary
search in every segment of every run; so what it holds depends on the range, and never on the number of records.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple, final

from vitruvius.data.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np

SEGMENT = 1 << 17
"""Records in a sorted segment; the last of a run may have fewer."""

KEYS = 2**64
"""Keys are below this."""


class KeyRange(NamedTuple):
    """Keys from `low` to below `high`."""

    low: int
    high: int


def key_range(part: int, parts: int) -> KeyRange:
    """The keys of one of `parts` equal ranges."""
    return KeyRange(-(-part * KEYS // parts), -(-(part + 1) * KEYS // parts))


def part_of(key: int, parts: int) -> int:
    """Which of `parts` equal ranges a key is in."""
    return key * parts // KEYS


def parts_for(records: int, *, most: int) -> int:
    """Into how many ranges to cut so many records that one has about `most`."""
    return -(-records // most)


@final
class RunWriter:
    """Writes a run, segment by segment; use it as a context manager."""

    __slots__ = ("_dtype", "_file", "_held", "_waiting", "records")

    def __init__(self, file: BinaryIO, dtype: Any) -> None:
        self._file = file
        self._dtype = dtype
        self._waiting: list[np.ndarray] = []
        self._held = 0
        self.records = 0

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, records: np.ndarray) -> None:
        """Append records, in any order of keys."""
        while len(records):
            some = records[: SEGMENT - self._held]
            self._waiting.append(some)
            self._held += len(some)
            self.records += len(some)
            records = records[len(some) :]
            if self._held == SEGMENT:
                self._flush()

    def _flush(self) -> None:
        import numpy as np

        if self._held:
            records = np.concatenate(self._waiting).astype(self._dtype, copy=False)
            order = np.argsort(records["key"], kind="stable")
            self._file.write(records[order].tobytes())
        self._waiting, self._held = [], 0


def pieces(path: Path, dtype: Any, *, size: int = SEGMENT) -> Iterator[np.ndarray]:
    """The records of a file, one piece after the other.

    They are read, not mapped: pages that were touched count as memory of the process for as long as they are mapped.
    """
    import numpy as np

    with path.open("rb") as file:
        while len(records := np.fromfile(file, dtype=dtype, count=size)):
            yield records


def count_records(paths: list[Path], dtype: Any) -> int:
    """Records in these files."""
    import numpy as np

    return sum(path.stat().st_size for path in paths) // np.dtype(dtype).itemsize


def slices(path: Path, dtype: Any, wanted: KeyRange) -> Iterator[np.ndarray]:
    """The records of a run whose keys are in a range: of each segment those it has, copied."""
    records = mapped(path, dtype)
    for start in range(0, len(records), SEGMENT):
        segment = records[start : start + SEGMENT]
        keys = segment["key"]
        first = bisect_left(keys, wanted.low)  # pyright: ignore[reportArgumentType] (an array is a sequence here)
        last = bisect_left(keys, wanted.high, lo=first)  # pyright: ignore[reportArgumentType]
        if last > first:
            yield segment[first:last].copy()


@final
class Repeated:
    """Finds keys that occur more than once in a stream of records, and who had each first.

    It holds the distinct keys and a bounded number of records, however often a key comes.
    """

    __slots__ = ("_firsts", "_held", "_keys", "_limit", "_many", "_waiting")

    def __init__(self, *, limit: int = 1 << 18) -> None:
        import numpy as np

        self._keys = np.empty(0, dtype=np.uint64)
        self._firsts = np.empty(0, dtype=np.uint64)
        self._many = np.empty(0, dtype=np.bool_)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0
        self._limit = limit

    def add(self, keys: np.ndarray, documents: np.ndarray) -> None:
        """Take in records: their keys, and the documents that have them."""
        self._waiting.append((keys.astype("<u8"), documents.astype("<u8")))
        self._held += len(keys)
        # As much again as is kept, so that each record is sorted a bounded number of times.
        if self._held >= max(self._limit, len(self._keys)):
            self._merge()

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """The keys that occurred more than once, sorted, and for each the smallest document."""
        self._merge()
        return self._keys[self._many], self._firsts[self._many]

    def _merge(self) -> None:
        import numpy as np

        if not self._held:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._waiting)])
        documents = np.concatenate([self._firsts, *(documents for _, documents in self._waiting)])
        many = np.concatenate([self._many, np.zeros(self._held, dtype=np.bool_)])
        self._waiting, self._held = [], 0
        order = np.argsort(keys, kind="stable")
        keys, documents, many = keys[order], documents[order], many[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sizes = np.diff(np.concatenate([starts, [len(keys)]]))
        self._keys = keys[starts]
        self._firsts = np.minimum.reduceat(documents, starts)
        self._many = np.logical_or.reduceat(many, starts) | (sizes > 1)
