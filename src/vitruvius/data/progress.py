"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is, from time to time."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` (None when nobody knows) in `stage`."""
        ...
