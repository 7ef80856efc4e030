"""A batch of which one of several processes has read its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from vitruvius.data.packing.batches import Batch
    from vitruvius.training.loading.reading import Reader


@final
class SharedBatch:
    """As a batch, of which the share is here; the rest is read when somebody asks for an array of it.

    What is said of the whole (ids, digest, padding) needs no reading.
    """

    def __init__(self, reader: Reader, number: int, mine: Batch, places: Sequence[int]) -> None:
        """mine: the samples at these places of the batch."""
        self._reader = reader
        self._number = number
        self._mine = mine
        self._places = list(places)
        self._drawn = reader.batches.drawn(number)
        self._all: Batch | None = None
        self.sample_ids = self._drawn.sample_ids
        self.epochs = self._drawn.epochs

    def take(self, samples: np.ndarray) -> Batch:
        """Some of its samples; those of this process are here already."""
        if samples.tolist() == self._places:
            return self._mine
        return self.whole().take(samples)

    def whole(self) -> Batch:
        """All of it."""
        if self._all is None:
            self._all = self._reader.read(self._number)
        return self._all

    @property
    def sample_digest(self) -> str:
        """That of the whole batch."""
        return self._drawn.sample_digest

    @property
    def context(self) -> int:
        """Tokens per row."""
        return self._mine.context

    @property
    def rows_per_sample(self) -> int:
        """Into how many rows each sample is cut."""
        return self._mine.rows_per_sample

    @property
    def tokens(self) -> int:
        """Inputs of the whole batch that are no padding."""
        batches = self._reader.batches
        return sum(
            stretch.length for place in range(len(self.sample_ids)) for stretch in batches.stretches(self._drawn, place)
        )

    @property
    def padding(self) -> int:
        """Places of the whole batch without a token."""
        return len(self.sample_ids) * self.rows_per_sample * self.context - self.tokens

    @property
    def inputs(self) -> np.ndarray:
        """As in the whole batch."""
        return self.whole().inputs

    @property
    def targets(self) -> np.ndarray:
        """As in the whole batch."""
        return self.whole().targets

    @property
    def documents(self) -> np.ndarray:
        """As in the whole batch."""
        return self.whole().documents

    @property
    def crosses(self) -> np.ndarray:
        """As in the whole batch."""
        return self.whole().crosses
