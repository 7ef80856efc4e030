"""Candidates: documents that share the hash of a band, as groups, external to memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.exact import exact_duplicates
from vitruvius.data.dedup.runs import KeyRange, Repeated, RunWriter, count_records, key_range, parts_for, slices
from vitruvius.data.dedup.signing import NO_BAND, SIGNATURE_DTYPE
from vitruvius.data.job.kept import key_of
from vitruvius.data.job.stage import Stage
from vitruvius.data.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from vitruvius.data.dedup.settings import NearSettings
    from vitruvius.data.job.job import Job

SORTED = "band-sort"
MATCHED = "band-match"

PARTITION_BANDS = 1 << 19
"""About as many distinct band hashes are compared in one task."""

BAND = [("key", "<u8"), ("row", "<u4")]
"""numpy type of a record that is sorted: the hash of a band, and the row in its unit."""

MEMBER = [("group", "<u8"), ("document", "<u8"), ("leader", "<u8")]
"""numpy type of a result: a band hash that several documents share, the key of one of them, and of the first."""


_CHUNK = 1 << 17


@final
class BandSort(Stage):
    """A task for each unit: `band-sort/00012.run`, the band hashes of its documents without exact duplicates."""

    __slots__ = ("_settings",)
    name = SORTED
    verb = "sorting signatures"

    def __init__(self, settings: NearSettings) -> None:
        self._settings = settings

    def tasks(self, job: Job) -> int:
        """One for each unit."""
        return len(job.units)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Sort a unit."""
        import numpy as np

        bands = self._settings.bands
        entries = mapped(job.path("read", task).with_suffix(".signatures"), SIGNATURE_DTYPE)
        signatures = entries.reshape(-1, bands)
        stays = np.ones(len(signatures), dtype=np.bool_)
        stays[(exact_duplicates(job, task)["document"] & np.uint64(0xFFFFFFFF)).astype(np.int64)] = False
        step = max(1, _CHUNK // bands)
        with job.publishing(_run(job, task)) as file, RunWriter(file, BAND) as writer:
            for start in range(0, len(signatures), step):
                some = signatures[start : start + step][stays[start : start + step]]
                rows = np.flatnonzero(stays[start : start + step]) + start
                records = np.empty(some.size, dtype=BAND)
                records["key"] = some.reshape(-1)
                records["row"] = np.repeat(rows, bands)
                writer.add(records[records["key"] != NO_BAND])
        return {"documents": int(stays.sum()), "bands": writer.records}


@final
class BandMatch(Stage):
    """A task for each range of band hashes: `band-match/00012.members`, `MEMBER` records of those that are shared."""

    __slots__ = ("_partition",)
    name = MATCHED
    verb = "finding candidates"

    def __init__(self, *, partition: int = PARTITION_BANDS) -> None:
        self._partition = partition

    def tasks(self, job: Job) -> int:
        """As many as it takes for one to fit in memory."""
        runs = [_run(job, unit) for unit in range(len(job.units))]
        return parts_for(count_records(runs, BAND), most=self._partition)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Find what is shared in one range."""
        import numpy as np

        wanted = key_range(task, self.tasks(job))
        repeated = Repeated()
        for keys, documents in _records(job, wanted):
            repeated.add(keys, documents)
        shared, leaders = repeated.found()
        members = 0
        with job.publishing(job.path(self.name, task).with_suffix(".members")) as file:
            for keys, documents in _records(job, wanted) if len(shared) else ():
                at = np.minimum(np.searchsorted(shared, keys), len(shared) - 1)
                found = shared[at] == keys
                records = np.empty(int(found.sum()), dtype=MEMBER)
                records["group"], records["document"] = keys[found], documents[found]
                records["leader"] = leaders[at[found]]
                file.write(records.tobytes())
                members += len(records)
        return {"groups": len(shared), "members": members}


def member_files(job: Job) -> list[Path]:
    """The `MEMBER` records of each task."""
    return sorted(job.folder(MATCHED).glob("*.members"))


def _run(job: Job, unit: int) -> Path:
    return job.path(SORTED, unit).with_suffix(".run")


def _records(job: Job, wanted: KeyRange) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Band hashes in a range and the keys of their documents, in the order of units."""
    import numpy as np

    for unit in range(len(job.units)):
        for records in slices(_run(job, unit), BAND, wanted):
            yield records["key"], np.uint64(key_of(unit, 0)) | records["row"]
