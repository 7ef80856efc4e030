"""Reading a log that another process writes: only what is new, and all of it again when the file is another one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

from vitruvius.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a look at a log brought."""

    rows: tuple[dict[str, Any], ...]
    """New rows, oldest first."""
    is_anew: bool
    """Whether the file was replaced or cut since the last look: `rows` are then all there are, and older ones void."""


@final
class Following:
    """A log of JSON lines that grows; a last line without its end is read when it has one."""

    __slots__ = ("_identity", "_lines", "_offset", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._lines = 0
        self._identity: tuple[int, int] | None = None

    def news(self) -> News:
        """What was added since the last look; a missing file has no rows.

        Raises RunError for a whole line that is no JSON object.
        """
        if self.path.exists() and not self.path.is_file():  # opening a pipe would wait for a writer for ever
            raise RunError("this is not a regular file", where=str(self.path), fix="put the log back from a copy")
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return News(rows=(), is_anew=False)
        with file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            is_anew = self._identity is not None and (identity != self._identity or status.st_size < self._offset)
            if is_anew or self._identity is None:
                self._offset = self._lines = 0
            self._identity = identity
            file.seek(self._offset)
            rows: list[dict[str, Any]] = []
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._lines += 1
                self._offset += len(line)
                rows.append(self._row(line))
        return News(rows=tuple(rows), is_anew=is_anew)

    def _row(self, line: bytes) -> dict[str, Any]:
        try:
            row: object = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RunError(
                "this line is not a JSON object",
                where=f"{self.path}:{self._lines}",
                fix="delete the line; rows are only ever appended, so it was changed afterwards",
            )
        return cast("dict[str, Any]", row)
