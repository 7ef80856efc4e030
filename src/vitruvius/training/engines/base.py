"""What the loop asks of an engine: who computes which rows, and how what was computed comes together."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vitruvius.data import Batch
    from vitruvius.training.launch import Launch
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.stopping import StopRequest


class Engine(ABC):
    """The processes that train together, as one of them sees it.

    Every method but `share` and the properties is called by all processes, in the same order: a process that leaves
    one out keeps the others waiting until their timeout.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.launch.rank

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return self.launch.ranks

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder and speaks."""
        return self.launch.is_main

    def share(self, batch: Batch, pieces: int) -> Batch:
        """The samples of a batch that this process computes, in `pieces` slices.

        Slice k of all processes together is slice k of the batch, so that what is gathered over a piece (the load of
        experts) is what a single process gathers. `pieces` times the processes divides the samples.
        """
        if self.ranks == 1:
            return batch
        samples, rows = len(batch.sample_ids), batch.rows_per_sample
        mine = np.arange(samples).reshape(pieces, self.ranks, -1)[:, self.rank].ravel()
        at = (mine[:, None] * rows + np.arange(rows)).ravel()
        return replace(
            batch,
            inputs=batch.inputs[at],
            targets=batch.targets[at],
            documents=batch.documents[at],
            crosses=batch.crosses[at],
            sample_ids=batch.sample_ids[mine],
            epochs=batch.epochs[mine],
        )

    @abstractmethod
    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in fp64; the same on each. All give equally many values."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What every process gave, in their order; JSON data."""

    @abstractmethod
    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` gives in the main process, as JSON data; it is called nowhere else.

        Raises RunError in the other processes when it raises in the main one.
        """

    def on_main(self, work: Callable[[], object]) -> None:
        """Do something in the main process alone, while the others wait. Raises as `from_main`."""

        def done() -> None:
            work()

        self.from_main(done)

    @abstractmethod
    def anywhere(self, *, here: bool) -> bool:
        """Whether it is so in any process."""

    @abstractmethod
    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Put the sum over all processes, in fp32, in the place of the gradients that the optimizer reads."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait for all."""

    @abstractmethod
    def agreed(self, stop: StopRequest) -> StopRequest:
        """A request that is filled in only by `agree_to_stop`, so that it is the same everywhere at any time."""

    @abstractmethod
    def agree_to_stop(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; then all of them are. stop: what `agreed` gave."""

    @abstractmethod
    def draw(self, seed: int, number: int) -> None:
        """Set torch's random state for batch `number` where processes must not draw the same numbers."""

    @abstractmethod
    def ensure_alike(self, value: Callable[[], str], *, what: str, fix: str) -> None:
        """Raise RunError, in all processes, when `value` gives not the same in every one."""

    @contextlib.contextmanager
    def contact(self) -> Generator[None]:
        """Raise RunError in the place of what torch raises when another process is gone or silent."""
        yield
