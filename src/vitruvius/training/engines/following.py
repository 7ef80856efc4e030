"""The run folder as the processes see it that do not write it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, final

from vitruvius.runs import RunFolder, RunReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vitruvius.training.engines.base import Engine


def held(engine: Engine, path: Path | str, hold: Callable[[], RunFolder]) -> RunFolder:
    """The run folder: held, with its lock, by the main process, and only read by the others.

    Raises in the main process what `hold` raises, and RunError in the others.
    """
    folders: list[RunFolder] = []
    engine.on_main(lambda: folders.append(hold()))
    return folders[0] if folders else cast("RunFolder", FollowedRun(Path(path)))


@final
class FollowedRun:
    """A run folder that another process writes: what it holds can be read, and writing is left to that process."""

    __slots__ = ("path", "reader")

    def __init__(self, path: Path) -> None:
        """Raise RunError when the folder cannot be seen from here."""
        self.path = path
        self.reader = RunReader(path)

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def update(self, **fields: Any) -> None:
        """Left to the main process."""

    def finish(self, status: str, **result: Any) -> None:
        """Left to the main process."""

    def resume(self) -> None:
        """Left to the main process."""

    def metric(self, **row: Any) -> None:
        """Left to the main process."""

    def event(self, kind: str, **fields: Any) -> None:
        """Left to the main process."""

    def truncate_metrics(self, *, after_step: int) -> int:
        """Left to the main process."""
        del after_step
        return 0
