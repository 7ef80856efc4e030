"""Counting names in bounded memory: exact while there are few of them, and within a stated bound beyond."""

from __future__ import annotations

from typing import Any, final

MOST_NAMES = 1 << 17
"""Names that are counted apart at a time."""


@final
class Tally:
    """How often names occur. Past `limit` names the rarer half is forgotten, and how much that can matter is known.

    A count is never too high, and too low by at most `short_by`.
    """

    __slots__ = ("_counts", "_limit", "short_by", "total")

    def __init__(self, *, limit: int = MOST_NAMES) -> None:
        self._counts: dict[str, int] = {}
        self._limit = limit
        self.short_by = 0
        """By how much any count may be too low; 0 while every count is exact."""
        self.total = 0
        """Names counted, with repeats."""

    def add(self, name: str, count: int = 1) -> None:
        """Count a name."""
        self.total += count
        self._counts[name] = self._counts.get(name, 0) + count
        if len(self._counts) > self._limit:
            self._forget()

    def _forget(self) -> None:
        """Drop every name that is no more frequent than the median: it may come back, short by that much."""
        median = sorted(self._counts.values())[len(self._counts) // 2]
        self._counts = {name: count for name, count in self._counts.items() if count > median}
        self.short_by += median

    def summary(self, most: int) -> dict[str, Any]:
        """The most frequent names, and what is known of the others."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return {
            "counted": self.total,
            "distinct": len(ordered) if self.short_by == 0 else None,
            "distinct_at_least": len(ordered),
            "short_by_at_most": self.short_by,
            "top": [{"name": name, "count": count} for name, count in ordered[:most]],
        }
