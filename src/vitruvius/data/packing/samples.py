"""The samples of one source: windows over its stream, or what a plan puts together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from vitruvius.data.packing.plans import Packing, plan_samples, stream_efficiency

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.plans import Efficiency
    from vitruvius.data.packing.stream import TokenStream

IGNORED = -100
"""A target that counts nothing."""
PADDING = -1
"""The document of a place without a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a batch: four arrays of T."""

    inputs: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    crosses: np.ndarray


class Samples(Protocol):
    """Samples by number, each for itself."""

    count: int
    """Samples per epoch."""

    def read(self, number: int) -> Sample:
        """The sample with this number, below `count`."""
        ...

    def efficiency(self) -> Efficiency:
        """What becomes of the source's tokens."""
        ...


@final
class Windows:
    """Windows over the concatenated stream: window i reads tokens iT to iT + T, both ends included.

    T inputs, and the target of the last. The stream's last incomplete window is left out.
    """

    __slots__ = ("context", "count", "stream")

    def __init__(self, stream: TokenStream, context: int) -> None:
        self.stream = stream
        self.context = context
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

    def efficiency(self) -> Efficiency:
        """Nothing is padded; documents are cut wherever a window ends."""
        return stream_efficiency(self.stream, self.context)


@final
class Packs:
    """Samples that a plan put together from whole documents and pieces of those longer than the context.

    The rest of a sample is padding: the separator as an input, no target, a document of its own. The target after a
    document's separator is the first token of the next one, as in windows; where no document begins there, it is none.
    """

    __slots__ = ("context", "count", "eos_id", "plan", "stream")

    def __init__(self, stream: TokenStream, context: int, *, packing: Packing, eos_id: int) -> None:
        assert packing != "stream"
        self.stream = stream
        self.context = context
        self.eos_id = eos_id
        self.plan = plan_samples(stream, packing, context)
        self.count = self.plan.samples

    def read(self, number: int) -> Sample:
        """The sample with this number."""
        import numpy as np

        inputs = np.full(self.context, self.eos_id, dtype=np.int64)
        targets = np.full(self.context, IGNORED, dtype=np.int64)
        documents = np.full(self.context, PADDING, dtype=np.int64)
        crosses = np.zeros(self.context, dtype=bool)
        place = 0
        for stretch in range(int(self.plan.bins[number]), int(self.plan.bins[number + 1])):
            start, length = int(self.plan.starts[stretch]), int(self.plan.lengths[stretch])
            document, opening, end = self.stream.document_of(start)
            goes_on = start + length < end
            tokens = self.stream.read(start, start + length + goes_on)
            inputs[place : place + length] = tokens[:length]
            targets[place : place + len(tokens) - 1] = tokens[1:]
            documents[place : place + length] = document
            if place and start == opening:
                targets[place - 1], crosses[place - 1] = tokens[0], True
            place += length
        return Sample(inputs=inputs, targets=targets, documents=documents, crosses=crosses)

    def efficiency(self) -> Efficiency:
        """What the plan came to."""
        return self.plan.efficiency


def samples_of(stream: TokenStream, context: int, *, packing: Packing, eos_id: int) -> Samples:
    """The samples that a packing makes of a stream."""
    if packing == "stream":
        return Windows(stream, context)
    return Packs(stream, context, packing=packing, eos_id=eos_id)
