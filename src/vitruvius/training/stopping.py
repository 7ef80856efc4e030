"""Being asked to stop: the first signal finishes the step and saves, a second Ctrl-C leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130} | ({signal.SIGHUP: 75} if hasattr(signal, "SIGHUP") else {})
"""Signal -> exit code of a run that it stopped and that can be resumed."""

_ANNOUNCEMENT = {
    signal.SIGTERM: b"\nSIGTERM: saving a checkpoint, then leaving\n",
    signal.SIGINT: b"\ninterrupted: saving a checkpoint, then leaving (Ctrl-C again leaves at once)\n",
}
_CLOSED = b"\nthe terminal is gone: saving a checkpoint, then leaving\n"


@final
class StopRequest:
    """Whether someone asked the run to stop, and how."""

    __slots__ = ("signal",)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal that asked, or None while nobody has."""

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def ask(self, number: int) -> None:
        """Ask the run to stop, as the signal `number` does."""
        self.signal = self.signal or signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """0 when nobody asked."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]


_LISTENING: list[StopRequest] = []
"""The requests that signals fill in now."""


def signalled() -> bool:
    """Whether a signal has asked this process to stop, whatever the others that train with it know of it."""
    return any(request.asked for request in _LISTENING)


@contextlib.contextmanager
def stop_on_signals() -> Generator[StopRequest]:
    """A request that SIGTERM, Ctrl-C and a closed terminal (SIGHUP) fill in; former handlers come back at its end.

    A signal that is ignored, as SIGHUP is under nohup, stays so, but for Ctrl-C. Signals reach only a process's main
    thread; in another one the request is never filled in.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request.asked:
            request.ask(number)
            # Not print: the signal may have come in the middle of one.
            with contextlib.suppress(OSError):
                os.write(2, _ANNOUNCEMENT.get(signal.Signals(number), _CLOSED))

    ignored = {number for number in EXIT_CODES if signal.getsignal(number) is signal.SIG_IGN} - {signal.SIGINT}
    before = {number: signal.signal(number, handle) for number in EXIT_CODES if number not in ignored}
    _LISTENING.append(request)
    try:
        yield request
    finally:
        _LISTENING.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)
