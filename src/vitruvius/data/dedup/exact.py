"""Exact duplicates: documents with the same text, found by half its SHA-256.

The first stays, by the name of its file and then by its place there; so neither the order of the inputs nor how they
are cut into units decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.runs import (
    KeyRange,
    Repeated,
    RunWriter,
    count_records,
    key_range,
    mapped,
    parts_for,
    slices,
)
from vitruvius.data.job.kept import key_of
from vitruvius.data.job.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from vitruvius.data.job.job import Job

SORTED = "exact-sort"
MATCHED = "exact-match"

PARTITION_DOCUMENTS = 1 << 18
"""About as many distinct texts are compared in one task."""

DIGEST = [("key", "<u8"), ("rest", "<u8"), ("row", "<u4")]
"""numpy type of a record that is sorted: the two halves of the digest, and the row in its unit."""

EXACT = [("document", "<u8"), ("keeper", "<u8")]
"""numpy type of a result: the keys of a duplicate, and of the document that stays for it."""


@final
class ExactSort(Stage):
    """A task for each unit: `exact-sort/00012.run`, its digests sorted."""

    __slots__ = ()
    name = SORTED
    verb = "sorting digests"

    def tasks(self, job: Job) -> int:
        """One for each unit."""
        return len(job.units)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Sort a unit."""
        import numpy as np

        rows = job.kept(task).rows
        with job.publishing(_run(job, task)) as file, RunWriter(file, DIGEST) as writer:
            for start in range(0, len(rows), PARTITION_DOCUMENTS):
                some = np.ascontiguousarray(rows["digest"][start : start + PARTITION_DOCUMENTS])
                halves = some.view("<u8").reshape(-1, 2)
                records = np.empty(len(some), dtype=DIGEST)
                records["key"], records["rest"] = halves[:, 0], halves[:, 1]
                records["row"] = np.arange(start, start + len(some))
                writer.add(records)
        return {"documents": len(rows)}


@final
class ExactMatch(Stage):
    """A task for each range of digests: `exact-match/00012.duplicates`, `EXACT` records in the order of documents."""

    __slots__ = ("_partition",)
    name = MATCHED
    verb = "finding exact duplicates"

    def __init__(self, *, partition: int = PARTITION_DOCUMENTS) -> None:
        self._partition = partition

    def tasks(self, job: Job) -> int:
        """As many as it takes for one to fit in memory."""
        runs = [_run(job, unit) for unit in range(len(job.units))]
        return parts_for(count_records(runs, DIGEST), most=self._partition)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Find the duplicates in one range."""
        import numpy as np

        wanted = key_range(task, self.tasks(job))
        repeated = Repeated()
        for unit, records in _records(job, wanted):
            repeated.add(records["key"], np.uint64(key_of(unit, 0)) | records["row"])
        several, _ = repeated.found()
        keepers: dict[tuple[int, int], tuple[str, int, int]] = {}
        for unit, records in _records(job, wanted):
            kept = job.kept(unit)
            for key, rest, row in _among(records, several):
                origin = kept.origin(row)
                candidate = (origin.file, origin.byte_offset, key_of(unit, row))
                keepers[key, rest] = min(keepers.get((key, rest), candidate), candidate)
        count = 0
        with job.publishing(job.path(self.name, task).with_suffix(".duplicates")) as file:
            for unit in range(len(job.units)):
                pairs = [
                    (key_of(unit, row), keepers[key, rest][2])
                    for records in slices(_run(job, unit), DIGEST, wanted)
                    for key, rest, row in _among(records, several)
                ]
                found = np.array(sorted(pair for pair in pairs if pair[0] != pair[1]), dtype=EXACT)
                file.write(found.tobytes())
                count += len(found)
        return {"duplicates": count}


def exact_duplicates(job: Job, unit: int) -> np.ndarray:
    """The duplicates among a unit's documents: `EXACT` records, in the order of documents."""
    import numpy as np

    paths = sorted(job.folder(MATCHED).glob("*.duplicates"))
    found = [of_unit(mapped(path, EXACT), unit) for path in paths]
    return np.sort(np.concatenate([np.empty(0, dtype=EXACT), *found]), order="document")


def of_unit(records: np.ndarray, unit: int) -> np.ndarray:
    """Of records in the order of their field `document`, those of one unit."""
    first, last = between(records["document"], key_of(unit, 0), key_of(unit + 1, 0))
    return records[first:last]


def between(keys: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Where the keys from `low` to below `high` are in a sorted array, of which no more is read than needed."""
    from bisect import bisect_left

    sequence: Any = keys
    first = bisect_left(sequence, low)
    return first, bisect_left(sequence, high, lo=first)


def _run(job: Job, unit: int) -> Path:
    return job.path(SORTED, unit).with_suffix(".run")


def _records(job: Job, wanted: KeyRange) -> Iterator[tuple[int, np.ndarray]]:
    """The unit and the records of each slice in a range, in the order of units."""
    for unit in range(len(job.units)):
        for records in slices(_run(job, unit), DIGEST, wanted):
            yield unit, records


def _among(records: np.ndarray, several: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """The records whose key is in the sorted array `several`, as integers."""
    import numpy as np

    if len(several):
        at = np.minimum(np.searchsorted(several, records["key"]), len(several) - 1)
        yield from records[several[at] == records["key"]].tolist()
