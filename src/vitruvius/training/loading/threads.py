"""Batches read ahead by threads of the run: numpy copies and waits for the disk without Python's lock."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, final

from vitruvius.errors import RunError, VitruviusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.data.packing.batches import Batch
    from vitruvius.training.loading.reading import Reader


@final
class ThreadWorkers:
    """Workers that are threads. They are daemons: one that hangs does not keep the process from ending."""

    def __init__(self, reader: Reader, *, workers: int, timeout: float, only: Sequence[int] | None) -> None:
        self._reader = reader
        self._timeout = timeout
        self._only = only
        self._orders: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._generation = 0
        self._done: dict[int, Batch | Exception] = {}
        self._at: dict[int, tuple[int, int]] = {}
        """Batch -> worker and sample that is being read of it."""
        self._signs = 0
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"vitruvius-loader-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, number: int) -> None:
        """Have a batch read."""
        self._orders.put((number, self._generation))

    def take(self, number: int) -> Batch:
        """Wait for a batch that was asked for.

        Raises:
            DataError, RunError: what reading it raised; or its worker does not go on.
        """
        with self._changed:
            signs, since = self._signs, time.monotonic()
            while number not in self._done:
                self._changed.wait(0.2)
                now = time.monotonic()
                if self._signs != signs:
                    signs, since = self._signs, now
                if now - since > self._timeout and number not in self._done:
                    raise self._stuck(number)
            found = self._done.pop(number)
        if isinstance(found, Exception):
            raise found
        return found

    def drop(self) -> None:
        """Forget everything that was asked for."""
        with self._changed:
            self._generation += 1
            self._done.clear()
            self._at.clear()

    def close(self) -> None:
        """Let the threads end when they have done what they are at."""
        self.drop()
        for _ in self._threads:
            self._orders.put(None)

    def _work(self, worker: int) -> None:
        def mark(number: int, place: int) -> None:
            self._at[number] = worker, place
            self._signs += 1

        while (order := self._orders.get()) is not None:
            number, generation = order
            if generation != self._generation:
                continue
            found: Batch | Exception
            try:
                found = self._reader.read(number, self._only, mark)
            except Exception as error:  # noqa: BLE001 (raised where the batch is due)
                found = error
            with self._changed:
                if generation == self._generation:
                    self._done[number] = found
                    self._at.pop(number, None)
                    self._changed.notify_all()

    def _stuck(self, number: int) -> RunError:
        worker, place = self._at.get(number, (None, self._only[0] if self._only else 0))
        where = f"in batch {number:,}"
        with contextlib.suppress(VitruviusError):
            where = f"at {self._reader.place(number, place)}, in batch {number:,}"
        who = "no worker (thread)" if worker is None else f"worker {worker} (a thread)"
        goes = "has come to it" if worker is None else "has not gone on"
        fix = "look at the disk and at the hooks of train.preprocess, or raise train.loader.timeout"
        return RunError(
            f"{who} {goes} for {self._timeout:g} seconds {where}",
            where="train.loader",
            fix=f"{fix}; then go on with --resume",
        )
