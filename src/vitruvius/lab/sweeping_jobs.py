"""Several runs at a time, each in a process of its own, with a stop that reaches all of them. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vitruvius.training.stopping import StopRequest

WORKER = ("-m", "vitruvius.lab.sweeping_worker")
"""What Python is told to run in each process."""
_LOOK = 0.2
"""Seconds between looks at the request to stop."""
_LONGEST = 1 << 20
"""Bytes of a message; what is longer is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run to train."""

    name: str
    """For people."""
    order: dict[str, Any]
    """What the process is told."""


class JobListener(Protocol):
    """Told how the jobs go."""

    def began(self, task: Task) -> None:
        """A process takes the run on."""
        ...

    def stepped(self, task: Task, step: int, loss: float | None) -> None:
        """So many updates are done."""
        ...

    def noted(self, task: Task, text: str) -> None:
        """A warning of the run."""
        ...

    def ended(self, task: Task, status: str, error: str | None) -> None:
        """`finished`, `stopped` or `failed`."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    task: Task | None = None
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


@final
class Jobs:
    """Processes that train runs; each takes the next when it is done with one."""

    def __init__(self, *, jobs: int, threads: int | None, logs: Path, listener: JobListener) -> None:
        self._jobs, self._threads, self._logs, self._listener = jobs, threads, logs, listener
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._waiting: deque[Task] = deque()
        self._numbers = 0
        self._stopping = False

    def run(self, tasks: Iterable[Task], stop: StopRequest) -> None:
        """Train all of them, or until asked to stop; then those that are being trained save and end.

        An error in one is told to the listener, and the others go on. No process is left behind, whatever happens.
        """
        self._waiting.extend(tasks)
        self._logs.mkdir(exist_ok=True)
        try:
            while (self._waiting and not self._stopping) or any(worker.task for worker in self._workers):
                if stop.asked and not self._stopping:
                    self._ask_to_stop()
                self._hand_out()
                for key, _ in self._selector.select(_LOOK):
                    self._hear(key.data)
        finally:
            self._end()

    def _hand_out(self) -> None:
        """Give waiting tasks to idle processes, starting them as far as there may be more."""
        while self._waiting and not self._stopping:
            worker = next((worker for worker in self._workers if worker.task is None), None)
            if worker is None:
                if len(self._workers) >= self._jobs:
                    return
                worker = self._started()
            task = self._waiting.popleft()
            worker.task = task
            self._listener.began(task)
            assert worker.process.stdin is not None
            with contextlib.suppress(OSError):  # it is gone: its end is heard next
                worker.process.stdin.write((json.dumps(task.order) + "\n").encode())
                worker.process.stdin.flush()

    def _started(self) -> _Worker:
        log = self._logs / f"job-{self._numbers}.txt"
        self._numbers += 1
        environment = dict(os.environ)
        if self._threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with log.open("ab") as errors:
            process = subprocess.Popen(  # noqa: S603  (this interpreter, and a module of ours)
                [sys.executable, *WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                # Ctrl-C in a terminal reaches us alone; we say when they stop.
                start_new_session=True,
            )
        worker = _Worker(process=process, log=log)
        os.set_blocking(worker.output.fileno(), False)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _hear(self, worker: _Worker) -> None:
        """Take in what a process has said; where it is gone, its run has failed, or stopped when it was asked to."""
        try:
            data = worker.output.read(1 << 16)
        except BlockingIOError:
            return
        if data is None:
            return
        worker.buffer += data
        while (end := worker.buffer.find(b"\n")) >= 0:
            line = bytes(worker.buffer[:end])
            del worker.buffer[: end + 1]
            self._message(worker, json.loads(line))
        if not data or len(worker.buffer) > _LONGEST:
            self._gone(worker)

    def _message(self, worker: _Worker, message: dict[str, Any]) -> None:
        task, kind = worker.task, message["kind"]
        if task is None or kind == "ready":
            return
        if kind == "step":
            loss = None if message["loss"] is None else float(message["loss"])
            self._listener.stepped(task, message["step"], loss)
        elif kind == "note":
            self._listener.noted(task, message["text"])
        else:
            worker.task = None
            status = message["status"] if kind == "done" else "failed"
            self._listener.ended(task, status, message.get("error"))

    def _gone(self, worker: _Worker) -> None:
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        worker.process.kill()
        code = worker.process.wait()
        _close(worker)
        if worker.task is None:
            return
        if self._stopping and code in {-signal.SIGTERM, 0}:  # before its run had begun
            self._listener.ended(worker.task, "stopped", None)
        else:
            self._listener.ended(worker.task, "failed", _last_words(worker.log, code))
        worker.task = None

    def _ask_to_stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker.task is not None:
                worker.process.terminate()

    def _end(self) -> None:
        """Let the processes go: idle ones end by themselves, any other is killed."""
        for worker in self._workers:
            if worker.task is not None:  # an error of ours, or a second Ctrl-C
                worker.process.kill()
            assert worker.process.stdin is not None
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        for worker in self._workers:
            try:
                worker.process.wait(10)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            _close(worker)
        self._workers.clear()
        self._selector.close()


def _close(worker: _Worker) -> None:
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _last_words(log: Path, code: int) -> str:
    """How a process ended that did not say so itself."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        why = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"the process was ended by {name}{why}"
    with contextlib.suppress(OSError):
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return f"the process ended with code {code}: {lines[-1][:300]}"
    return f"the process ended with code {code}"
