"""Arrays that grow with the data, in memory as long as they are short."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, cast, final

from vitruvius.errors import DataError

if TYPE_CHECKING:
    from typing import BinaryIO

    import numpy as np

MAPPED_FROM = 1 << 20
"""Numbers: of a longer array the operating system keeps in memory what is read, and no more."""


@final
class Growing:
    """An int64 array that grows: in memory as long as it is short, then in a temporary file without a name."""

    __slots__ = ("_file", "_length", "_parts")

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._file: BinaryIO | None = None
        self._length = 0

    def add(self, part: np.ndarray) -> None:
        """Append numbers.

        Raises:
            DataError: the temporary folder is full; says how much room it takes.
        """
        import numpy as np

        self._parts.append(part.astype(np.int64, copy=False))
        self._length += len(part)
        if self._length <= MAPPED_FROM:
            return
        try:
            if self._file is None:
                self._file = cast("BinaryIO", tempfile.TemporaryFile(prefix="vitruvius-packing-"))  # noqa: SIM115
            for held in self._parts:
                self._file.write(np.ascontiguousarray(held).data)
        except OSError as error:
            raise DataError(
                f"the plan of the samples cannot be written: {error.strerror}",
                where=tempfile.gettempdir(),
                fix=f"make room there, or set TMPDIR to a folder with {8 * self._length:,} bytes or more",
            ) from None
        self._parts = []

    def array(self) -> np.ndarray:
        """All of it; mapped, where it is long. The file goes when nobody holds the array any more."""
        import numpy as np

        if self._file is None:
            return np.concatenate([np.empty(0, dtype=np.int64), *self._parts])
        with self._file:
            self._file.flush()
            return np.asarray(np.memmap(self._file, dtype=np.int64, mode="r"))
