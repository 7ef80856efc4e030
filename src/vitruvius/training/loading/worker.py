"""A worker process: reads `{"number", "slot", "generation"}` lines, puts each batch into shared memory and says so.

It ends when the run does, however that ends: nobody ever writes into the pipe `alive`, and when the run is gone the
system closes it. On Linux the kernel then sends a signal that ends the worker even inside C code that holds Python's
lock; elsewhere a thread notices.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from vitruvius.errors import VitruviusError

if TYPE_CHECKING:
    from vitruvius.training.loading.memory import SharedMemory
    from vitruvius.training.loading.reading import Reader

QUIET = (signal.SIGINT, signal.SIGTERM)
"""They reach every process of a terminal or a job; the run decides what comes of them."""
LONGEST_TEXT = 4000
"""Characters of an error that are told."""


def main() -> int:
    """Work until the run is gone or wants nothing more."""
    for number in QUIET:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, QUIET)
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not order:
        return 0
    _end_with(order["alive"])
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a hook prints is no data
    answers = os.fdopen(order["answers"], "w", encoding="utf-8")
    from vitruvius.training.loading.memory import Layout, SharedMemory
    from vitruvius.training.loading.recipe import Recipe

    memory = SharedMemory(Layout(**order["layout"]), order["memory"])
    try:
        reader = Recipe.from_plain(order["recipe"]).reader()
    except Exception as error:  # noqa: BLE001 (told to the run)
        _answer(answers, {"error": told(error)})
        return 1
    _answer(answers, {"ready": os.getpid()})
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if asked["generation"] != memory.generation:
            answer = {"number": asked["number"], "generation": asked["generation"], "dropped": True}
        else:
            answer = _read(reader, memory, order["worker"], order["only"], asked)
        _answer(answers, answer)
    return 0


def _read(
    reader: Reader, memory: SharedMemory, worker: int, only: list[int] | None, asked: dict[str, Any]
) -> dict[str, Any]:
    answer = {"number": asked["number"], "generation": asked["generation"], "slot": asked["slot"]}
    try:
        batch = reader.read(asked["number"], only, lambda number, place: memory.mark(worker, number, place))
        return {**answer, "shape": memory.put(asked["slot"], batch)}
    except Exception as error:  # noqa: BLE001 (told to the run)
        return {**answer, "error": told(error)}


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    # The run is gone where nobody listens: then this process is on its way out too.
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def told(error: Exception) -> dict[str, str]:
    """An error as JSON data."""
    if isinstance(error, VitruviusError):
        parts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    else:
        traceback.print_exc()
        what = f"a worker met an error of its own: {type(error).__name__}: {error}"
        fix = "its trace is on standard error; this is a bug, please report it"
        if isinstance(error, MemoryError):
            what, fix = "a worker ran out of memory", "use fewer train.loader.workers"
        parts = {"kind": "RunError", "what": what, "where": "", "fix": fix}
    return {name: text.encode("utf-8", "replace").decode()[:LONGEST_TEXT] for name, text in parts.items()}


def _end_with(alive: int) -> None:
    """End this process when the other end of the pipe is closed."""

    def listen() -> None:
        os.read(alive, 1)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    if sys.platform == "linux":
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
        fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    sys.exit(main())
