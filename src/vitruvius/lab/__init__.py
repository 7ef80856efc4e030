"""Many runs that answer one question.

    from vitruvius.lab import REPRODUCTIONS, reproduce

    report = reproduce(REPRODUCTIONS["flip-flop"], out="reproduce-flip-flop", seeds=3)

torch is imported when the first run starts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.lab.arms import reproduce as reproduce
    from vitruvius.lab.reproductions import REPRODUCTIONS as REPRODUCTIONS

__all__ = ["REPRODUCTIONS", "reproduce"]

_HOME = {"REPRODUCTIONS": "vitruvius.lab.reproductions", "reproduce": "vitruvius.lab.arms"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
