"""One sample: what is read, what is to be predicted, whose text it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from vitruvius.data.packing.stream import TokenStream

IGNORED = -100
"""A target that counts nothing."""
PADDING = -1
"""The document of a place without a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Tokens of a stream that stand in a sample one after another."""

    start: int
    """The first of them, counted from the stream's first."""
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Four arrays of T."""

    inputs: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    crosses: np.ndarray

    def put(self, stream: TokenStream, place: int, start: int, length: int) -> int | None:
        """Put a stretch of one document at a place; returns its first token if the document starts there."""
        document, opening, end = stream.document_of(start)
        goes_on = start + length < end
        tokens = stream.read(start, start + length + goes_on)
        self.inputs[place : place + length] = tokens[:length]
        self.targets[place : place + len(tokens) - 1] = tokens[1:]
        self.documents[place : place + length] = document
        return int(tokens[0]) if start == opening else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """Makes samples of nothing but padding: the separator as an input, no target, a document of its own."""

    context: int
    eos_id: int

    def sample(self) -> Sample:
        """One of them, to be written into."""
        import numpy as np

        return Sample(
            inputs=np.full(self.context, self.eos_id, dtype=np.int64),
            targets=np.full(self.context, IGNORED, dtype=np.int64),
            documents=np.full(self.context, PADDING, dtype=np.int64),
            crosses=np.zeros(self.context, dtype=bool),
        )
