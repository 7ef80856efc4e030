"""What the loop takes batches from: read when they are due, or ahead by workers, always in order and the same."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, cast, final

from vitruvius.errors import VitruviusError
from vitruvius.training.loading.processes import ProcessWorkers
from vitruvius.training.loading.reading import Reader
from vitruvius.training.loading.recipe import pipeline_of, recipe_of
from vitruvius.training.loading.shares import SharedBatch
from vitruvius.training.loading.threads import ThreadWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vitruvius.data import Batch, PackedBatches, TokenShards
    from vitruvius.training.config import TrainConfig


class Workers(Protocol):
    """Who reads ahead."""

    def ask(self, number: int) -> None:
        """Have a batch read."""
        ...

    def take(self, number: int) -> Batch:
        """Wait for a batch that was asked for."""
        ...

    def drop(self) -> None:
        """Forget everything that was asked for."""
        ...

    def close(self) -> None:
        """End."""
        ...


@final
class BatchLoader:
    """The batches of a run by number, as `PackedBatches.at` has them, after the hooks.

    Any number may be asked for at any time: batches that were read ahead for another way on are dropped. Workers start
    with the first batch and end with `close`.
    """

    def __init__(
        self,
        batches: PackedBatches,
        config: TrainConfig,
        *,
        vocab_size: int,
        only: Sequence[int] | None = None,
    ) -> None:
        """Find the hooks; start nothing.

        vocab_size: the architecture's. only: places in the batch of the samples that this process computes, where that
        is not all of them. Raises as `find_hooks`.
        """
        self.batches = batches
        self.settings = config.loader
        self.only = None if only is None else list(only)
        self.until = config.steps
        """Nothing is read ahead from this batch on."""
        self.recipe = recipe_of(batches, config.preprocess, vocab_size=vocab_size)
        self.reader = Reader(batches, pipeline_of(config.preprocess, batches, vocab_size=vocab_size))
        self.step: Callable[[], int] | None = None
        """The step that is at hand, for messages."""
        self._workers: Workers | None = None
        self._asked: deque[int] = deque()

    @property
    def shards(self) -> TokenShards:
        """The data."""
        return self.batches.shards

    def at(self, number: int) -> Batch:
        """Batch `number`, counted from 0.

        Raises:
            DataError: a shard is damaged there; names file and byte offset.
            RunError: a hook has failed, or a worker has died or hangs; names step, worker, sample, file and offset.
        """
        try:
            mine = self._ahead(number) if self.settings.workers else self.reader.read(number, self.only)
        except VitruviusError as error:
            raise type(error)(error.what, where=self._named(number, error.where), fix=error.fix) from None
        if self.only is None:
            return mine
        # As a batch in everything that is asked of one; FollowedRun does the same for a run folder.
        return cast("Batch", SharedBatch(self.reader, number, mine, self.only))

    def share(self, places: Sequence[int]) -> None:
        """From here on this process computes the samples at these places; what was read ahead is dropped."""
        self.close()
        self.only = list(places)

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
            self._asked.clear()

    def _ahead(self, number: int) -> Batch:
        if self._workers is None:
            self._workers = self._started()
        if not self._asked or self._asked[0] != number:
            self._workers.drop()
            self._asked.clear()
            self._ask(number)
        self._fill()
        batch = self._workers.take(number)
        self._asked.popleft()
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._asked) < self.settings.ahead:
            following = self._asked[-1] + 1 if self._asked else self._last + 1
            if following >= self.until:
                return
            self._ask(following)

    def _ask(self, number: int) -> None:
        assert self._workers is not None
        self._workers.ask(number)
        self._asked.append(number)
        self._last = number

    def _started(self) -> Workers:
        settings = self.settings
        if self.kind == "threads":
            return ThreadWorkers(self.reader, workers=settings.workers, timeout=settings.timeout, only=self.only)
        return ProcessWorkers(
            self.reader,
            self.recipe,
            workers=settings.workers,
            ahead=settings.ahead,
            timeout=settings.timeout,
            only=self.only,
        )

    @property
    def kind(self) -> str:
        """What workers are: `threads` or `processes`."""
        if self.settings.by != "auto":
            return self.settings.by
        return "processes" if self.reader.hooks.hooks else "threads"

    def _named(self, number: int, where: str) -> str:
        at = f"batch {number:,}" if self.step is None else f"step {self.step():,}, batch {number:,}"
        return f"{at}: {where}" if where else at
