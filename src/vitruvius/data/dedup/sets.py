"""Shingle sets of documents of a job, kept while they are needed and there is room."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, final

from vitruvius.data.dedup.shingles import shingles
from vitruvius.data.job.kept import unit_and_row

if TYPE_CHECKING:
    from typing import BinaryIO

    import numpy as np

    from vitruvius.data.job.job import Job

_HELD_BYTES = 48 * 2**20
_OPEN_UNITS = 32


@final
class ShingleSets:
    """The sets of documents, computed from their texts and held up to a number of bytes; a context manager."""

    __slots__ = ("_held", "_held_bytes", "_job", "_limit", "_ngram", "_units")

    def __init__(self, job: Job, ngram: int, *, held_bytes: int = _HELD_BYTES) -> None:
        self._job = job
        self._ngram = ngram
        self._limit = held_bytes
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held_bytes = 0
        self._units: OrderedDict[int, tuple[np.ndarray, BinaryIO]] = OrderedDict()

    def __enter__(self) -> ShingleSets:
        return self

    def __exit__(self, *_: object) -> None:
        while self._units:
            self._units.popitem()[1][1].close()

    def of(self, document: int) -> np.ndarray:
        """The shingles of the document with this key, sorted."""
        if document in self._held:
            self._held.move_to_end(document)
            return self._held[document]
        unit, row = unit_and_row(document)
        return shingles(self._text(unit, row), ngram=self._ngram)

    def hold(self, document: int) -> np.ndarray:
        """The same, held for later as long as there is room: for documents that others are compared with."""
        found = self.of(document)
        if document not in self._held:
            self._held[document] = found
            self._held_bytes += found.nbytes
            while self._held_bytes > self._limit and len(self._held) > 1:
                self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return found

    def _text(self, unit: int, row: int) -> str:
        """A text, read rather than mapped: mapped pages that were touched count as memory of the process."""
        rows, file = self._unit(unit)
        file.seek(int(rows["offset"][row]))
        return file.read(int(rows["bytes"][row])).decode()

    def _unit(self, unit: int) -> tuple[np.ndarray, BinaryIO]:
        """The rows of a unit and its texts, left open for some units."""
        if unit in self._units:
            self._units.move_to_end(unit)
        else:
            kept = self._job.kept(unit)
            self._units[unit] = kept.rows, kept.path.with_suffix(".texts").open("rb")
            if len(self._units) > _OPEN_UNITS:
                self._units.popitem(last=False)[1][1].close()
        return self._units[unit]
