"""The samples of one source: windows over its stream, or what a plan puts together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from vitruvius.data.packing.pairs import pair_samples
from vitruvius.data.packing.plans import Packing, PlannedPacking, plan_samples, stream_efficiency
from vitruvius.data.packing.rows import Rows, decompose
from vitruvius.data.packing.sample import Blank, Sample, Stretch

if TYPE_CHECKING:
    from vitruvius.data.packing.efficiency import Efficiency
    from vitruvius.data.packing.pairs import PairLimits
    from vitruvius.data.packing.stream import TokenStream


class Samples(Protocol):
    """Samples by number, each for itself."""

    stream: TokenStream
    """What they are made of."""
    count: int
    """Samples per epoch."""
    row: int
    """Tokens of each of the rows that a sample is made of; divides the context."""

    def read(self, number: int) -> Sample:
        """The sample with this number, below `count`."""
        ...

    def stretches(self, number: int) -> list[Stretch]:
        """What it is made of, without reading it; what they leave of the sample is padding."""
        ...

    def efficiency(self) -> Efficiency:
        """What becomes of the source's tokens."""
        ...


@final
class Windows:
    """Windows over the concatenated stream: window i reads tokens iT to iT + T, both ends included.

    T inputs, and the target of the last. The stream's last incomplete window is left out.
    """

    __slots__ = ("context", "count", "row", "stream")

    def __init__(self, stream: TokenStream, context: int) -> None:
        self.stream = stream
        self.context = self.row = context
        self.count = max(0, stream.tokens - 1) // context

    def read(self, number: int) -> Sample:
        """The window with this number."""
        start = number * self.context
        tokens = self.stream.read(start, start + self.context + 1)
        documents = self.stream.documents_at(start, start + self.context + 1)
        return Sample(
            inputs=tokens[:-1],
            targets=tokens[1:],
            documents=documents[:-1],
            crosses=documents[1:] != documents[:-1],
        )

    def stretches(self, number: int) -> list[Stretch]:
        """The window."""
        return [Stretch(start=number * self.context, length=self.context)]

    def efficiency(self) -> Efficiency:
        """Nothing is padded; documents are cut wherever a window ends."""
        return stream_efficiency(self.stream, self.context)


@final
class Packs:
    """Samples that a plan put together from whole documents and pieces of those longer than the context.

    The target after a document's separator is the first token of the next one, as in windows; where no document begins
    there, it is none. The rest of a sample is padding.
    """

    __slots__ = ("_blank", "count", "plan", "row", "stream")

    def __init__(self, stream: TokenStream, context: int, *, packing: PlannedPacking, eos_id: int) -> None:
        self.stream = stream
        self.row = context
        self._blank = Blank(context=context, eos_id=eos_id)
        self.plan = plan_samples(stream, packing, context)
        self.count = self.plan.samples

    def read(self, number: int) -> Sample:
        """The sample with this number."""
        sample = self._blank.sample()
        place = 0
        for stretch in range(int(self.plan.bins[number]), int(self.plan.bins[number + 1])):
            start, length = int(self.plan.starts[stretch]), int(self.plan.lengths[stretch])
            first = sample.put(self.stream, place, start, length)
            if place and first is not None:
                sample.targets[place - 1], sample.crosses[place - 1] = first, True
            place += length
        return sample

    def stretches(self, number: int) -> list[Stretch]:
        """The documents, or pieces of them, in it."""
        inside = range(int(self.plan.bins[number]), int(self.plan.bins[number + 1]))
        return [Stretch(start=int(self.plan.starts[one]), length=int(self.plan.lengths[one])) for one in inside]

    def efficiency(self) -> Efficiency:
        """What the plan came to."""
        return self.plan.efficiency


def samples_of(
    stream: TokenStream, context: int, *, packing: Packing, eos_id: int, pairs: PairLimits | None = None
) -> list[Samples]:
    """The samples that a packing makes of a stream: one part, or one for each length of rows.

    pairs: the limits of `packing="pairs"`.
    """
    if packing == "pairs":
        assert pairs is not None
        return [*pair_samples(stream, pairs, eos_id=eos_id)]
    if packing == "stream":
        return [Windows(stream, context)]
    if packing == "by-length":
        found = decompose(stream, context)
        return [Rows(stream, context, row=row, eos_id=eos_id, decomposition=found) for row in found.rows]
    return [Packs(stream, context, packing=packing, eos_id=eos_id)]
