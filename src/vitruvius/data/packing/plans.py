"""Which stretches of a stream make a sample: worked out once, for every sample of an epoch.

A document longer than the context is cut into pieces of the context's length and a rest; no other document is cut.
`one-document` makes a sample of each piece. `best-fit` puts pieces together by best-fit-decreasing (Ding et al.,
"Fewer Truncations Improve Language Modeling", 2024), 131,072 pieces at a time, so that memory is bounded;
the plan of a large stream lies in temporary files and is mapped. It follows from the data alone and is never kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from vitruvius.data.packing.efficiency import Efficiency, pairs_within
from vitruvius.data.packing.fitting import best_fit_decreasing
from vitruvius.data.packing.growing import Growing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from vitruvius.data.packing.stream import TokenStream

Packing = Literal["stream", "best-fit", "one-document", "by-length", "pairs"]
PACKINGS: tuple[Packing, ...] = ("stream", "best-fit", "one-document", "by-length")
PlannedPacking: TypeAlias = Literal["best-fit", "one-document"]

GROUP_PIECES = 1 << 17
"""Documents, or pieces of longer ones, that are fitted together. More would hardly fill samples better, and take more
memory: about 100 bytes for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The samples of a stream: sample i is made of the stretches `bins[i]` to `bins[i + 1]`."""

    starts: np.ndarray
    """Where each stretch starts in the stream, int64."""
    lengths: np.ndarray
    """How many tokens it has, int64."""
    bins: np.ndarray
    """Where the stretches of each sample start, and at last their number, int64."""
    efficiency: Efficiency

    @property
    def samples(self) -> int:
        """Samples per epoch."""
        return len(self.bins) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Stretches of some documents, document by document."""

    starts: np.ndarray
    lengths: np.ndarray
    owners: np.ndarray
    """Which of the documents it is of, from 0."""
    opens: np.ndarray
    """Whether it starts its document."""
    goes_on: np.ndarray
    """Whether its document goes on after it."""


def plan_samples(stream: TokenStream, packing: PlannedPacking, context: int) -> Plan:
    """The samples of `context` tokens of a stream; a sample that could ask for nothing is left out.

    Such are samples of one token that ends its document: they hold no token to predict from another.
    """
    import numpy as np

    starts, lengths, bins = Growing(), Growing(), Growing()
    bins.add(np.zeros(1, dtype=np.int64))
    stretches = packed = cut = long = pairs = 0
    for edges in document_groups(stream, context):
        pieces = pieces_of(edges, context)
        order, ends = _useful(pieces, *_BINS[packing](pieces.lengths, context))
        starts.add(pieces.starts[order])
        lengths.add(pieces.lengths[order])
        bins.add(stretches + ends)
        stretches += len(order)
        packed += int(pieces.lengths[order].sum())
        pairs += pairs_within(pieces.lengths[order])
        longer = np.diff(edges) > context
        long += int(longer.sum())
        cut += int((longer | _lacking(pieces, order, len(longer))).sum())
    offsets = bins.array()
    return Plan(
        starts=starts.array(),
        lengths=lengths.array(),
        bins=offsets,
        efficiency=Efficiency(
            samples=len(offsets) - 1,
            context=context,
            documents=stream.documents,
            tokens=stream.tokens,
            packed_tokens=packed,
            cut_documents=cut,
            long_documents=long,
            attended_pairs=pairs,
        ),
    )


def stream_efficiency(stream: TokenStream, context: int) -> Efficiency:
    """What windows over the concatenated stream make of it."""
    import numpy as np

    samples = max(0, stream.tokens - 1) // context
    cut = long = pairs = 0
    for edges in document_groups(stream, context):
        first, last = edges[:-1] // context, (edges[1:] - 1) // context
        long += int((np.diff(edges) > context).sum())
        # What is after the last window is in none: a document that reaches there is cut, one that starts there is not.
        cut += int(((first != last) & (first < samples)).sum())
        begin, end = int(edges[0]), int(edges[-1])
        ends = np.arange(begin // context + 1, (end - 1) // context + 1) * context
        stretches = np.diff(np.minimum(np.union1d(edges, ends), samples * context))
        pairs += pairs_within(stretches)
    return Efficiency(
        samples=samples,
        context=context,
        documents=stream.documents,
        tokens=stream.tokens,
        packed_tokens=samples * context,
        cut_documents=cut,
        long_documents=long,
        attended_pairs=pairs,
    )


def document_groups(stream: TokenStream, context: int) -> Iterator[np.ndarray]:
    """Where documents start and at last where they end, for as many documents as are fitted together."""
    import numpy as np

    first = 0
    while first < stream.documents:
        edges = stream.starts(first, min(first + GROUP_PIECES, stream.documents))
        pieces = np.cumsum(-(-np.diff(edges) // context))
        number = max(1, int(np.searchsorted(pieces, GROUP_PIECES, side="right")))
        yield edges[: number + 1]
        first += number


def _fitted(lengths: np.ndarray, context: int) -> tuple[np.ndarray, int]:
    """The bin of each piece and the number of bins: pieces as long as a sample by themselves, others by best fit."""
    import numpy as np

    bins = np.empty(len(lengths), dtype=np.int64)
    whole, short = np.flatnonzero(lengths == context), np.flatnonzero(lengths < context)
    fitted, number = best_fit_decreasing(lengths[short], context)
    bins[whole] = np.arange(len(whole))
    bins[short] = len(whole) + fitted
    return bins, len(whole) + number


def _alone(lengths: np.ndarray, context: int) -> tuple[np.ndarray, int]:
    """A bin for each piece."""
    import numpy as np

    del context
    return np.arange(len(lengths)), len(lengths)


_BINS: dict[PlannedPacking, Callable[[np.ndarray, int], tuple[np.ndarray, int]]] = {
    "best-fit": _fitted,
    "one-document": _alone,
}


def pieces_of(edges: np.ndarray, context: int) -> Pieces:
    """Each document of a group in pieces of `context` tokens, and its rest."""
    import numpy as np

    lengths = np.diff(edges)
    number = -(-lengths // context)
    owner = np.repeat(np.arange(len(lengths)), number)
    # Which piece of its document each one is, from 0.
    place = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    starts = edges[owner] + place * context
    left = edges[owner + 1] - starts
    return Pieces(
        starts=starts,
        lengths=np.minimum(left, context),
        owners=owner,
        opens=place == 0,
        goes_on=left > context,
    )


def _lacking(pieces: Pieces, order: np.ndarray, documents: int) -> np.ndarray:
    """Which of the documents lack a piece among those in `order`."""
    import numpy as np

    left_out = np.ones(len(pieces.owners), dtype=bool)
    left_out[order] = False
    lacking = np.zeros(documents, dtype=bool)
    lacking[pieces.owners[left_out]] = True
    return lacking


def _useful(pieces: Pieces, bins: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The pieces bin by bin, longest first, and how many there are up to the end of each bin; without useless bins."""
    import numpy as np

    order = np.lexsort((-pieces.lengths, bins))
    sorted_bins = bins[order]
    follows = np.zeros(len(order), dtype=bool)
    follows[1:] = sorted_bins[1:] == sorted_bins[:-1]
    asks = (pieces.lengths[order] > 1) | pieces.goes_on[order] | (follows & pieces.opens[order])
    useful = np.bincount(sorted_bins, weights=asks, minlength=number) > 0
    order = order[useful[sorted_bins]]
    sizes = np.bincount(bins[order], minlength=number)[useful]
    return order, np.cumsum(sizes)
