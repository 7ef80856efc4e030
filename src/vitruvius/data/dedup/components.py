"""Connected components of candidates: documents in different ones need never be compared."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.groups import MEMBER, member_files
from vitruvius.data.dedup.runs import RunWriter, pieces
from vitruvius.data.dedup.signing import mix
from vitruvius.data.job.kept import ROW
from vitruvius.data.job.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from vitruvius.data.job.job import Job

JOINED = "components"
SORTED = "component-sort"

CANDIDATE = [("key", "<u8"), ("group", "<u8"), ("document", "<u8")]
"""numpy type of a record that is sorted: the hash of a component, a band hash in it, the key of a document with it."""

_CHUNK = 1 << 17


@final
class Components(Stage):
    """One task: `components/00000.labels`, for each document the least of its component, both counted over all units;
    and `components/00000.starts`, the count before each unit.

    Union-find over arrays in files: its memory does not grow with the documents, its files do, by 8 bytes for each.
    """

    __slots__ = ()
    name = JOINED
    verb = "joining candidates"

    def tasks(self, job: Job) -> int:
        """One."""
        del job
        return 1

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Join everything."""
        import numpy as np

        del task
        starts = _count_before(job)
        total = int(starts[-1])
        with tempfile.TemporaryFile(dir=job.folder(self.name)) as scratch:
            scratch.truncate(max(8, total * 8))
            labels = np.memmap(scratch, dtype="<u8", mode="r+", shape=(max(1, total),))
            for start in range(0, total, _CHUNK):
                labels[start : start + _CHUNK] = np.arange(start, min(start + _CHUNK, total))
            for records in _chunks(job):
                _join(labels, ordinals(starts, records["leader"]), ordinals(starts, records["document"]))
            components = 0
            with job.publishing(_path(job, "labels")) as file:
                for start in range(0, total, _CHUNK):
                    own = np.arange(start, min(start + _CHUNK, total), dtype=np.uint64)
                    least = _roots(labels, own)
                    components += int((least == own).sum())
                    file.write(least.tobytes())
        with job.publishing(_path(job, "starts")) as file:
            file.write(starts.tobytes())
        return {"documents": total, "components": components}


@final
class ComponentSort(Stage):
    """A task for each of `BandMatch`: `component-sort/00012.run`, its groups sorted by component."""

    __slots__ = ()
    name = SORTED
    verb = "sorting candidates"

    def tasks(self, job: Job) -> int:
        """As many as found candidates."""
        return len(member_files(job))

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Sort the groups of one range of band hashes."""
        import numpy as np

        labels = Labels(job)
        with (
            job.publishing(job.path(self.name, task).with_suffix(".run")) as file,
            RunWriter(file, CANDIDATE) as writer,
        ):
            for some in pieces(member_files(job)[task], MEMBER, size=_CHUNK):
                records = np.empty(len(some), dtype=CANDIDATE)
                records["key"] = labels.hashes(some["document"])
                records["group"], records["document"] = some["group"], some["document"]
                writer.add(records)
        return {"candidates": writer.records}


def component_runs(job: Job) -> list[Path]:
    """The runs of all tasks of `ComponentSort`, in order."""
    return sorted(job.folder(SORTED).glob("*.run"))


@final
class Labels:
    """The components of documents, looked up."""

    __slots__ = ("_labels", "_starts")

    def __init__(self, job: Job) -> None:
        import numpy as np

        self._starts = np.fromfile(_path(job, "starts"), dtype="<u8")
        path = _path(job, "labels")
        self._labels = np.memmap(path, dtype="<u8", mode="r") if path.stat().st_size else np.empty(0, dtype="<u8")

    def hashes(self, documents: np.ndarray) -> np.ndarray:
        """For each document a 64-bit number that is its component's alone."""
        return mix(self._labels[ordinals(self._starts, documents)])


def ordinals(starts: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Keys of documents -> their numbers, counted over all units."""
    import numpy as np

    units = (documents >> np.uint64(32)).astype(np.int64)
    return starts[units] + (documents & np.uint64(0xFFFFFFFF))


def _path(job: Job, suffix: str) -> Path:
    return job.path(JOINED, 0).with_suffix(f".{suffix}")


def _count_before(job: Job) -> np.ndarray:
    """Documents before each unit, and in all."""
    import numpy as np

    size = np.dtype(ROW).itemsize
    counts = [job.path("read", unit).with_suffix(".rows").stat().st_size // size for unit in range(len(job.units))]
    return np.cumsum([0, *counts]).astype("<u8")


def _chunks(job: Job) -> Iterator[np.ndarray]:
    """The members of groups who are not their leader, some at a time."""
    for path in member_files(job):
        for records in pieces(path, MEMBER, size=_CHUNK):
            yield records[records["leader"] != records["document"]]


def _join(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Bring each a[i] into one tree with b[i]. An entry never exceeds its place, so there are no cycles."""
    import numpy as np

    while len(a):
        roots_a, roots_b = _roots(labels, a), _roots(labels, b)
        # Later look-ups are short: the way to the root is cut for everyone who asked.
        labels[a], labels[b] = roots_a, roots_b
        apart = roots_a != roots_b
        a, b = np.minimum(roots_a[apart], roots_b[apart]), np.maximum(roots_a[apart], roots_b[apart])
        # Of several unions of one root the last wins; the others are made in the next round.
        labels[b] = a


def _roots(labels: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The root of each entry's tree."""
    import numpy as np

    found = np.array(labels[of])
    while True:
        above = labels[found]
        if np.array_equal(above, found):
            return found
        found = above
