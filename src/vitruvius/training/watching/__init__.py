"""Looking at a run while it goes: measures that are taken now and then, and the places that rows are told to.

Nothing here changes what a run computes: weights are the same to the bit with and without.
"""

from __future__ import annotations

from vitruvius.training.watching.sinks import require_sinks, with_sinks
from vitruvius.training.watching.watcher import Watcher

__all__ = ["Watcher", "require_sinks", "with_sinks"]
