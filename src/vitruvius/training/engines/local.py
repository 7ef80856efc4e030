"""One process by itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, final, override

from vitruvius.training.engines.base import Engine
from vitruvius.training.engines.launch import Launch, agreed_launch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vitruvius.training.config import TrainConfig
    from vitruvius.training.master import MasterOptimizer
    from vitruvius.training.settings import EngineSettings
    from vitruvius.training.stopping import StopRequest


@final
class LocalEngine(Engine):
    """The only process: everything is here already, and nothing is copied."""

    def __init__(self) -> None:
        super().__init__(Launch())
