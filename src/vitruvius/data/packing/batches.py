"""The batches of a run: a function of the seed and the step and nothing else, so resuming needs only the step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from vitruvius.data.packing.shuffle import shuffled
from vitruvius.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from vitruvius.data.packing.shards import TokenShards

Order = Literal["shuffled", "in-order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step reads. B samples of T tokens."""

    inputs: np.ndarray
    """Tokens, int64 [B, T]."""
    targets: np.ndarray
    """The token after each input, int64 [B, T]."""
    documents: np.ndarray
    """Which document of the stream each input belongs to, int64 [B, T]; a separator belongs to the one it ends."""
    crosses: np.ndarray
    """Whether the target belongs to the next document (the input is a separator), bool [B, T]."""
    sample_ids: np.ndarray
    """Which window of the stream each sample is, int64 [B]."""
    epochs: np.ndarray
    """In which pass over the data each sample is, int64 [B]."""

    @property
    def sample_digest(self) -> str:
        """16 hexadecimal digits of SHA-256 over epochs and sample ids: equal streams have equal digests."""
        digest = hashlib.sha256(self.epochs.astype("<i8").tobytes() + self.sample_ids.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


@final
class PackedBatches:
    """Windows of the token stream, each once per epoch.

    Window i reads tokens iT to iT + T, both ends included: T inputs, and the target of the last. The
    stream's last incomplete window is left out. An epoch may end in the middle of a batch.
    """

    __slots__ = ("batch", "context", "order", "seed", "shards", "windows")

    def __init__(
        self, shards: TokenShards, *, batch: int, context: int, seed: int = 0, order: Order = "shuffled"
    ) -> None:
        """Cut `shards` into windows of `context` tokens, `batch` of them per step.

        Raises:
            UsageError: `batch` or `context` is below 1.
            DataError: the data is shorter than one window.
        """
        for name, value in (("--batch", batch), ("--context", context)):
            if value < 1:
                raise UsageError(f"{value} is below 1", where=name, fix="use a whole number from 1 on")
        self.shards = shards
        self.batch = batch
        self.context = context
        self.seed = seed
        self.order: Order = order
        self.windows = max(0, shards.tokens - 1) // context
        """Samples per epoch."""
        if self.windows == 0:
            raise DataError(
                f"the {shards.split} split has {shards.tokens:,} tokens; one window of context {context:,} needs "
                f"{context + 1:,}",
                where=str(shards.directory),
                fix=f"use a --context of at most {max(1, shards.tokens - 1):,}, or prepare more text",
            )

    def at(self, step: int) -> Batch:
        """The batch of `step`, counted from 0; the same for every call and in any order of calls."""
        import numpy as np

        assert step >= 0
        first = step * self.batch
        samples = np.arange(first, first + self.batch, dtype=np.int64)
        return self._read(samples // self.windows, samples % self.windows)

    def once(self) -> Iterator[Batch]:
        """Every window once, as in epoch 0; the last batch may be smaller. For validation."""
        import numpy as np

        for first in range(0, self.windows, self.batch):
            positions = np.arange(first, min(first + self.batch, self.windows), dtype=np.int64)
            yield self._read(np.zeros_like(positions), positions)

    def _read(self, epochs: np.ndarray, positions: np.ndarray) -> Batch:
        import numpy as np

        windows = positions.copy()
        if self.order == "shuffled":
            # A batch touches one epoch, or two where one ends; more only when it is larger than an epoch.
            for epoch in np.unique(epochs):
                here = epochs == epoch
                windows[here] = shuffled(positions[here], self.windows, seed=self.seed, epoch=int(epoch))
        starts = windows * self.context
        tokens = np.stack([self.shards.read(int(start), int(start) + self.context + 1) for start in starts])
        places = starts[:, None] + np.arange(self.context + 1, dtype=np.int64)
        documents = np.searchsorted(self.shards.document_starts, places, side="right") - 1
        return Batch(
            inputs=tokens[:, :-1],
            targets=tokens[:, 1:],
            documents=documents[:, :-1],
            crosses=documents[:, 1:] != documents[:, :-1],
            sample_ids=windows,
            epochs=epochs,
        )
