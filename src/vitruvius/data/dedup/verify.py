"""Near duplicates among candidates: exact Jaccard, and one keeper whatever the order of the documents.

Documents are taken by rank: the longer text (in characters) first; of equal length the one with the smaller SHA-256 of
its text. Each is compared with those kept so far that share the hash of a band with it, and is dropped if and only if
the similarity with one of them reaches the threshold; it names the most similar, of equally similar ones the first by
rank. So the result depends on the texts alone, nobody is dropped for the sake of someone who is dropped, and k copies
of one text cost k comparisons.

Where a hash is shared by very many, as with boilerplate, only the first `NearSettings.keepers` kept documents of its
group are compared, which bounds the comparisons of a document by `bands * keepers`. More are kept then, never fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.candidates import Candidates
from vitruvius.data.dedup.components import CANDIDATE, component_runs
from vitruvius.data.dedup.runs import count_records, key_range, parts_for
from vitruvius.data.dedup.sets import ShingleSets
from vitruvius.data.dedup.shingles import jaccard
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
        return parts_for(count_records(component_runs(job), CANDIDATE), most=self._partition)

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Compare the candidates of one range of components."""
        import numpy as np

        wanted = key_range(task, self.tasks(job))
        candidates = Candidates.ranked(job, wanted, keepers=self._settings.keepers)
        with ShingleSets(job, self._settings.ngram) as sets:
            greedy = _Greedy(candidates, sets, self._settings)
            found = greedy.duplicates()
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


@final
class _Greedy:
    """Takes candidates by rank and keeps or drops each."""

    __slots__ = ("_candidates", "_filled", "_kept", "_sets", "_threshold", "comparisons", "not_compared")

    def __init__(self, candidates: Candidates, sets: ShingleSets, settings: NearSettings) -> None:
        import numpy as np

        self._candidates = candidates
        self._sets = sets
        self._threshold = settings.threshold
        self._filled = np.zeros(max(0, len(candidates.slots) - 1), dtype=np.uint32)
        self._kept = np.empty(int(candidates.slots[-1]), dtype=np.uint32)
        self.comparisons = 0
        self.not_compared = 0

    def duplicates(self) -> np.ndarray:
        """A `NEAR` record for every duplicate."""
        import numpy as np

        documents = self._candidates.documents
        found = np.empty(len(documents), dtype=NEAR)
        count = 0
        for place in range(len(documents)):
            document = int(documents[place])
            groups = self._candidates.groups_of(place)
            starts, ends = self._candidates.slots[groups], self._candidates.slots[groups + 1]
            filled = self._filled[groups]
            places = starts + filled
            seen = np.minimum(places, ends)
            self.not_compared += int((places - seen).sum())
            keepers: set[int] = set()
            for start, end in zip(starts.tolist(), seen.tolist(), strict=True):
                if end > start:
                    keepers.update(self._kept[start:end].tolist())
            best = self._most_similar(document, sorted(keepers))
            if best is None:
                self._kept[places[places < ends]] = place
                self._filled[groups] += np.uint32(1)
            else:
                found[count] = (document, documents[best[0]], best[1])
                count += 1
        return found[:count]

    def _most_similar(self, document: int, keepers: list[int]) -> tuple[int, float] | None:
        """Of kept documents by rank, the most similar one that is similar enough."""
        best: tuple[int, float] | None = None
        least = self._threshold
        own = self._sets.of(document) if keepers else None
        for place in keepers:
            assert own is not None
            other = self._sets.hold(int(self._candidates.documents[place]))
            # Sets of very different size cannot be alike: this leaves nothing out.
            bound = min(len(own), len(other)) / max(len(own), len(other))
            if bound < least or (best is not None and bound <= best[1]):
                continue
            self.comparisons += 1
            similarity = jaccard(own, other)
            if similarity >= least and (best is None or similarity > best[1]):
                best, least = (place, similarity), similarity
        return best
