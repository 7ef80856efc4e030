"""Batches read ahead by processes of their own: started fresh, without torch, and gone when the run is."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import DataError, RunError, UsageError, VitruviusError
from vitruvius.training.loading.memory import Layout, SharedMemory
from vitruvius.training.loading.worker import QUIET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitruvius.data.packing.batches import Batch
    from vitruvius.training.loading.reading import Reader
    from vitruvius.training.loading.recipe import Recipe

_GLANCE = 0.2
"""Seconds between two looks at a worker that is waited for."""
OPENING = 10
"""How many times as long a worker may take to open the data."""
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from vitruvius.training.loading.worker import main"
_KINDS: dict[str, type[VitruviusError]] = {"DataError": DataError, "UsageError": UsageError}


@final
class ProcessWorkers:
    """Workers that are processes, and the memory that they put batches into.

    Each has slots of its own and does what it is asked in order, so that no slot is written by two.
    """

    def __init__(
        self,
        reader: Reader,
        recipe: Recipe,
        *,
        workers: int,
        ahead: int,
        timeout: float,
        only: Sequence[int] | None,
    ) -> None:
        """Start them. Raises RunError when the system has no room for them."""
        self._reader = reader
        self._only = None if only is None else list(only)
        self._timeout = timeout
        self._per_worker = -(-ahead // workers)
        samples = reader.batches.batch if self._only is None else len(self._only)
        layout = Layout(
            workers=workers, slots=workers * self._per_worker, samples=samples, context=reader.batches.context
        )
        self._memory = SharedMemory.made(layout)
        self._processes: list[_Process] = []
        self._finalizer = weakref.finalize(self, _end, self._processes, os.getpid())
        order = {"recipe": recipe.to_plain(), "memory": self._memory.descriptor, "only": self._only}
        order["layout"] = {name: getattr(layout, name) for name in ("workers", "slots", "samples", "context")}
        try:
            for number in range(workers):
                self._processes.append(_Process(number, order))
        except OSError as error:
            self.close()
            what = f"worker {len(self._processes)} cannot be started: {error.strerror or error}"
            raise RunError(what, where="train.loader.workers", fix="use fewer workers, or make room") from None
        self._generation = 0
        self._asked = 0
        self._owners: dict[int, tuple[_Process, int]] = {}
        self._answers: dict[int, dict[str, Any]] = {}

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return [process.pid for process in self._processes]

    def ask(self, number: int) -> None:
        """Have a batch read."""
        process = self._processes[self._asked % len(self._processes)]
        slot = process.number * self._per_worker + self._asked // len(self._processes) % self._per_worker
        self._asked += 1
        self._owners[number] = (process, slot)
        process.ask({"number": number, "slot": slot, "generation": self._generation})

    def take(self, number: int) -> Batch:
        """Wait for a batch that was asked for.

        Raises:
            DataError, RunError: what reading it raised; or its worker has died or does not go on.
        """
        process, slot = self._owners.pop(number)
        answer = self._answers.pop(number, None) or self._wait(process, number)
        if "error" in answer:
            raise _error(answer["error"])
        return self._memory.get(slot, answer["shape"])

    def drop(self) -> None:
        """Forget everything that was asked for; workers pass over it."""
        self._generation += 1
        self._memory.generation = self._generation
        self._owners.clear()
        self._answers.clear()
        self._asked = 0

    def close(self) -> None:
        """End the processes; there is nothing in them to be lost."""
        self._finalizer()
        with contextlib.suppress(BufferError, ValueError):
            self._memory.close()

    def _wait(self, process: _Process, number: int) -> dict[str, Any]:
        signs, since = -1, time.monotonic()
        while True:
            for answer in process.answers(_GLANCE):
                since = time.monotonic()
                if "error" in answer and "number" not in answer:
                    raise _error(answer["error"])  # it could not open the data
                if "ready" in answer:
                    process.ready = True
                elif answer["generation"] == self._generation:
                    self._answers[answer["number"]] = answer
            if number in self._answers:
                return self._answers.pop(number)
            if process.ended():
                raise self._lost(process, number)
            seen, now = self._memory.marked(process.number)[0], time.monotonic()
            if seen != signs:
                signs, since = seen, now
            limit = self._timeout * (1 if process.ready else OPENING)
            if now - since > limit:
                raise self._stuck(process, number, limit)

    def _where(self, process: _Process, number: int) -> str:
        """What a worker was at, as far as it has said."""
        if not process.ready:
            return "while it opened the data"
        signs, at, place = self._memory.marked(process.number)
        at, place = (at, place) if signs and at <= number else (number, self._only[0] if self._only else 0)
        with contextlib.suppress(VitruviusError):
            return f"at {self._reader.place(at, place)}, in batch {at:,}"
        return f"in batch {at:,}"

    def _lost(self, process: _Process, number: int) -> RunError:
        code = process.code
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = {
            int(
                signal.SIGKILL
            ): "the system ends processes so when memory is short: use fewer workers or a smaller ahead",
            int(signal.SIGBUS): "a file that is read was shortened, or its disk failed: restore the data",
        }.get(-code, "a hook may have ended it")
        what = f"worker {process.number} (process {process.pid}) has died ({how}) {self._where(process, number)}"
        return RunError(what, where="train.loader", fix=f"{why}; then go on with --resume")

    def _stuck(self, process: _Process, number: int, limit: float) -> RunError:
        where = self._where(process, number)
        what = f"worker {process.number} (process {process.pid}) has not gone on for {limit:g} seconds {where}"
        fix = "look at the disk and at the hooks of train.preprocess, or raise train.loader.timeout"
        return RunError(what, where="train.loader", fix=f"{fix}; then go on with --resume")


@final
class _Process:
    """A worker as the run sees it."""

    def __init__(self, number: int, order: dict[str, Any]) -> None:
        self.number = number
        self.ready = False
        self._unread = b""
        alive_there, self._alive = os.pipe()
        self._answers, answers_there = os.pipe()
        # What reaches every process of a terminal waits until the worker has said that it does not want it.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)
        try:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, "-c", f"{_START}; sys.exit(main())", json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                pass_fds=(alive_there, answers_there, order["memory"]),
            )
        except BaseException:
            for descriptor in (self._alive, self._answers):
                os.close(descriptor)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            for descriptor in (alive_there, answers_there):
                os.close(descriptor)
        os.set_blocking(self._answers, False)
        self.pid = self._process.pid
        self.ask({**order, "alive": alive_there, "answers": answers_there, "worker": number})

    def ask(self, order: dict[str, Any]) -> None:
        """Send a line. One that has died is found out when it is waited for."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            self._process.stdin.flush()

    def answers(self, seconds: float) -> list[dict[str, Any]]:
        """What it has said since the last call; waits so long for a first word."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._answers, 1 << 16):
                self._unread += chunk
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def ended(self) -> bool:
        """Whether it has died."""
        return self._process.poll() is not None

    @property
    def code(self) -> int:
        """How it ended; the negative of a signal."""
        code = self._process.poll()
        assert code is not None
        return code

    def end(self) -> None:
        """End it and let go of its pipes."""
        assert self._process.stdin is not None
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        for descriptor in (self._alive, self._answers):
            os.close(descriptor)


def _end(processes: list[_Process], owner: int) -> None:
    # A fork of the run has the same objects, and they are not its own.
    if os.getpid() == owner:
        while processes:
            processes.pop().end()


def _error(told: dict[str, str]) -> VitruviusError:
    kind = _KINDS.get(told["kind"], RunError)
    return kind(told["what"], where=told["where"], fix=told["fix"])
