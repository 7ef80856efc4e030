"""The end of the search: which documents are duplicates, and of which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from vitruvius.data.dedup.components import Labels
from vitruvius.data.dedup.exact import between, exact_duplicates, of_unit
from vitruvius.data.dedup.runs import part_of
from vitruvius.data.dedup.verify import NEAR, results
from vitruvius.data.mapped import mapped

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vitruvius.data.job.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Why a document is dropped."""

    kind: Literal["exact", "near"]
    """`exact`: the keeper has the same text."""
    keeper_key: int
    """Key of the document that stays for it; it is itself no duplicate."""
    jaccard: float
    """Exact Jaccard similarity of their shingles; 1 for an exact duplicate."""

    @property
    def reason(self) -> str:
        """As counts and quarantine name it."""
        return f"{self.kind}_duplicate"


@final
class Dropped(Mapping[int, Duplicate]):
    """The duplicates among the kept documents of a unit, by row, in the order of rows.

    A copy of a text that is itself a near duplicate of another is a near duplicate of that one too, exactly as similar;
    so it is counted as one, and every keeper that is named is in the output.
    """

    __slots__ = ("_by_row",)

    def __init__(self, by_row: Mapping[int, Duplicate]) -> None:
        self._by_row = dict(sorted(by_row.items()))

    @classmethod
    def of_unit(cls, job: Job, unit: int) -> Dropped:
        """What the stages of `vitruvius.data.dedup.stages` found in a unit; nothing where none ran."""
        near = results(job)
        found: dict[int, Duplicate] = {}
        exact = exact_duplicates(job, unit)
        fates = _fates(job, near, exact["keeper"]) if near and len(exact) else {}
        for document, keeper in exact.tolist():
            fate = fates.get(keeper)
            found[document & 0xFFFFFFFF] = fate or Duplicate(kind="exact", keeper_key=keeper, jaccard=1.0)
        for path in near:
            for document, keeper, jaccard in of_unit(mapped(path, NEAR), unit).tolist():
                found[document & 0xFFFFFFFF] = Duplicate(kind="near", keeper_key=keeper, jaccard=jaccard)
        return cls(found)

    def __getitem__(self, row: int) -> Duplicate:
        return self._by_row[row]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_row)

    def __len__(self) -> int:
        return len(self._by_row)


def _fates(job: Job, near: list[Path], documents: np.ndarray) -> dict[int, Duplicate]:
    """Those of `documents` that are near duplicates of others."""
    import numpy as np

    labels = Labels(job)
    wanted = np.unique(documents)
    found: dict[int, Duplicate] = {}
    for document, component in zip(wanted.tolist(), labels.hashes(wanted).tolist(), strict=True):
        records = mapped(near[part_of(component, len(near))], NEAR)
        first, last = between(records["document"], document, document + 1)
        if last > first:
            _, keeper, jaccard = records[first].item()
            found[document] = Duplicate(kind="near", keeper_key=keeper, jaccard=jaccard)
    return found
