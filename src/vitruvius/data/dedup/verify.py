"""Near duplicates among candidates: exact Jaccard, and one keeper whatever the order of the documents.

Documents are taken by rank: the longer text (in characters) first; of equal length the one with the smaller SHA-256 of
its text. Each is compared with those kept so far that share the hash of a band with it, and is dropped if and only if
the similarity with one of them reaches the threshold; it names the most similar, of equally similar ones the first by
rank. So the result depends on the texts alone, nobody is dropped for the sake of someone who is dropped, and k copies of
one text cost k comparisons.

Where a hash is shared by very many, as with boilerplate, only the first `NearSettings.keepers` kept documents of its
group are compared, which bounds the comparisons of a document by `bands * keepers`. More are kept then, never fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.components import CANDIDATE, SORTED, component_run
from vitruvius.data.dedup.runs import count_records, key_range, parts_for, slices
from vitruvius.data.dedup.sets import ShingleSets
from vitruvius.data.job.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vitruvius.data.dedup.settings import NearSettings
    from vitruvius.data.job.job import Job

VERIFIED = "near-match"

PARTITION_CANDIDATES = 1 << 18
"""About as many memberships in groups are looked at in one task; a component is never cut."""

NEAR = [("document", "<u8"), ("keeper", "<u8"), ("jaccard", "<f8")]
"""numpy type of a result: the keys of a duplicate and of the document that stays for it, and how alike they are."""


@final
class NearMatch(Stage):
    """A task for each range of components: `near-match/00012.duplicates`, `NEAR` records in the order of documents."""

    __slots__ = ("_partition", "_settings")
    name = VERIFIED
    verb = "comparing candidates"

    def __init__(self, settings: NearSettings, *, partition: int = PARTITION_CANDIDATES) -> None:
        self._settings = settings
        self._partition = partition

    def tasks(self, job: Job) -> int:
        """As many as it takes for one to fit in memory, as long as no component is larger."""
        return parts_for(count_records(_runs(job), CANDIDATE), most=self._partition)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Compare the candidates of one range of components."""
        import numpy as np

        wanted = key_range(task, self.tasks(job))
        parts = [records for path in _runs(job) for records in slices(path, CANDIDATE, wanted)]
        candidates = _Candidates.ranked(job, np.concatenate([np.empty(0, dtype=CANDIDATE), *parts]))
        del parts
        greedy = _Greedy(candidates, ShingleSets(job, self._settings.ngram), self._settings)
        found = np.array(greedy.duplicates(), dtype=NEAR)
        with job.publishing(result_path(job, task)) as file:
            file.write(np.sort(found, order="document").tobytes())
        return {
            "candidates": len(candidates.documents),
            "comparisons": greedy.comparisons,
            "not_compared": greedy.not_compared,
            "duplicates": len(found),
        }


def result_path(job: Job, task: int) -> Path:
    """The result of one task of `NearMatch`."""
    return job.path(VERIFIED, task).with_suffix(".duplicates")


def results(job: Job) -> list[Path]:
    """The results of all tasks of `NearMatch`, in order."""
    return sorted(job.folder(VERIFIED).glob("*.duplicates"))


