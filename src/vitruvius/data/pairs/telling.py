"""Whether prepared data consists of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitruvius.data.packing.index import read_index
from vitruvius.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def is_pairs(data: Path | str) -> bool:
    """Whether it does. Raises DataError when it is no prepared data."""
    return isinstance(read_index(data).get("pairs"), dict)


def ensure_pairs(data: Path | str) -> None:
    """Raise DataError when it does not."""
    if not is_pairs(data):
        raise DataError(
            "this data is running text, and has no pairs",
            where=str(data),
            fix="name data that `vitruvius data pairs` wrote",
        )


def ensure_running_text(data: Path | str) -> None:
    """Raise DataError when it does, where texts are to be cut in halves."""
    if is_pairs(data):
        raise DataError(
            "this data consists of pairs, and continuation cuts running text in halves",
            where=str(data),
            fix="--set train.objective=seq2seq",
        )
