"""JSON lines that grow by appending and survive being cut anywhere."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.errors import RunError
from vitruvius.runs.files import CHUNK_BYTES, encodable_json, not_written, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@final
class LineLog:
    """A file of one JSON object per line, opened for appending.

    Each row is one write, so a killed process leaves at most one torn line, the last; opening the log
    again drops it.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it if needed, and drop a torn last line."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._descriptor, _end_of_last_line(self._descriptor))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row. NaN and infinities become null and are named under `non_finite`, so each line is JSON.

        Raises:
            RunError: it cannot be written (disk full); no part of it stays, and the rows before it are intact.
        """
        data = (encodable_json(finite(row)) + "\n").encode()
        try:
            end = os.fstat(self._descriptor).st_size
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except BaseException:
                # Half a line, once others follow it, is damage.
                os.ftruncate(self._descriptor, end)
                raise
        except OSError as error:
            raise not_written(self.path, error) from None

    def sync(self) -> None:
        """Wait until every row so far is on the disk. Raises RunError when it does not get there."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise not_written(self.path, error) from None

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Drop the rows that are not `wanted`, atomically; returns how many were dropped."""
        dropped = 0
        with replacing(self.path) as file:
            for row in read_lines(self.path):
                if wanted(row):
                    file.write((encodable_json(row) + "\n").encode())
                else:
                    dropped += 1
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        return dropped

    def close(self) -> None:
        """Close the file; doing so twice is harmless."""
        # A descriptor is a number that another file gets next, so it must never be closed twice.
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; a torn last line is passed over, a missing file has no rows.

    Raises:
        RunError: a line that is not the last is not a JSON object; names file and line.
    """
    if not path.exists():
        return
    if not path.is_file():  # opening a pipe would wait for a writer for ever
        raise RunError("this is not a regular file", where=str(path), fix="put the log back from a copy")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise RunError(
                    "this line is not a JSON object",
                    where=f"{path}:{number}",
                    fix="delete the line; rows are only ever appended, so it was changed afterwards",
                )
            yield cast("dict[str, Any]", row)


def _end_of_last_line(descriptor: int) -> int:
    """Offset just past the last newline, found from the end so that a long log opens at once."""
    position = os.fstat(descriptor).st_size
    while position > 0:
        start = max(0, position - CHUNK_BYTES)
        newline = os.pread(descriptor, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that JSON can say: NaN and infinities are null, and stand in words under `non_finite`."""
    clean = dict(row)
    odd = {key: repr(value) for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    clean.update(dict.fromkeys(odd))
    if odd:
        clean["non_finite"] = odd
    return clean
