"""The candidates of one range of components: documents by rank, and the groups that each is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from vitruvius.data.dedup.components import CANDIDATE, component_runs
from vitruvius.data.dedup.runs import slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from vitruvius.data.dedup.runs import KeyRange
    from vitruvius.data.job.job import Job

_CHUNK = 1 << 16


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Documents in the order in which they are taken, and for each group slots for those that are kept.

    It holds about 30 bytes for each membership of a document in a group.
    """

    documents: np.ndarray
    """Keys, by component and then by rank."""
    first: np.ndarray
    """For each document where its memberships begin, and the end."""
    members: np.ndarray
    """The memberships, sorted: place of the document << 32 | number of the group."""
    slots: np.ndarray
    """For each group where its slots begin, and the end: one for each member, up to a limit."""

    def groups_of(self, place: int) -> np.ndarray:
        """The numbers of the groups of the document at this place."""
        import numpy as np

        some = self.members[int(self.first[place]) : int(self.first[place + 1])]
        return (some & np.uint64(0xFFFFFFFF)).astype(np.int64)

    @staticmethod
    def ranked(job: Job, wanted: KeyRange, *, keepers: int) -> Candidates:
        """Collect the candidates of the components in a range; a group gets at most `keepers` slots."""
        import numpy as np

        groups = _distinct(records["group"] for records in _records(job, wanted))
        documents = _distinct(records["document"] for records in _records(job, wanted))
        components = np.empty(len(documents), dtype=np.uint64)
        sizes = np.zeros(len(groups), dtype=np.int64)
        counts = np.zeros(len(documents), dtype=np.int64)
        for records in _records(job, wanted):
            places = np.searchsorted(documents, records["document"])
            components[places] = records["key"]
            counts += np.bincount(places, minlength=len(documents))
            sizes += np.bincount(np.searchsorted(groups, records["group"]), minlength=len(groups))
        order = _by_rank(job, documents, components)
        del components
        rank = np.empty(len(order), dtype=np.uint64)
        rank[order] = np.arange(len(order), dtype=np.uint64)
        members = np.empty(int(counts.sum()), dtype=np.uint64)
        done = 0
        for records in _records(job, wanted):
            ranks = rank[np.searchsorted(documents, records["document"])]
            numbers = np.searchsorted(groups, records["group"]).astype(np.uint64)
            members[done : done + len(records)] = ranks << np.uint64(32) | numbers
            done += len(records)
        members.sort()
        return Candidates(
            documents=documents[order],
            first=_ends(counts[order]),
            members=members,
            slots=_ends(np.minimum(sizes, keepers)),
        )


def _records(job: Job, wanted: KeyRange) -> Iterator[np.ndarray]:
    """The `CANDIDATE` records in a range, in pieces of a size that is worth while and bounded."""
    import numpy as np

    waiting: list[np.ndarray] = []
    held = 0
    for path in component_runs(job):
        for records in slices(path, CANDIDATE, wanted):
            waiting.append(records)
            held += len(records)
            if held >= _CHUNK:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _distinct(pieces: Iterator[np.ndarray]) -> np.ndarray:
    """The distinct numbers among all pieces, sorted."""
    import numpy as np

    found = np.empty(0, dtype=np.uint64)
    waiting: list[np.ndarray] = []
    held = 0
    for piece in pieces:
        waiting.append(np.unique(piece))
        held += len(waiting[-1])
        if held >= max(_CHUNK, len(found)):
            found = np.unique(np.concatenate([found, *waiting]))
            waiting, held = [], 0
    return np.unique(np.concatenate([found, *waiting])) if waiting else found


def _ends(counts: np.ndarray) -> np.ndarray:
    """Where each of several stretches of these lengths begins, and the end."""
    import numpy as np

    return np.concatenate([[0], np.cumsum(counts)])


def _by_rank(job: Job, documents: np.ndarray, components: np.ndarray) -> np.ndarray:
    """The order of documents (keys, sorted) by component, then by rank: longer texts first, then by digest."""
    import numpy as np

    characters = np.empty(len(documents), dtype=np.uint32)
    digests = np.empty((len(documents), 2), dtype=np.uint64)
    units, starts, counts = np.unique(documents >> np.uint64(32), return_index=True, return_counts=True)
    for unit, first, last in zip(units.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True):
        rows = job.kept(unit).rows[(documents[first:last] & np.uint64(0xFFFFFFFF)).astype(np.int64)]
        characters[first:last] = rows["characters"]
        # As big-endian numbers they compare as the bytes do.
        digests[first:last] = np.ascontiguousarray(rows["digest"]).view(">u8").reshape(-1, 2)
    return np.lexsort((digests[:, 1], digests[:, 0], ~characters, components))
