"""A process that trains the runs of a sweep, one after the other: what `sweeping_jobs` starts.

On its standard input comes a run a line, as JSON; on its standard output goes what happens, as JSON lines. When the
input ends, so does the process: in the middle of a run with a checkpoint.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, final

from vitruvius.errors import VitruviusError
from vitruvius.training.stopping import stop_on_signals

if TYPE_CHECKING:
    from typing import BinaryIO

    from vitruvius.runs import Checkpoint

SECONDS_BETWEEN_ROWS = 0.5


def main() -> int:
    """Train what is asked for until the input ends."""
    told = _Voice(os.dup(1))
    os.dup2(2, 1)  # whatever else prints must not be taken for a message
    tasks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    told.say(kind="ready")
    while (task := tasks.get()) is not None:
        told.say(**_done(task, told))
    return 0


def _listen(stream: BinaryIO, tasks: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Put tasks into the queue; when whoever gives them is gone, ask the run to stop as SIGTERM does."""
    for line in stream:
        tasks.put(json.loads(line))
    tasks.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _done(task: dict[str, Any], told: _Voice) -> dict[str, Any]:
    """Train one run, new or begun; how it ended."""
    from vitruvius.spec import from_plain
    from vitruvius.training.checking import from_plain as config_from_plain
    from vitruvius.training.session import resume, train

    listener = _Teller(told)
    try:
        with stop_on_signals() as stop:
            if task["resume"]:
                result = resume(task["run"], data=task["data"], listener=listener, stop=stop)
            else:
                result = train(
                    from_plain(task["spec"]),
                    data=task["data"],
                    out=task["run"],
                    config=config_from_plain(task["config"]),
                    spec_text=task["spec_text"],
                    command=task["command"],
                    listener=listener,
                    stop=stop,
                )
    except Exception as error:  # noqa: BLE001  (a failed run is recorded, and the next one begins)
        return {"kind": "failed", "error": _explained(error)}
    return {"kind": "done", "status": result.status}


def _explained(error: Exception) -> str:
    """What went wrong, in a few words; of a bug of ours its kind too, and on standard error where it came from."""
    if isinstance(error, VitruviusError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


@final
class _Voice:
    """Writes messages, a line each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, **message: Any) -> None:
        """One message; nobody may be there to hear it."""
        data = (json.dumps(message) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return


@final
class _Teller:
    """A listener that passes on how far the run is, now and then."""

    def __init__(self, voice: _Voice) -> None:
        self._voice = voice
        self._last = float("-inf")

    def started(self, *, step: int, steps: int) -> None:
        """Where it begins."""
        self._voice.say(kind="step", step=step, steps=steps, loss=None)

    def row(self, row: dict[str, Any]) -> None:
        """An update, when it is time."""
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_ROWS:
            self._last = now
            self._voice.say(kind="step", step=row["step"], steps=None, loss=repr(row["loss"]))

    def saved(self, checkpoint: Checkpoint) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Warnings are worth knowing; the rest is said of each run by itself."""
        if text.startswith("warning: "):
            self._voice.say(kind="note", text=text)

    def ended(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    sys.exit(main())
