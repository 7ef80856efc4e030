"""The split: which hash of a text holds it out, decided when it is known which documents stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from vitruvius.data.dedup.dropped import Dropped
from vitruvius.data.job.kept import HASH_RANGE
from vitruvius.data.job.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from vitruvius.data.job.job import Job

_BIN_BITS = 16


@final
class SplitStage(Stage):
    """One task, which reads the hashes of all documents and no text."""

    __slots__ = ()
    name = "split"
    verb = "splitting"

    def tasks(self, job: Job) -> int:
        """One."""
        del job
        return 1

    def run(self, job: Job, task: int) -> dict[str, Any]:
        """Find the threshold, and count what is left."""
        del task
        documents = text_bytes = 0

        def places() -> Iterable[np.ndarray]:
            nonlocal documents, text_bytes
            for unit in range(len(job.units)):
                rows = staying_rows(job, unit)
                documents += len(rows)
                text_bytes += int(rows["bytes"].sum(dtype="u8"))
                yield rows["place"]

        threshold = held_out_below(places(), job.options.held_out)
        return {"held_out_below": threshold, "documents": documents, "text_bytes": text_bytes}


def staying_rows(job: Job, unit: int) -> np.ndarray:
    """The rows of a unit's documents that are no duplicates."""
    import numpy as np

    rows = job.kept(unit).rows
    gone = list(Dropped.of_unit(job, unit))
    return np.delete(rows, gone) if gone else rows


def held_out_below(places: Iterable[np.ndarray], fraction: float) -> int:
    """Documents whose place is below this number are held out.

    They are `fraction` of the documents, to within one bin of 65,536 (exact for small corpora), at
    least one on each side as long as two documents differ, and none for a fraction of 0.
    """
    import numpy as np

    bins = np.zeros(2**_BIN_BITS, dtype=np.int64)
    lowest, highest = HASH_RANGE, -1
    for some in places:
        if len(some):
            bins += np.bincount((some >> np.uint64(64 - _BIN_BITS)).astype(np.int64), minlength=2**_BIN_BITS)
            lowest, highest = min(lowest, int(some.min())), max(highest, int(some.max()))
    if fraction == 0 or lowest >= highest:
        return 0
    wanted = round(fraction * int(bins.sum()))
    below = int(np.searchsorted(np.cumsum(bins), wanted, side="right"))
    return min(max(below << (64 - _BIN_BITS), lowest + 1), highest)
