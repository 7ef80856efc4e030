"""Rows of one document each, of equal length within a batch (Pouransari et al., "Dataset Decomposition", 2024).

A document is cut into pieces of T, T/2, T/4, ... tokens, longest first, as the binary form of its length says; its
rest, shorter than the shortest row, is padded. A sample is T tokens: one row of T, or two of T/2, and so on. No row
holds two documents, so attention needs no mask, and most rows are as short as the documents are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from vitruvius.data.packing.efficiency import Efficiency, pairs_within
from vitruvius.data.packing.growing import Growing
from vitruvius.data.packing.plans import document_groups
from vitruvius.data.packing.sample import Blank, Sample, Stretch
from vitruvius.data.packing.shuffle import shuffled

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.stream import TokenStream

SHORTEST_ROW = 32
"""No row is shorter, but where the context itself is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """The rows of one length."""

    starts: np.ndarray
    """Where each row starts in the stream, int64."""
    lengths: np.ndarray
    """How many tokens it has, int64; only the shortest rows have fewer than their length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """A stream in rows."""

    rows: dict[int, RowPlan]
    """By length, longest first; none of them is empty."""
    documents_cut: int
    """Documents in more than one row, or of which a part is left out."""
    documents_long: int
    """Documents longer than the context."""


def row_lengths(context: int) -> list[int]:
    """The context and its halves, as long as they are whole and not too short."""
    lengths = [context]
    while lengths[-1] % 2 == 0 and lengths[-1] // 2 >= SHORTEST_ROW:
        lengths.append(lengths[-1] // 2)
    return lengths


def decompose(stream: TokenStream, context: int) -> Decomposition:
    """Every document in rows; a separator that would be a row by itself is left out.

    Rows of one length are in an order drawn once, so that a sample does not hold one document's neighbours.
    """
    import numpy as np

    sizes = row_lengths(context)
    grown = {size: (Growing(), Growing()) for size in sizes}
    cut = long = 0
    for number, edges in enumerate(document_groups(stream, sizes[-1])):
        lengths = np.diff(edges)
        pieces = np.zeros(len(lengths), dtype=np.int64)
        place, left = edges[:-1].copy(), lengths.copy()
        for size in sizes:
            count = left // size
            starts = np.repeat(place, count) + size * _within(count)
            if size == 1:
                starts = starts[starts + 1 < np.repeat(edges[1:], count)]
            held = np.full(len(starts), size, dtype=np.int64)
            place, left, pieces = place + size * count, left - size * count, pieces + count
            if size == sizes[-1]:
                rest = left > 1
                starts, held = np.concatenate([starts, place[rest]]), np.concatenate([held, left[rest]])
                # A separator that nothing comes before is no row: its document is then not whole.
                pieces += left > 0
            order = shuffled(np.arange(len(starts)), max(1, len(starts)), seed=0, epoch=number, of=f"rows/{size}")
            for array, part in zip(grown[size], (starts, held), strict=True):
                array.add(part[order])
        cut += int(((pieces > 1) | (lengths == 1)).sum())
        long += int((lengths > context).sum())
    plans = {size: RowPlan(starts=starts.array(), lengths=held.array()) for size, (starts, held) in grown.items()}
    return Decomposition(
        rows={size: plan for size, plan in plans.items() if len(plan.starts)}, documents_cut=cut, documents_long=long
    )


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each count, one after another."""
    import numpy as np

    total = int(counts.sum())
    return np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)


@final
class Rows:
    """Samples of `context` tokens in rows of one length; the last of them may end in padding."""

    __slots__ = ("_blank", "_plan", "_whole", "context", "count", "row", "stream")

    def __init__(
        self, stream: TokenStream, context: int, *, row: int, eos_id: int, decomposition: Decomposition
    ) -> None:
        self.stream = stream
        self.context = context
        self.row = row
        self._blank = Blank(context=context, eos_id=eos_id)
        self._plan = decomposition.rows[row]
        self._whole = decomposition
        self.count = -(-len(self._plan.starts) * row // context)

    def read(self, number: int) -> Sample:
        """The sample with this number."""
        sample = self._blank.sample()
        for place, stretch in enumerate(self.stretches(number)):
            sample.put(self.stream, place * self.row, stretch.start, stretch.length)
        return sample

    def stretches(self, number: int) -> list[Stretch]:
        """Its rows."""
        rows = self.context // self.row
        inside = range(number * rows, min((number + 1) * rows, len(self._plan.starts)))
        return [Stretch(start=int(self._plan.starts[row]), length=int(self._plan.lengths[row])) for row in inside]

    def efficiency(self) -> Efficiency:
        """What becomes of the rows of this length; documents are those of all rows."""
        return Efficiency(
            samples=self.count,
            context=self.context,
            documents=self.stream.documents,
            tokens=self.stream.tokens,
            packed_tokens=int(self._plan.lengths.sum()),
            cut_documents=self._whole.documents_cut,
            long_documents=self._whole.documents_long,
            attended_pairs=pairs_within(self._plan.lengths),
        )
