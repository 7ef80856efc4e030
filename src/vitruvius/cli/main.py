"""The entry of the `vitruvius` command: run the front inside one guard, and leave with an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType

NAME = "vitruvius"
_INTERRUPTED = threading.Event()
"""Whether somebody pressed Ctrl-C."""
_TORCH = f"{os.sep}torch{os.sep}__init__.py"


def main() -> int:
    """Run the process's own arguments: what the installed `vitruvius` script calls. Returns the exit code."""
    sys.excepthook = _quiet_when_interrupted
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        signal.signal(signal.SIGINT, _interrupt)
    # Threads that wait by spinning take the processor from the ones they wait for: on a busy machine a training step
    # was seen to take five times as long. OpenMP reads this when torch loads it; what the user has set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code = run(sys.argv[1:])
    _let_go_of_stderr()
    # Nothing is left to save: a second Ctrl-C ends the process at once instead of interrupting its shutdown.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def run(argv: Sequence[str]) -> int:
    """Run `vitruvius` with `argv` and return its exit code.

    Nothing escapes: every exception becomes a message on stderr and one of the codes that `failures` lists.
    """
    try:
        code = _dispatch(list(argv))
        # What is still buffered must fail here, inside the guard, and not while the interpreter leaves.
        _flush_stdout()
    except BaseException as error:  # noqa: BLE001  (this is the guard)
        from vitruvius.cli.failures import report

        code = report(error, interrupted=_INTERRUPTED.is_set())
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, remembered: libraries clear it, and what fails after that is no bug.

    torch, while it loads itself, clears it from C++, or aborts: nothing has begun there, so the process leaves at once.
    """
    _INTERRUPTED.set()
    if _loads_torch(frame):
        from vitruvius.cli.failures import INTERRUPTED

        os._exit(INTERRUPTED)
    signal.default_int_handler(number, frame)


def _loads_torch(frame: FrameType | None) -> bool:
    """Whether the body of the package torch is running."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and code.co_filename.endswith(_TORCH):
            return True
        frame = frame.f_back
    return False


def _dispatch(argv: list[str]) -> int:
    import click

    from vitruvius.cli.completion import VARIABLE
    from vitruvius.cli.front import front

    _never_fail_to_encode()
    if instruction := os.environ.get(VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(front, {}, NAME, VARIABLE, instruction)
    try:
        with front.make_context(NAME, argv) as ctx:
            result = front.invoke(ctx)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _flush_stdout() -> None:
    stdout = sys.__stdout__ if sys.stdout is None else sys.stdout  # pyright: ignore[reportUnnecessaryComparison]
    if stdout is None:  # a process may be started without one
        return
    try:
        stdout.flush()
    except OSError as error:
        from vitruvius.cli.output import STDOUT

        error.filename = STDOUT
        raise


def _let_go_of_stderr() -> None:
    """Where nobody hears what was said (a full disk, a closed terminal), the exit code stays."""
    from vitruvius.cli.output import abandon

    abandon(sys.stderr)


def _never_fail_to_encode() -> None:
    """Escape what the terminal's encoding lacks, instead of failing in the middle of a line."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _quiet_when_interrupted(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """For the Ctrl-C that arrives while the first one is being handled."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, value, trace)


if __name__ == "__main__":
    sys.exit(main())
