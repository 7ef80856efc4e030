"""When checkpoints are written: while the run waits, or from a copy, behind the updates that follow."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, final

from vitruvius.runs.available import available_memory
from vitruvius.runs.checkpoints import require_room
from vitruvius.training.checkpoint import SLACK, copied, size_of, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitruvius.runs import Checkpoint, RunFolder
    from vitruvius.runs.retention import Retention
    from vitruvius.training.checkpoint import Contents
    from vitruvius.training.engines import Engine


@final
class Saver:
    """Writes the checkpoints of a run, one after another. Every method is called by all processes of an engine.

    An error in writing is raised in the call that finds out: `start` where the run waits, else the next `look` or
    `wait`. Older checkpoints are intact then.
    """

    def __init__(
        self, run: RunFolder, *, engine: Engine, retention: Retention, how: Literal["wait", "behind"] = "wait"
    ) -> None:
        self.run = run
        self.engine = engine
        self.retention = retention
        self.how = how
        self.saved: Callable[[Checkpoint], None] = lambda _checkpoint: None
        """Told, in the thread of the run, about each checkpoint that was written and verified."""
        self.note: Callable[[str], None] = lambda _text: None
        """Told what is worth knowing."""
        self._is_pending = False
        self._thread: _Writing | None = None
        self._copy: dict[str, Tensor] = {}
        self._has_said_why = False

    def start(self, gather: Callable[[], Contents]) -> None:
        """Save what `gather` gives; one that is being written is waited for first.

        Raises RunError with bytes needed and free when it does not fit.
        """
        self.wait()
        self._is_pending = True
        contents = gather()
        self.engine.with_whole(contents.files, lambda files: self._start(replace(contents, files=files)))
        if self.how == "wait":
            self.wait()

    def look(self) -> None:
        """Between two updates: finds out whether writing is done, or has failed."""
        if self._is_pending and self.engine.from_main(self._is_done):
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint that is being written is on the disk and verified, if there is one."""
        if self._is_pending:
            self._is_pending = False
            self.engine.on_main(self._end)

    def close(self) -> None:
        """After an error elsewhere: let a checkpoint that is being written come to its end, whatever that is."""
        if self._thread is not None:
            with contextlib.suppress(Exception):
                self._end()

    def _start(self, contents: Contents) -> None:
        if self.how == "behind" and self._has_room_for(contents):
            # Said at once and not by the thread: a disk that is too full is found out where it always was.
            require_room(self.run.path / "checkpoints", size_of(contents) + SLACK)
            contents = copied(contents, self._copy)
            self._thread = _Writing(lambda: write(self.run, contents, retention=self.retention))
            self._thread.start()
        else:
            self.saved(write(self.run, contents, retention=self.retention))

    def _has_room_for(self, contents: Contents) -> bool:
        """Whether memory holds a copy; where it does not, the run waits for this checkpoint, which needs none."""
        if self._copy:
            return True
        free, needed = available_memory(), size_of(contents)
        if free is None or free.size >= needed + SLACK:
            return True
        if not self._has_said_why:
            self._has_said_why = True
            self.note(
                f"a copy of the state takes {needed:,} bytes, and {free.size:,} are left ({free.limit}): "
                "training waits while checkpoints are written"
            )
        return False

    def _is_done(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self.saved(thread.result())


@final
class _Writing(threading.Thread):
    """A thread that writes one checkpoint.

    A daemon: a second Ctrl-C leaves at once, and what is half written then is a leftover like that of any kill.
    """

    def __init__(self, work: Callable[[], Checkpoint]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self._checkpoint: Checkpoint | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work; what it raises is kept for `result`."""
        try:
            self._checkpoint = self._work()
        except BaseException as error:  # noqa: BLE001 (it is raised in the thread of the run)
            self._error = error

    def result(self) -> Checkpoint:
        """Wait for the checkpoint, or raise what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._checkpoint is not None
        return self._checkpoint
