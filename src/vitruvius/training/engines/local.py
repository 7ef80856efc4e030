"""One process by itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, final

from vitruvius.training.engines.base import Engine
from vitruvius.training.launch import Launch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.settings import EngineSettings
    from vitruvius.training.stopping import StopRequest


@final
class LocalEngine(Engine):
    """The only process: everything is here already."""

    def __init__(self, launch: Launch | None = None) -> None:
        super().__init__(launch or Launch())

    @classmethod
    @contextlib.contextmanager
    def joined(cls, launch: Launch, settings: EngineSettings, device: str) -> Generator[LocalEngine]:
        """The engine; there is nothing to join."""
        del settings, device
        yield cls(launch)

    def total(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """The value, alone."""
        return [value]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What `make` gives."""
        return make()

    def anywhere(self, *, here: bool) -> bool:
        """Whether it is so here."""
        return here

    def reduce(self, optimizer: MasterOptimizer) -> None:
        """Nothing: the gradients are those of the whole batch."""

    def barrier(self) -> None:
        """Nothing to wait for."""

    def agreed(self, stop: StopRequest) -> StopRequest:
        """The request itself."""
        return stop

    def agree_to_stop(self, stop: StopRequest) -> bool:
        """Whether it was asked to."""
        return stop.asked

    def draw(self, seed: int, number: int) -> None:
        """Nothing: the random state goes on from update to update, and stands in the checkpoint."""

    def ensure_alike(self, value: Callable[[], str], *, what: str, fix: str) -> None:
        """It is, and is not computed."""
