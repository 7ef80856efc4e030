"""One writer per run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, final

from vitruvius.errors import RunError, RunLockedError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME = ".lock"


@final
class FolderLock:
    """An exclusive lock on a folder, held until `release` or until the process ends, however it ends.

    The kernel holds the lock (flock), not the file's existence, so a lock file left by a dead process is
    never in the way. What the file says (process, host, since when) is only for the error message.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, directory: Path) -> None:
        """Take the lock of `directory`.

        Raises:
            RunLockedError: another process holds it, or this process holds it already.
            RunError: nothing can be written there.
        """
        self.path = directory / LOCK_NAME
        try:
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(
                f"the folder cannot be written to: {error.strerror}",
                where=str(directory),
                fix="check the permissions of the folder and its .lock, or use a copy of it elsewhere",
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self.path)
            self.release()
            raise RunLockedError(
                f"another run is writing to this folder ({holder})",
                where=str(directory),
                fix="wait for it or stop it, or choose another folder",
            ) from None
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (json.dumps(owner) + "\n").encode(), 0)

    def release(self) -> None:
        """Let the next run in; doing so twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(directory: Path) -> bool:
    """Whether some process holds the lock of `directory`; nothing is written. Another host's lock may not be seen."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(path.read_bytes())
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    return "process unknown"
