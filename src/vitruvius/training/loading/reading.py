"""One batch: drawn, read and preprocessed; a function of its number, whoever calls it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from vitruvius.training.preprocessing.pipeline import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitruvius.data.packing.batches import Batch, Drawn, PackedBatches
    from vitruvius.data.packing.sample import Sample
    from vitruvius.training.preprocessing import Pipeline


class Mark(Protocol):
    """Told how far a reader is, so that somebody else can see where it got stuck."""

    def __call__(self, number: int, place: int) -> None:
        """Sample `place` of batch `number` is about to be read."""
        ...


def unmarked(number: int, place: int) -> None:
    """Tell nobody."""
    del number, place


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlace:
    """Where a sample comes from."""

    sample_id: int
    epoch: int
    source: str
    path: Path
    """The shard that its first token is in."""
    byte: int
    """Where in it."""

    def __str__(self) -> str:
        """In words, for messages."""
        return (
            f"sample {self.sample_id:,} of source {self.source}, epoch {self.epoch} "
            f"({self.path} from byte {self.byte:,} on)"
        )


@final
class Reader:
    """The batches of a run, with its hooks."""

    __slots__ = ("batches", "hooks")

    def __init__(self, batches: PackedBatches, hooks: Pipeline) -> None:
        self.batches = batches
        self.hooks = hooks

    def read(self, number: int, only: Sequence[int] | None = None, mark: Mark = unmarked) -> Batch:
        """Batch `number`, from 0, or some of its samples by their places in it.

        Raises:
            DataError: a shard is damaged there; names the file and the byte offset.
            RunError: a hook has failed; names the hook and the sample.
        """
        drawn = self.batches.drawn(number)
        places = range(len(drawn.numbers)) if only is None else only
        samples: list[Sample] = []
        for place in places:
            mark(number, place)
            sample = self.batches.sample(drawn, place)
            samples.append(self.hooks.apply(sample, self.origin(drawn, place)) if self.hooks.hooks else sample)
        return self.batches.stacked(drawn, samples, places)

    def origin(self, drawn: Drawn, place: int) -> Origin:
        """Which sample stands at a place of a batch."""
        return Origin(
            sample_id=int(drawn.sample_ids[place]),
            epoch=int(drawn.epochs[place]),
            source=self.batches.source(drawn, place),
        )

    def place(self, number: int, place: int) -> SamplePlace:
        """Where a sample of a batch comes from; reads nothing."""
        drawn = self.batches.drawn(number)
        origin = self.origin(drawn, place)
        start = self.batches.stretches(drawn, place)[0].start
        shard, byte = self.batches.stream(drawn, place).locate(start)
        return SamplePlace(
            sample_id=origin.sample_id, epoch=origin.epoch, source=origin.source, path=shard.tokens_path, byte=byte
        )
