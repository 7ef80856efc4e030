"""From token shards to a trained model: the loop, its checkpoints, its objectives.

    from vitruvius.training import TrainConfig, train, resume

    result = train(architecture, data="data/books", out="runs/first", config=TrainConfig(steps=1000))
    result = resume("runs/first")

torch is imported when a run starts, so that configuring and planning one is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitruvius.training.config import TrainConfig as TrainConfig
    from vitruvius.training.session import TrainResult as TrainResult
    from vitruvius.training.session import begin as begin
    from vitruvius.training.session import resume as resume
    from vitruvius.training.session import train as train

__all__ = ["TrainConfig", "TrainResult", "begin", "resume", "train"]

_HOME = {
    "TrainConfig": "vitruvius.training.config",
    "TrainResult": "vitruvius.training.session",
    "begin": "vitruvius.training.session",
    "resume": "vitruvius.training.session",
    "train": "vitruvius.training.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