def _runs(job: Job) -> list[Path]:
    return [component_run(job, task) for task in range(len(list(job.folder(SORTED).glob("*.run"))))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Documents by component and rank, and the groups that they are in."""

    documents: np.ndarray
    """Keys, in the order in which they are taken."""
    first: np.ndarray
    """For each document the place of its first membership, and the end."""
    groups: np.ndarray
    """The number of the group of each membership, in the order of documents."""
    slots: np.ndarray
    """For each group the place of its first slot, and the end: a slot for each member."""

    @staticmethod
    def ranked(job: Job, records: np.ndarray) -> _Candidates:
        """Sort `CANDIDATE` records."""
        import numpy as np

        _, groups = np.unique(records["group"], return_inverse=True)
        documents, at, members = np.unique(records["document"], return_index=True, return_inverse=True)
        characters, digests = _rank_fields(job, documents)
        component = records["key"][at]
        order = np.lexsort((digests[:, 1], digests[:, 0], ~characters, component))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        members = place[members]
        by_document = np.argsort(members, kind="stable")
        return _Candidates(
            documents=documents[order],
            first=_ends(members, len(documents)),
            groups=groups[by_document].astype(np.uint32),
            slots=_ends(groups, int(groups.max(initial=-1)) + 1),
        )


def _ends(numbers: np.ndarray, count: int) -> np.ndarray:
    """Where the entries of each number begin once they are sorted, and the end."""
    import numpy as np

    return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))])


def _rank_fields(job: Job, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Characters and digests (as two big-endian numbers) of documents, whose keys are sorted."""
    import numpy as np

    characters = np.empty(len(documents), dtype=np.uint64)
    digests = np.empty((len(documents), 2), dtype=np.uint64)
    units = documents >> np.uint64(32)
    for unit in np.unique(units):
        first, last = np.searchsorted(units, unit, side="left"), np.searchsorted(units, unit, side="right")
        rows = job.kept(int(unit)).rows[(documents[first:last] & np.uint64(0xFFFFFFFF)).astype(np.int64)]
        characters[first:last] = rows["characters"]
        digests[first:last] = np.ascontiguousarray(rows["digest"]).view(">u8").reshape(-1, 2)
    return characters, digests


@final
class _Greedy:
    """Takes candidates by rank and keeps or drops each."""

    __slots__ = ("_candidates", "_filled", "_kept", "_limit", "_sets", "_threshold", "comparisons", "not_compared")

    def __init__(self, candidates: _Candidates, sets: ShingleSets, settings: NearSettings) -> None:
        import numpy as np

        self._candidates = candidates
        self._sets = sets
        self._threshold = settings.threshold
        self._limit = settings.keepers
        self._filled = np.zeros(max(0, len(candidates.slots) - 1), dtype=np.int64)
        self._kept = np.empty(len(candidates.groups), dtype=np.uint32)
        self.comparisons = 0
        self.not_compared = 0

    def duplicates(self) -> list[tuple[int, int, float]]:
        """The duplicate, its keeper and their similarity, for every duplicate."""
        import numpy as np

        found: list[tuple[int, int, float]] = []
        documents, first = self._candidates.documents, self._candidates.first
        for place, document in enumerate(documents.tolist()):
            groups = self._candidates.groups[first[place] : first[place + 1]]
            starts, filled = self._candidates.slots[groups], self._filled[groups]
            seen = np.minimum(filled, self._limit)
            self.not_compared += int((filled - seen).sum())
            keepers = sorted(
                {
                    keeper
                    for start, end in zip(starts.tolist(), (starts + seen).tolist(), strict=True)
                    if end > start
                    for keeper in self._kept[start:end].tolist()
                }
            )
            best = self._most_similar(document, keepers)
            if best is None:
                self._kept[(starts + filled)[filled < self._limit]] = place
                self._filled[groups] += 1
            else:
                found.append((document, int(documents[best[0]]), best[1]))
        return found

    def _most_similar(self, document: int, keepers: list[int]) -> tuple[int, float] | None:
        """Of kept documents by rank, the most similar one that is similar enough."""
        best: tuple[int, float] | None = None
        least = self._threshold
        own = self._sets.of(document) if keepers else None
        for place in keepers:
            assert own is not None
            keeper = int(self._candidates.documents[place])
            # Sets of very different size cannot be alike: this leaves nothing out.
            sizes = sorted((len(own), self._sets.size(keeper)))
            bound = sizes[0] / sizes[1]
            if bound < least or (best is not None and bound <= best[1]):
                continue
            self.comparisons += 1
            similarity = self._sets.similarity(own, keeper)
            if similarity >= least and (best is None or similarity > best[1]):
                best, least = (place, similarity), similarity
        return best
