"""Spans of time as people say them."""

from __future__ import annotations

from vitruvius.report.run_live import clock

_MINUTE = 60


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `2:10`, `1:02:03`."""
    return f"{seconds:.3g} s" if seconds < _MINUTE else clock(seconds)
